"""Few-shot experts: what knows a class from a handful of photos, on cached embeddings."""
