"""Whether answers by a taxonomy keep what `--confident` promises, and how deep they are, beside class or nothing."""

from benchmarks.kit.about import About

ABOUT = About(time="4 minutes for 5 seeds", needs="nothing for drawn photos; vectors (HYBRID_DATA) for real ones")
