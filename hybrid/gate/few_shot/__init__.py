"""Few-shot experts: what knows a class from a handful of images, on cached embeddings."""
