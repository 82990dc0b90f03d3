"""Encoders: images and texts to embeddings in one space."""

from hybrid.encoders.registry import load_encoder

__all__ = ["load_encoder"]
