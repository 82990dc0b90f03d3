"""Training of a head that reads pixels.

Read `fit` first (what a training does, from settings to a head), then `train` (the loop). `dataset` gives the images;
`decoded` and `features` are the fast ways to batches.
"""
