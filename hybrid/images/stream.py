"""Bounded parallel reading: many threads ahead, results in order, memory flat."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice, repeat
from typing import TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Threads that decode: one per core, at most 16 (decoding releases the GIL)."""
    return min(16, os.cpu_count() or 1)


# Threads that read where each image is a request to a server, which mostly means to wait.
REMOTE_WORKERS = 32
# Batches under way at once: while one computes, the next is brought to the device and the one before is written. On a
# CPU they take turns (`Compute.lock`).
IN_FLIGHT = 2
# Images that a thread takes at once at most: from here on, what they cost besides does not grow less.
LARGEST_CHUNK = 32


def ahead(batch_size: int, workers: int) -> int:
    """How many images may be decoded before their batch computes: enough that it never waits, and no more."""
    return batch_size + 2 * workers


def chunk_size(ahead: int, workers: int) -> int:
    """How many images a thread takes at once, so that `ahead` images are two turns of all threads."""
    return max(1, min(LARGEST_CHUNK, ahead // (2 * workers)))


def chunked(
    items: Iterable[T], size: int, workers: int, belong: Callable[[T, T], bool] | None = None
) -> Iterator[list[T]]:
    """Cut an iterable into lists for threads to take: the first ones short, so that all begin at once and have some.

    Each thread's first list has one item, the next one two, and so on up to `size`; or more, where `belong` says of an
    item and the one before that they are not to be parted.
    """
    source = iter(items)
    first: list[T] = []
    for turn in count():
        length = min(size, 1 << min(turn // workers, 30))
        if not (chunk := first + list(islice(source, length - len(first)))):
            return
        first = []
        for item in source if belong else ():
            if not (belong and belong(chunk[-1], item)):
                first = [item]
                break
            chunk.append(item)
        yield chunk


def prefetched(items: Iterable[T], ahead: int) -> Iterator[T]:
    """Take items in a thread of their own, at most `ahead` before they are asked for; errors come at their turn."""
    source = iter(items)
    end = object()
    try:
        for item in ordered_map(lambda _: next(source, end), repeat(None), 1, ahead):
            if item is end:
                return
            yield cast(T, item)
    finally:
        # Its own threads too end now, and not at some collection of garbage.
        if isinstance(source, Generator):
            source.close()


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
