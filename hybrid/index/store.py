"""`EmbeddingStore`: one SQLite database a run, the truth about photos, labels and vectors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from hybrid.data.records import ImageRecord
from hybrid.encoders.base import FloatArray
from hybrid.errors import StoreError

FORMAT = 1
# One transaction: a process killed here leaves an empty file, not half a store.
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS photos (
    path TEXT PRIMARY KEY, source TEXT NOT NULL, label TEXT, split TEXT, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, container TEXT, offset INTEGER NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS photos_by_content ON photos (sha256);
CREATE TABLE IF NOT EXISTS embeddings (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, fingerprint TEXT NOT NULL, vector BLOB NOT NULL,
    UNIQUE (sha256, fingerprint)
);
CREATE TABLE IF NOT EXISTS texts (
    text TEXT NOT NULL, fingerprint TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (text, fingerprint)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS encoders (fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES
    ('format', '{FORMAT}'), ('revision', '0'), ('identity', lower(hex(randomblob(8))));
COMMIT;
"""  # noqa: S608
PHOTO_COLUMNS = "path, source, label, split, size, mtime_ns, container, offset, sha256"
# Begins the source of photos that a person added to a class; sources of build-index are absolute paths.
ADDED = "class:"
MAX_VARIABLES = 500  # SQLite's limit on `?` in one statement is 999 in old builds


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """A photo as the store knows it: its record and the sha256 of its bytes."""

    record: ImageRecord
    sha256: str


