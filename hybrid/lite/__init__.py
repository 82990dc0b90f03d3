"""Answers from a bundle that `hybrid export` wrote, without torch: onnxruntime, numpy and Pillow.

Read `load` first: it joins the parts of a bundle to a `HybridClassifier`.
"""

from hybrid.lite.load import load

__all__ = ["load"]
