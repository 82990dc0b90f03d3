"""A run as one file that answers without torch: networks as ONNX, and all else as data.

Read `bundle` first. What loads and runs the file is `hybrid.lite`.
"""
