"""Photos per second of build-index and predict against open_clip and transformers; start, re-run, memory."""

from benchmarks.kit.about import About

ABOUT = About(
    time="11 minutes on an idle machine (--smoke: 1 minute)",
    needs="extra bench; no data",
    also={
        "throughput.cpu_settings": "precision of heads and wait policy of threads on a CPU, 3 minutes",
        "throughput.overhead": "what build-index costs in Python where decoding and encoding are free, 1 minute",
        "throughput.encoder_variants": "ways through the ViT-B/32 image tower on a CPU, 3 minutes",
    },
)
