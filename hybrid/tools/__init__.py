"""Tools that stand on a run: search, explain, audit, compare, tune."""
