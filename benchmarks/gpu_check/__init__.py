"""A machine with a GPU, checked in minutes: its tests, speed against peers, likeness of vectors, training, search."""

from benchmarks.kit.about import About

ABOUT = About(
    time="under 7 minutes on an H100 (on two cores, --device cpu --quick: 4 minutes)",
    needs="a GPU; no data and no network; HYBRID_DATA adds real photos",
    also={"gpu_check.markdown": "the tables of a results page from its JSON"},
)
