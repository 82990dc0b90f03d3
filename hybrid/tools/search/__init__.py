"""Retrieval: images of a run's index that are like an image or a text, found by FAISS."""
