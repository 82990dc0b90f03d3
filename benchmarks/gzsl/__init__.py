"""The gate against the published ways to join a trained head with CLIP, on cached vectors."""

from benchmarks.kit.about import About

ABOUT = About(time="1 minute", needs="vectors (--embeddings, or HYBRID_DATA)")
