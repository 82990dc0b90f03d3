"""`VectorRows`: the vectors of one encoder by row id, as a FAISS index is made from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.index.database import Database
from hybrid.index.digests import checked_vectors
from hybrid.index.given import GivenLabel
from hybrid.labels.names import NONE

Ids = NDArray[np.int64]

# Vectors that are read at once: 4 MiB of 512 floats.
CHUNK = 2048


class Chunk(NamedTuple):
    """Rows that were read together, and held against their digests.

    Attributes
    ----------
    ids : (n,) int64, ascending
    vectors : (n, dim) float32
    hashes : list of n content hashes
    """

    ids: Ids
    vectors: FloatArray
    hashes: list[str]


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
    db : Database
        Of the store.
    fingerprint : str
        Of the encoder.
    digests : bool
        Whether the store has digests.
    given : callable
        Gives the labels in force that people gave, by content.
    """

    def __init__(
        self, db: Database, fingerprint: str, *, digests: bool, given: Callable[[], Mapping[str, GivenLabel]] = dict
    ) -> None:
        self._given = given
        self._db = db
        self._fingerprint = fingerprint
        self._digests = digests

    def state(self) -> RowState:
        """What the rows are now."""
        query = "SELECT count(*), coalesce(max(id), 0) FROM embeddings WHERE fingerprint = ?"
        ((count, last),) = self._db.rows(query, (self._fingerprint,))
        return RowState(count, last, self.hashes([last]).get(last, ""))

    def ids(self, after: int | None = None) -> Ids:
        """Row ids, ascending, all or those that are larger than one."""
        query = "SELECT id FROM embeddings WHERE fingerprint = :encoder AND id > :after ORDER BY id"
        if after is not None:
            return _ids(self._db.rows(query, {"encoder": self._fingerprint, "after": after}))
        # As one text: a million rows one by one take twice as long.
        query = "SELECT group_concat(id) FROM embeddings WHERE fingerprint = ?"
        ((text,),) = self._db.rows(query, (self._fingerprint,))
        ids: Ids = np.fromstring(text or "", dtype=np.int64, sep=",")
        ids.sort()
        return ids

    def present(self, ids: Ids) -> Ids:
        """Those of the given row ids that there are, ascending; no vector is read."""
        # By encoder, for a row of the table is as long as its vector.
        by_encoder = "INDEXED BY embeddings_by_encoder" if self._digests else ""
        query = f"""SELECT id FROM embeddings {by_encoder}
                    WHERE fingerprint = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY id"""  # noqa: S608
        return _ids(self._db.rows(query, (self._fingerprint, json_list(ids))))

    def vectors(self, ids: Sequence[int] | Ids) -> tuple[Ids, FloatArray]:
        """Vectors (n, dim) of those of the rows that there are, ascending by id, and these ids."""
        parts = list(self.chunks(ids))
        if not parts:
            return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
        return np.concatenate([part.ids for part in parts]), np.concatenate([part.vectors for part in parts])

    def chunks(self, ids: Sequence[int] | Ids) -> Iterator[Chunk]:
        """Read rows that lie in ascending order, `CHUNK` at a time: no more of them are in memory at once."""
        for rows in self._rows(ids):
            known = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
            yield Chunk(known, self._vectors(rows), [str(row[1]) for row in rows])

    def hashes(self, ids: Sequence[int] | Ids) -> dict[int, str]:
        """Content hash of each of the rows that there are; they are held against their digests, as vectors are."""
        found: dict[int, str] = {}
        for rows in self._rows(ids):
            self._vectors(rows)
            found.update((number, sha256) for number, sha256, _, _ in rows)
        return found

    def _rows(self, ids: Sequence[int] | Ids) -> Iterator[list[tuple[Any, ...]]]:
        """Number, content hash, vector and digest of rows, `CHUNK` at a time, ascending in each."""
        digest = "digest" if self._digests else "NULL"
        query = f"""SELECT id, sha256, vector, {digest} FROM embeddings
                    WHERE id IN (SELECT value FROM json_each(?)) AND fingerprint = ? ORDER BY id"""  # noqa: S608
        for start in range(0, len(ids), CHUNK):
            part = json_list(ids[start : start + CHUNK])
            if rows := list(self._db.rows(query, (part, self._fingerprint))):
                yield rows

    def _vectors(self, rows: Sequence[tuple[Any, ...]]) -> FloatArray:
        return checked_vectors([row[1:] for row in rows], self._fingerprint, self._db.path, digests=self._digests)

    def ids_labeled(self, labels: Collection[str] | None = None) -> Ids:
        """Row ids of the contents that an image of these labels (None: of any) shows, ascending."""
        # The + keeps SQLite from going by encoder, which would read every vector for its hash.
        by_source = "label IN (SELECT value FROM json_each(:labels)) OR (:labels IS NULL AND label IS NOT NULL)"
        query = (
            "SELECT id FROM embeddings WHERE +fingerprint = :encoder AND sha256 IN (SELECT sha256 FROM photos WHERE {})"
        )
        query = f"{query} ORDER BY id"
        values = {"encoder": self._fingerprint, "labels": None if labels is None else json_list(labels)}
        given = self._given()
        if not given:
            return _ids(self._db.rows(query.format(by_source), values))
        own = [
            sha256
            for sha256, row in given.items()
            if (row.label != NONE if labels is None else row.label in set(labels))
        ]
        values |= {"given": json_list(given), "own": json_list(own)}
        within = "sha256 IN (SELECT value FROM json_each(:{}))"
        return _ids(
            self._db.rows(query.format(f"iif({within.format('given')}, {within.format('own')}, {by_source})"), values)
        )


def json_list(values: Iterable[Any] | Ids) -> str:
    """Values as the one parameter of SQL's ``IN (SELECT value FROM json_each(?))``: so many need not fit `?`s."""
    return json.dumps(values.tolist() if isinstance(values, np.ndarray) else list(values))


def to_blob(vector: FloatArray) -> bytes:
    """Bytes of a vector (dim,) as the store keeps it: float32, little endian."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def _ids(rows: Iterator[tuple[Any, ...]]) -> Ids:
    return np.fromiter((row[0] for row in rows), dtype=np.int64)
