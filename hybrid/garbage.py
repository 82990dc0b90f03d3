"""Seldom full collections of garbage: torch, open_clip and a model are half a million objects that stay.

To search all of them takes a quarter of a second, in which no other thread runs Python, and a GPU has nothing to do.
Python does it again and again while thousands of images are listed and read. What is new is searched as ever.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# How many collections of the middle generation go before one of all objects; Python's own default is 10.
COLLECT_ALL_AFTER = 100


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Search all objects seldom, in all threads, until the block ends; decorates functions, too."""
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], max(before[2], COLLECT_ALL_AFTER))
    try:
        yield
    finally:
        gc.set_threshold(*before)
