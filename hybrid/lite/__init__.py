"""Answers from a bundle that `hybrid export` wrote, without torch: onnxruntime, numpy and Pillow."""

from hybrid.lite.load import load

__all__ = ["load"]
