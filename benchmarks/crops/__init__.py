"""Boxes of a detector: whether a photo is decoded once for all of them, how fast, and how memory grows."""

from benchmarks.kit.about import About

ABOUT = About(time="3 minutes, seconds with --photos 200", needs="100 MB of disk for a while; photos are drawn")
