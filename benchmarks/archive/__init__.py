"""Archives of millions of vectors: build, open, search, classify, memory, beside plain FAISS."""

from benchmarks.kit.about import About

ABOUT = About(
    time="10 minutes for a million rows, two hours for ten", needs="3 KB of disk a row for a while; the extra parquet"
)
