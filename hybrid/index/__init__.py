"""The embedding store (SQLite, the truth) and the neighbor index (FAISS, derived from it)."""
