"""`LRUCache`, and what is in it: uploads, found again by their hash, with what the networks said of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hybrid.encoders.base import FloatArray

K = TypeVar("K")
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """A dictionary that forgets what was used least recently; for several threads.

    Parameters
    ----------
    most : int
        Values that are kept.
    weigh : callable
        Weight of a value.
    heaviest : int
        All weights together.
    """

    def __init__(self, most: int, weigh: Callable[[V], int] = lambda value: 0, heaviest: int = 0) -> None:
        self._most, self._weigh, self._heaviest = most, weigh, heaviest
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of a key, which is the youngest then."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value, and forget the oldest where there are too many."""
        with self._lock:
            if (before := self._values.pop(key, None)) is not None:
                self._weight -= self._weigh(before)
            self._values[key] = value
            self._weight += self._weigh(value)
            while len(self._values) > self._most or self._weight > self._heaviest:
                _, oldest = self._values.popitem(last=False)
                self._weight -= self._weigh(oldest)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def weight(self) -> int:
        """All weights together."""
        return self._weight


@dataclass(frozen=True)
class Scored:
    """What the networks said of a photo.

    Attributes
    ----------
    key : str
        Which encoder and head it was.
    embedding : (dim,) float32 or None
    head_logits : (seen,) float32 or None
    """

    key: str
    embedding: FloatArray | None
    head_logits: FloatArray | None


@dataclass(frozen=True)
class Upload:
    """A photo that came to the server: its name, its bytes, and what was said of it; None before."""

    name: str
    data: bytes
    scored: Scored | None = None
