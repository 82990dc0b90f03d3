"""`VectorRows`: the vectors of one encoder by row id, as a FAISS index is made from them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray

Ids = NDArray[np.int64]

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
        return np.concatenate([known for known, _ in parts]), np.concatenate([vectors for _, vectors in parts])

    def chunks(self, ids: Sequence[int] | Ids) -> Iterator[tuple[Ids, FloatArray]]:
        """Read rows that lie in ascending order, `CHUNK` at a time: no more of them are in memory at once."""
        query = """SELECT id, vector FROM embeddings
                   WHERE id IN (SELECT value FROM json_each(?)) AND fingerprint = ? ORDER BY id"""
        for start in range(0, len(ids), CHUNK):
            part = json_list(ids[start : start + CHUNK])
            if rows := self._db.execute(query, (part, self._fingerprint)).fetchall():
                known = np.fromiter((number for number, _ in rows), dtype=np.int64, count=len(rows))
                yield known, from_blobs([blob for _, blob in rows])

    def hashes(self, ids: Sequence[int] | Ids) -> dict[int, str]:
        """Content hash of each of the rows that there are."""
        query = "SELECT id, sha256 FROM embeddings WHERE id IN (SELECT value FROM json_each(?)) AND fingerprint = ?"
        return dict(self._db.execute(query, (json_list(ids), self._fingerprint)))

    def ids_labeled(self, labels: Collection[str] | None = None) -> Ids:
        """Row ids of the contents that an image of these labels (None: of any) shows, ascending."""
        # The + keeps SQLite from going by encoder, which would read every vector for its hash.
        query = """SELECT id FROM embeddings WHERE +fingerprint = :encoder AND sha256 IN (
                       SELECT sha256 FROM photos
                       WHERE label IN (SELECT value FROM json_each(:labels)) OR (:labels IS NULL AND label IS NOT NULL)
                   ) ORDER BY id"""
        values = {"encoder": self._fingerprint, "labels": None if labels is None else json_list(labels)}
        return _ids(self._db.execute(query, values))


def json_list(values: Iterable[Any] | Ids) -> str:
    """Values as the one parameter of SQL's ``IN (SELECT value FROM json_each(?))``: so many need not fit `?`s."""
    return json.dumps(values.tolist() if isinstance(values, np.ndarray) else list(values))


def to_blob(vector: FloatArray) -> bytes:
    """Bytes of a vector (dim,) as the store keeps it: float32, little endian."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def from_blobs(blobs: Sequence[bytes]) -> FloatArray:
    """Vectors (n, dim) float32 of the store's bytes, n at least 1."""
    return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), -1)


def _ids(rows: sqlite3.Cursor) -> Ids:
    return np.fromiter((row[0] for row in rows), dtype=np.int64)
