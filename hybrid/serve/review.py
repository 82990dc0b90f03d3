"""`Review`: the pool of answers behind the queue, made anew in the background when the answers change."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hybrid.errors import HybridError
from hybrid.serve.model import Served
from hybrid.tools.review.base import ReviewPool


class Review:
    """Keeps the pool of the classifier that answers.

    While the answers of a new classifier are computed, those of the one before it serve on.

    Parameters
    ----------
    served : callable
        Gives the classifier that answers.
    make : callable
        Gives the pool of a classifier, with no answer in it yet.
    """

    def __init__(self, served: Callable[[], Served], make: Callable[[Served], ReviewPool]) -> None:
        self._served, self._make = served, make
        self._lock = threading.Lock()
        self._pool: ReviewPool | None = None
        self._coming: ReviewPool | None = None
        self._key = ""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._problem: HybridError | None = None

    def pool(self) -> ReviewPool:
        """The pool; its answers may still be on the way.

        Raises
        ------
        HybridError
            If there is nothing to make it of.
        """
        with self._lock:
            served = self._served()
            if self._pool is None or self._key != served.answers_key:
                self._end()
                pool = self._make(served)
                if self._pool is None or not self._pool.ready[0]:
                    self._pool = pool
                self._coming = pool
                self._key = served.answers_key
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._update, args=(pool, self._stop), name="hybrid-review", daemon=True
                )
                self._thread.start()
            return self._pool

    def ready(self) -> tuple[int, int]:
        """Tell how many images the classifier that answers now has answered, and of how many.

        As long as answers of the one before it serve, some are missing.
        """
        pool, coming = self._pool, self._coming
        if coming is None:
            return 0, 0
        done, total = coming.ready
        return (done if coming is pool else min(done, max(total - 1, 0))), total

    def current(self) -> ReviewPool | None:
        """The pool, if there is one already."""
        return self._pool

    def notes(self) -> list[str]:
        """What went wrong while answers were computed."""
        return [] if self._problem is None else [f"WARNING: {self._problem.what}"]

    def close(self) -> None:
        """Stop what is computed."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _update(self, pool: ReviewPool, stop: threading.Event) -> None:
        try:
            pool.update(stop=stop.is_set)
            self._problem = None
        except HybridError as error:
            self._problem = error
        if not stop.is_set():
            self._pool = pool
