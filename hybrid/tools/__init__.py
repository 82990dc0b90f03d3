"""Tools that stand on a run, one package each: search, explain, audit, review, compare, tune.

In each, read the file of the package's name first; in `tune` it is `study`, in `review` `queue`.
"""
