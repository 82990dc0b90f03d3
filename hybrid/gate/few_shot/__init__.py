"""Few-shot experts: what knows a class from a handful of images, on cached embeddings.

Read `base` first (what every expert offers); `registry` lists them.
"""
