"""The gate against the published ways to join a trained head with CLIP, on cached vectors."""

from benchmarks.kit.about import About

ABOUT = About(
    time="1 minute",
    needs="vectors (--embeddings, or HYBRID_DATA)",
    also={"gzsl.fit_time": "how long the gate's fit takes beside the linear head's, 70 drawn classes, 10 seconds"},
)
