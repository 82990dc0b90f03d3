"""`VectorRows`: the vectors of one encoder by row id, as a FAISS index is made from them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray

Ids = NDArray[np.int64]

MAX_VARIABLES = 500  # SQLite's limit on `?` in one statement is 999 in old builds
# Vectors that are read at once: 4 MiB of 512 floats.
CHUNK = 2048


@dataclass(frozen=True)
class RowState:
    """Tells one set of vectors of an encoder from every other that its store has held or will hold.

    A row id is never given twice. So two sets with the same largest id had the same rows to choose from, and the later
    one is a part of the earlier: with the same count they are the same.

    Attributes
    ----------
    count : int
    last : int
        The largest row id, 0 where there is none.
    sha256 : str
        Content of that row: the first version of hybrid did give ids again.
    """

    count: int
    last: int
    sha256: str


class VectorRows:
    """Rows of the table ``embeddings`` that one encoder made.

    Parameters
    ----------
    db : sqlite3.Connection
        Of the store.
    fingerprint : str
        Of the encoder.
    """

    def __init__(self, db: sqlite3.Connection, fingerprint: str) -> None:
        self._db = db
        self._fingerprint = fingerprint

    def state(self) -> RowState:
        """What the rows are now."""
        query = "SELECT count(*), coalesce(max(id), 0) FROM embeddings WHERE fingerprint = ?"
        count, last = self._db.execute(query, (self._fingerprint,)).fetchone()
        return RowState(count, last, self.hashes([last]).get(last, ""))

    def ids(self) -> Ids:
        """Row ids, ascending."""
        query = "SELECT id FROM embeddings WHERE fingerprint = ? ORDER BY id"
        return _ids(self._db.execute(query, (self._fingerprint,)))

    def vectors(self, ids: Sequence[int] | Ids) -> tuple[Ids, FloatArray]:
        """Vectors (n, dim) of those of the rows that there are, ascending by id, and these ids."""
        parts = list(self.chunks(ids))
        if not parts:
            return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
        return np.concatenate([found for found, _ in parts]), np.concatenate([vectors for _, vectors in parts])

    def chunks(self, ids: Sequence[int] | Ids) -> Iterator[tuple[Ids, FloatArray]]:
        """Read rows that lie in ascending order, `CHUNK` at a time: no more of them are in memory at once."""
        for part in _parts(ids, CHUNK):
            query = f"SELECT id, vector FROM embeddings WHERE id IN ({part}) AND fingerprint = ? ORDER BY id"  # noqa: S608
            rows = self._db.execute(query, (self._fingerprint,)).fetchall()
            if rows:
                found = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
                yield found, from_blobs([row[1] for row in rows])

    def hashes(self, ids: Sequence[int] | Ids) -> dict[int, str]:
        """Content hash of each of the rows that there are."""
        found: dict[int, str] = {}
        for part in _parts(ids, CHUNK):
            query = f"SELECT id, sha256 FROM embeddings WHERE id IN ({part}) AND fingerprint = ?"  # noqa: S608
            found.update(self._db.execute(query, (self._fingerprint,)))
        return found

    def ids_of(self, hashes: Collection[str]) -> Ids:
        """Row ids of the contents that have a vector, ascending."""
        found: list[int] = []
        for part, marks in in_parts(list(hashes)):
            query = f"SELECT id FROM embeddings WHERE fingerprint = ? AND sha256 IN ({marks})"  # noqa: S608
            found += [row[0] for row in self._db.execute(query, (self._fingerprint, *part))]
        return np.unique(np.asarray(found, dtype=np.int64))

    def ids_labeled(self, labels: Sequence[str] | None = None) -> Ids:
        """Row ids of the contents that an image of these labels (None: of any) shows, ascending."""
        # The + keeps SQLite from going by encoder, which would read every vector for its hash.
        head = "SELECT id FROM embeddings WHERE +fingerprint = ? AND sha256 IN (SELECT sha256 FROM photos WHERE label "
        if labels is None:
            return _ids(self._db.execute(head + "IS NOT NULL) ORDER BY id", (self._fingerprint,)))
        found = [
            _ids(self._db.execute(f"{head}IN ({marks}))", (self._fingerprint, *part)))
            for part, marks in in_parts(labels)
        ]
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))


def in_parts(values: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Cut values into parts that one statement takes, each with its question marks."""
    for start in range(0, len(values), MAX_VARIABLES):
        part = values[start : start + MAX_VARIABLES]
        yield part, ",".join("?" * len(part))


def to_blob(vector: FloatArray) -> bytes:
    """Bytes of a vector (dim,) as the store keeps it: float32, little endian."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def from_blobs(blobs: Sequence[bytes]) -> FloatArray:
    """Vectors (n, dim) float32 of the store's bytes."""
    if not blobs:
        return np.empty((0, 0), dtype=np.float32)
    return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), -1)


def _ids(rows: sqlite3.Cursor) -> Ids:
    return np.fromiter((row[0] for row in rows), dtype=np.int64)


def _parts(ids: Sequence[int] | Ids, size: int) -> Iterator[str]:
    """Cut ids into parts, each written as SQL has it: numbers are no danger, and question marks are limited."""
    for start in range(0, len(ids), size):
        yield ",".join(str(int(number)) for number in ids[start : start + size])
