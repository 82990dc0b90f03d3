"""Retrieval: photos of a run's index that are like a photo or a text, found by FAISS."""
