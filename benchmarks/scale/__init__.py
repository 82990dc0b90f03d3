"""The store and the index as they grow: insert, build, open, update, search, memory, beside plain FAISS."""

from benchmarks.kit.about import About

ABOUT = About(time="2 minutes to 100,000 rows, 20 with a million", needs="8 GB of disk for a million rows; no data")
