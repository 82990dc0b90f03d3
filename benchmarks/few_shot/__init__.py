"""A class from a handful of photos: the default few-shot expert against the published methods, on cached vectors."""

from benchmarks.kit.about import About

ABOUT = About(time="2 minutes", needs="vectors (--embeddings, or HYBRID_DATA)")
