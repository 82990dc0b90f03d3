"""Explanation: what an answer rests on, as maps over the photo, nearest photos and numbers."""
