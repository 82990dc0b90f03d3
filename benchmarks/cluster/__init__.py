"""Embedding in shards: its cost beside build-index, and a Ray cluster that loses a node."""

from benchmarks.kit.about import About

ABOUT = About(
    time="5 minutes, seconds with --images 1000", needs="200 MB of disk for a while; the extra cluster for --ray"
)
