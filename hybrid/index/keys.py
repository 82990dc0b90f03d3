"""`Keys`: which content each row of a FAISS file is of, so that a search reads no row of the store for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.index.rows import Chunk, Ids

# Bytes of an id.
ID = 8


@dataclass(frozen=True)
class Keys:
    """Row ids and the content hash of each.

    Attributes
    ----------
    ids : (n,) int64, ascending
    hashes : (n,) bytes of one width
    """

    ids: Ids
    hashes: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """Bytes of a hash."""
        return int(self.hashes.dtype.itemsize)

    @classmethod
    def mapped(cls, file: Path, start: int, count: int, width: int) -> Keys:
        """Those that lie in a file, ids before hashes; pages of it are read when they are needed."""
        if not count:
            return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=f"S{max(width, 1)}"))
        # Both at once: between two, another process may put its file there.
        both: Any = np.memmap(file, np.uint8, "r", start, (count * (ID + width),))
        return cls(both[: count * ID].view("<i8"), both[count * ID :].view(f"S{width}"))

    def to_bytes(self) -> bytes:
        """As `mapped` finds them."""
        return np.asarray(self.ids, dtype="<i8").tobytes() + np.ascontiguousarray(self.hashes).tobytes()

    def only(self, keep: NDArray[np.bool_]) -> Keys:
        """Those where a mask (n,) says so."""
        return Keys(self.ids[keep], self.hashes[keep])

    def hash_of(self, number: int) -> str:
        """The content hash of one id, empty where there is none."""
        return self.find(np.array([number], dtype=np.int64)).get(number, "")

    def find(self, ids: Ids) -> dict[int, str]:
        """The content hash of each of the given ids that there are."""
        if not len(self):
            return {}
        places = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
        places = places[self.ids[places] == ids]
        hashes = self.hashes[places].tolist()
        return {number: name.decode() for number, name in zip(self.ids[places].tolist(), hashes, strict=True)}


class KeyList:
    """Keys of rows, as they are read."""

    def __init__(self) -> None:
        self._ids: list[Ids] = [np.empty(0, dtype=np.int64)]
        self._hashes: list[NDArray[np.bytes_]] = [np.empty(0, dtype="S1")]

    def add(self, chunk: Chunk) -> None:
        """Take rows that were read together."""
        self._ids.append(chunk.ids)
        self._hashes.append(np.array([name.encode() for name in chunk.hashes]))

    def add_keys(self, keys: Keys) -> None:
        """Take those of a file."""
        self._ids.append(keys.ids)
        self._hashes.append(keys.hashes)

    def keys(self) -> Keys:
        """All that were taken, by id."""
        ids = np.concatenate(self._ids)
        order = np.argsort(ids, kind="stable")
        return Keys(ids[order], np.concatenate(self._hashes)[order])


def without(ids: Ids, gone: Ids) -> NDArray[np.bool_]:
    """A mask of ascending ids: those that are not among `gone`, which may hold others, too."""
    keep = np.ones(len(ids), dtype=np.bool_)
    if len(ids) and len(gone):
        places = np.minimum(np.searchsorted(ids, gone), len(ids) - 1)
        keep[places[ids[places] == gone]] = False
    return keep
