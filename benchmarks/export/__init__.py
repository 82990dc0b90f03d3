"""Bundles by `hybrid.lite` beside the runs that they were made of: differences, images per second, a cold start."""

from benchmarks.kit.about import About

ABOUT = About(time="10 minutes", needs="the extra export; no data")