class EmbeddingStore:
    """Photos, their content hashes and labels, and vectors keyed by content hash + encoder fingerprint.

    Every write is one transaction, so that a killed process leaves whole batches or nothing.

    Parameters
    ----------
    path : Path
        The database file; made if missing, unless `must_exist`.

    Raises
    ------
    StoreError
        If the file is missing, no database, or of another format.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        if must_exist and not path.is_file():
            raise StoreError(f"there is no index at {path}", fix="build one: hybrid build-index SOURCE --run DIR")
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the store {path}", got=str(error)) from error
        try:
            new = self._is_new()
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            if new:
                self._db.executescript(SCHEMA)
        except StoreError:
            self._db.close()
            raise
        except sqlite3.DatabaseError as error:
            self._db.close()
            locked = "locked" in str(error)
            raise StoreError(
                f"{path} is in use by another process" if locked else f"{path} is no readable store",
                got=str(error),
                fix="wait until it has ended" if locked else "move it away and build the index again",
            ) from error

    def _is_new(self) -> bool:
        """Whether the database is empty; StoreError if it is another program's or of another format."""
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return True
        if not {"meta", "photos", "embeddings"} <= tables:
            raise StoreError(f"{self.path} is a database of another program", got="tables " + ", ".join(sorted(tables)))
        found = self._meta("format")
        if found != str(FORMAT):
            raise StoreError(
                f"{self.path} has another format",
                expected=str(FORMAT),
                got=found or "none",
                fix="move it away and build the index again, or use the version of hybrid that wrote it",
            )
        return False

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @property
    def revision(self) -> int:
        """Grows with every change to photos or embeddings; derived files compare it with their own."""
        return int(self._meta("revision"))

    @property
    def identity(self) -> str:
        """Random name of this database, so that one built anew in its place is told apart."""
        return self._meta("identity")

    def photos(self) -> list[StoredPhoto]:
        """Every photo, ordered by path."""
        rows = self._db.execute(f"SELECT {PHOTO_COLUMNS} FROM photos ORDER BY path")  # noqa: S608
        return [StoredPhoto(ImageRecord(*row[:8]), row[8]) for row in rows]

    def photos_sharing(self, labels: Sequence[str]) -> list[StoredPhoto]:
        """Photos of these labels, and all other photos of the same contents, ordered by path."""
        found: dict[str, StoredPhoto] = {}
        for start in range(0, len(labels), MAX_VARIABLES):
            part = labels[start : start + MAX_VARIABLES]
            contents = f"SELECT sha256 FROM photos WHERE label IN ({','.join('?' * len(part))})"  # noqa: S608
            rows = self._db.execute(f"SELECT {PHOTO_COLUMNS} FROM photos WHERE sha256 IN ({contents})", part)  # noqa: S608
            found.update((row[0], StoredPhoto(ImageRecord(*row[:8]), row[8])) for row in rows)
        return [found[path] for path in sorted(found)]

    def embedded(self, fingerprint: str) -> set[str]:
        """Content hashes that have a vector of this encoder."""
        rows = self._db.execute("SELECT sha256 FROM embeddings WHERE fingerprint = ?", (fingerprint,))
        return {row[0] for row in rows}

    def embeddings(self, hashes: Sequence[str], fingerprint: str) -> FloatArray:
        """Vectors of the given content hashes, in their order, shape (n, dim).

        Raises
        ------
        StoreError
            If one has no vector of this encoder.
        """
        found: dict[str, bytes] = {}
        unique = list(dict.fromkeys(hashes))
        for start in range(0, len(unique), MAX_VARIABLES):
            part = unique[start : start + MAX_VARIABLES]
            marks = ",".join("?" * len(part))
            query = f"SELECT sha256, vector FROM embeddings WHERE fingerprint = ? AND sha256 IN ({marks})"  # noqa: S608
            found.update(self._db.execute(query, (fingerprint, *part)))
        missing = [name for name in unique if name not in found]
        if missing:
            raise StoreError(
                f"{len(missing)} of {len(unique)} photos have no vector of encoder {fingerprint}",
                fix="run hybrid build-index again with this encoder (hybrid add-class for photos of an added class)",
            )
        return _from_blobs([found[name] for name in hashes])

    def dim(self, fingerprint: str) -> int | None:
        """Length of this encoder's vectors, None where there is none."""
        row = self._db.execute("SELECT vector FROM embeddings WHERE fingerprint = ? LIMIT 1", (fingerprint,)).fetchone()
        return len(_from_blobs([row[0]])[0]) if row else None

    def embedding_ids(self, fingerprint: str) -> dict[int, str]:
        """Row id to content hash of every vector of one encoder, ordered by id."""
        query = "SELECT id, sha256 FROM embeddings WHERE fingerprint = ? ORDER BY id"
        return dict(self._db.execute(query, (fingerprint,)).fetchall())

    def write_batch(
        self,
        photos: Iterable[StoredPhoto],
        vectors: Mapping[str, FloatArray] | None = None,
        fingerprint: str = "",
    ) -> None:
        """Add or replace photos and add the vectors of new content, in one transaction.

        Parameters
        ----------
        photos : iterable of StoredPhoto
            Replace what the store knew of their paths.
        vectors : mapping of content hash to (dim,) float32
            New embeddings by the encoder `fingerprint`.
        """
        rows = [
            (r.path, r.source, r.label, r.split, r.size, r.mtime_ns, r.container, r.offset, photo.sha256)
            for photo in photos
            for r in [photo.record]
        ]
        blobs = [(name, fingerprint, _to_blob(vector)) for name, vector in (vectors or {}).items()]
        if not rows and not blobs:
            return
        with self._db:
            self._db.executemany(
                f"INSERT OR REPLACE INTO photos ({PHOTO_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)",  # noqa: S608
                rows,
            )
            self._db.executemany("INSERT OR IGNORE INTO embeddings (sha256, fingerprint, vector) VALUES (?,?,?)", blobs)
            self._grow_revision()

    def remove(self, paths: Sequence[str]) -> None:
        """Forget photos, and all vectors that no photo has (any more: its file may have changed)."""
        with self._db:
            self._db.executemany("DELETE FROM photos WHERE path = ?", [(path,) for path in paths])
            orphans = self._db.execute("DELETE FROM embeddings WHERE sha256 NOT IN (SELECT sha256 FROM photos)")
            if paths or orphans.rowcount:
                self._grow_revision()

    def name_encoder(self, fingerprint: str, name: str) -> None:
        """Keep a readable name beside a fingerprint."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO encoders VALUES (?, ?)", (fingerprint, name))

    def counts(self) -> dict[str, dict[str, int]]:
        """Photos by split and label, and vectors by encoder name, for `hybrid info`."""
        by_split = "SELECT coalesce(split, 'none'), count(*) FROM photos GROUP BY 1 ORDER BY 1"
        by_label = "SELECT label, count(*) FROM photos WHERE label IS NOT NULL GROUP BY 1 ORDER BY 1"
        by_encoder = (
            "SELECT coalesce(name, fingerprint), count(*) FROM embeddings LEFT JOIN encoders USING (fingerprint) "
            "GROUP BY fingerprint ORDER BY 1"
        )
        queries = {"splits": by_split, "labels": by_label, "embeddings": by_encoder}
        return {name: dict(self._db.execute(query).fetchall()) for name, query in queries.items()}

    def texts(self, texts: Sequence[str], fingerprint: str) -> dict[str, FloatArray]:
        """Cached text vectors (dim,) of this encoder, for those of `texts` that have one."""
        query = "SELECT vector FROM texts WHERE text = ? AND fingerprint = ?"
        found = {text: self._db.execute(query, (text, fingerprint)).fetchone() for text in texts}
        return {text: np.frombuffer(row[0], dtype="<f4") for text, row in found.items() if row}

    def write_texts(self, vectors: Mapping[str, FloatArray], fingerprint: str) -> None:
        """Cache text vectors (dim,) of this encoder."""
        rows = [(text, fingerprint, _to_blob(vector)) for text, vector in vectors.items()]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", rows)

    def _meta(self, key: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def _grow_revision(self) -> None:
        self._db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'revision'")


def _to_blob(vector: FloatArray) -> bytes:
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def _from_blobs(blobs: Sequence[bytes]) -> FloatArray:
    if not blobs:
        return np.empty((0, 0), dtype=np.float32)
    return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), -1)
