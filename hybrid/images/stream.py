"""Bounded parallel reading: many threads ahead, results in order, memory flat."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Threads that decode: one per core, at most 16 (decoding releases the GIL)."""
    return min(16, os.cpu_count() or 1)


# Batches under way at once: while one computes, the next is brought to the device and the one before is written. On a
# CPU they take turns (`Compute.lock`).
IN_FLIGHT = 2


def ahead(batch_size: int, workers: int) -> int:
    """How many images may be decoded before their batch computes: enough that it never waits, and no more."""
    return batch_size + 2 * workers


def ordered_map(work: Callable[[T], R], items: Iterable[T], workers: int, ahead: int) -> Iterator[R]:
    """Map with threads, yielding in order, with at most `ahead` results waiting.

    Parameters
    ----------
    work : callable
        Runs in a worker thread; what it raises is raised here, at its item's turn.
    items : iterable
        Read lazily.
    workers, ahead : int
        Threads, and how many items may be under way or finished but not yet taken.
    """
    waiting: deque[Future[R]] = deque()
    source = iter(items)
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        try:
            waiting.extend(pool.submit(work, item) for item in islice(source, max(1, ahead)))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(source, 1))
                yield result
        finally:
            # The reader stopped early (an error, Ctrl-C): do not decode what nobody will take.
            for future in waiting:
                future.cancel()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut an iterable into lists of `size`, the last one shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
