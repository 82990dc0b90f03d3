"""Explanation: what an answer rests on, as maps over the image, nearest images and numbers."""
