"""`Batcher`: one thread that computes, and what waits for it is joined into batches."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from hybrid.serve.errors import busy

W = TypeVar("W")
R = TypeVar("R")


class Batcher(Generic[W, R]):
    """Joins work of all requests into batches for one thread.

    Parameters
    ----------
    work : callable
        Takes a batch and gives a result, or an error, for each of its items, in order.
    size : callable
        How many items a batch has at most, now.
    wait_ms : float
        How long the first item of a batch waits for others.
    """

    def __init__(self, work: Callable[[Sequence[W]], Sequence[R | Exception]], size: Callable[[], int], wait_ms: float):
        self._work, self._size, self._wait = work, size, wait_ms / 1000
        self._queue: queue.SimpleQueue[tuple[W, Future[R]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hybrid-compute", daemon=True)
        self.batches = self.items = 0

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """End when all that waits is computed."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, item: W) -> Future[R]:
        """Let an item be computed with others."""
        future: Future[R] = Future()
        self._queue.put((item, future))
        return future

    def _run(self) -> None:
        ended = False
        while not ended:
            batch, ended = self._next()
            # Of a request that nobody waits for any more nothing is computed.
            batch = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if batch:
                self._compute(batch)

    def _next(self) -> tuple[list[tuple[W, Future[R]]], bool]:
        """Take the next batch; and whether it is the last one."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch, until, size = [first], time.monotonic() + self._wait, self._size()
        while len(batch) < size:
            try:
                more = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if more is None:
                return batch, True
            batch.append(more)
        return batch, False

    def _compute(self, batch: list[tuple[W, Future[R]]]) -> None:
        self.batches += 1
        self.items += len(batch)
        results: Sequence[R | Exception]
        try:
            results = self._work([item for item, _ in batch])
        except Exception as error:  # whatever it is, each request of the batch is told, and the thread goes on
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


class Places:
    """How many photos are under way; one too many is refused with 503, which calls them `what`."""

    def __init__(self, limit: int, what: str = "photos") -> None:
        self.limit, self.taken, self._what = limit, 0, what
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Take places, or refuse; a single large request passes where nothing else waits."""
        with self._lock:
            if self.taken and self.taken + count > self.limit:
                raise busy(
                    f"the server has more {self._what} waiting than it takes on", f"{self.taken} of {self.limit}"
                )
            self.taken += count

    def give_back(self, count: int) -> None:
        """Free places."""
        with self._lock:
            self.taken -= count
