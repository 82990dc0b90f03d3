"""Requests per second of `hybrid serve` and how long each takes, against predict on the same photos."""

from benchmarks.kit.about import About

ABOUT = About(time="3 minutes", needs="the extra serve; no data")
