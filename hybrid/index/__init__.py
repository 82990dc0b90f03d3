"""The embedding store (SQLite, the source of truth) and the index of nearest neighbors (FAISS, derived from it).

Read `store` first, then `build` (how a store is brought up to date with its sources) and `neighbors` (how it is
searched). The files named ``faiss_*`` keep the index on disk in step with the store.
"""
