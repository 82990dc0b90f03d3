"""The embedding store (SQLite, the source of truth) and the neighbor index (FAISS, derived from it)."""
