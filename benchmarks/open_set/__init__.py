"""Rejection and prediction sets: the rejector against the published scores, and which promises are kept."""

from benchmarks.kit.about import About

ABOUT = About(
    time="1 minute",
    needs="vectors (--embeddings, or HYBRID_DATA)",
    also={"open_set.name_vectors": "text vectors of things that are no class, for --negatives"},
)
