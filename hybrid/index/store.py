"""`EmbeddingStore`: one SQLite database per run, the source of truth for images, labels and vectors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.errors import StoreError
from hybrid.images.records import ImageRecord
from hybrid.index.rows import VectorRows, from_blobs, json_list, to_blob
from hybrid.index.schema import BY_ENCODER, connect, meta

# Begins the source of images that a person added to a class, and the path of those that no file holds (any more);
# sources and paths of build-index are absolute.
_ADDED = "class:"
# Vectors that are read at once.
_CHUNK = 500


def added_source(name: str) -> str:
    """The source of images that a person added to the class of this name."""
    return _ADDED + name


def path_by_content(name: str, sha256: str) -> str:
    """The path of an image that a person added to the class of this name, and that no file holds."""
    return f"{_ADDED}{name}/{sha256[:16]}"


def is_added(source_or_path: str) -> bool:
    """Whether a source is that of images added to a class, or a path that of one that no file holds."""
    return source_or_path.startswith(_ADDED)


class ImageRow(NamedTuple):
    """A row of the table ``photos``: an `ImageRecord` and the sha256, as cheap as the tuple that SQLite gives."""

    path: str
    source: str
    label: str | None
    split: str | None
    size: int
    mtime_ns: int
    container: str | None
    offset: int
    sha256: str

    @property
    def image(self) -> StoredImage:
        """The same as a `StoredImage`."""
        return StoredImage(ImageRecord(*self[:-1]), self.sha256)


_COLUMNS = ", ".join(ImageRow._fields)
_record_fields = attrgetter(*ImageRow._fields[:-1])


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as the store knows it: its record and the sha256 of its bytes."""

    record: ImageRecord
    sha256: str


class EmbeddingStore:
    """Images, their content hashes and labels, and vectors keyed by content hash + encoder fingerprint.

    Every write is one transaction, so that a killed process leaves whole batches or nothing.

    Parameters
    ----------
    path : Path
        The database file; made if missing, unless `must_exist`.

    Raises
    ------
    StoreError
        If the file is missing, not a database, or of another format.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self.path = path
        self._db = connect(path, must_exist=must_exist)

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @property
    def revision(self) -> int:
        """Grows with every change to images or embeddings; derived files compare it with their own."""
        return int(meta(self._db, "revision"))

    @property
    def identity(self) -> str:
        """Random name of this database, so that one built anew in its place is told apart."""
        return meta(self._db, "identity")

    @property
    def is_empty(self) -> bool:
        """Whether the store holds no images."""
        return self._db.execute("SELECT 1 FROM photos LIMIT 1").fetchone() is None

    def image_rows(self) -> Iterator[ImageRow]:
        """Every image as a row, ordered by path: the cheapest way through all of them.

        They are read as they are asked for; nothing may be written before the last one.
        """
        return self._rows_where("true")

    def images(self) -> list[StoredImage]:
        """Every image, ordered by path."""
        return [row.image for row in self.image_rows()]

    def images_at(self, paths: Collection[str]) -> list[StoredImage]:
        """Images of these paths, as far as there are any, ordered by path."""
        return [row.image for row in self._rows_where("path IN (SELECT value FROM json_each(?))", paths)]

    def images_with(self, hashes: Collection[str]) -> list[StoredImage]:
        """All images of these contents, ordered by path."""
        return [row.image for row in self._rows_where("sha256 IN (SELECT value FROM json_each(?))", hashes)]

    def images_sharing(self, labels: Collection[str]) -> list[StoredImage]:
        """Images of these labels, and all other images of the same contents, ordered by path."""
        contents = "SELECT sha256 FROM photos WHERE label IN (SELECT value FROM json_each(?))"
        return [row.image for row in self._rows_where(f"sha256 IN ({contents})", labels)]

    def labels(self) -> dict[str, int]:
        """Every label and its number of images, ordered by label."""
        query = "SELECT label, count(*) FROM photos WHERE label IS NOT NULL GROUP BY 1 ORDER BY 1"
        return dict(self._db.execute(query).fetchall())

    @property
    def all_labeled(self) -> bool:
        """Whether no image lacks a label."""
        return self._db.execute("SELECT 1 FROM photos WHERE label IS NULL LIMIT 1").fetchone() is None

    def embedded(self, fingerprint: str, among: Collection[str] | None = None) -> set[str]:
        """Content hashes, of all or of some, that have a vector of this encoder."""
        # The + keeps SQLite from going by encoder, which would read every vector for its hash.
        query, values = "SELECT sha256 FROM embeddings WHERE +fingerprint = ?", [fingerprint]
        if among is not None:
            query += " AND sha256 IN (SELECT value FROM json_each(?))"
            values.append(json_list(among))
        return {sha256 for (sha256,) in self._db.execute(query, values)}

    def embeddings(self, hashes: Sequence[str], fingerprint: str) -> FloatArray:
        """Vectors of the given content hashes, in their order, shape (n, dim).

        Raises
        ------
        StoreError
            If one has no vector of this encoder.
        """
        place = {name: number for number, name in enumerate(dict.fromkeys(hashes))}
        vectors = np.empty((len(place), self.dim(fingerprint) or 0), dtype=np.float32)
        query = (
            "SELECT sha256, vector FROM embeddings WHERE fingerprint = ? AND sha256 IN (SELECT value FROM json_each(?))"
        )
        cursor = self._db.execute(query, (fingerprint, json_list(place)))
        missing = len(place)
        while rows := cursor.fetchmany(_CHUNK):
            vectors[[place[name] for name, _ in rows]] = from_blobs([blob for _, blob in rows])
            missing -= len(rows)
        if missing:
            raise StoreError(
                f"{missing} of {len(place)} photos have no vector of encoder {fingerprint}",
                fix="run hybrid build-index again with this encoder (hybrid add-class for photos of an added class)",
            )
        return vectors if len(place) == len(hashes) else vectors[[place[name] for name in hashes]]

    def dim(self, fingerprint: str) -> int | None:
        """Length of this encoder's vectors, None where there is none."""
        row = self._db.execute("SELECT vector FROM embeddings WHERE fingerprint = ? LIMIT 1", (fingerprint,)).fetchone()
        return len(from_blobs([row[0]])[0]) if row else None

    def rows(self, fingerprint: str) -> VectorRows:
        """Vectors of one encoder by row id."""
        return VectorRows(self._db, fingerprint)

    def write_batch(
        self,
        images: Iterable[StoredImage],
        vectors: Mapping[str, FloatArray] | None = None,
        fingerprint: str = "",
    ) -> None:
        """Add or replace images and add the vectors of new content, in one transaction.

        Parameters
        ----------
        images : iterable of StoredImage
            Replace what the store knew of their paths.
        vectors : mapping of content hash to (dim,) float32
            New embeddings by the encoder `fingerprint`.
        """
        rows = [ImageRow._make((*_record_fields(image.record), image.sha256)) for image in images]
        vectors = vectors or {}
        if not rows and not vectors:
            return
        self._db.execute(BY_ENCODER)  # a store of the first version has no such index yet
        with self._db:
            if self._leaves_vectors(rows, vectors):
                self._set("loose", 1)
            self._db.executemany(f"INSERT OR REPLACE INTO photos ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)", rows)  # noqa: S608
            if vectors:
                numbered = enumerate(vectors.items(), self._last_id() + 1)
                values = [(number, name, fingerprint, to_blob(vector)) for number, (name, vector) in numbered]
                query = "INSERT OR IGNORE INTO embeddings (id, sha256, fingerprint, vector) VALUES (?,?,?,?)"
                self._db.executemany(query, values)
            self._grow_revision()

    def _leaves_vectors(self, rows: Sequence[ImageRow], vectors: Mapping[str, FloatArray]) -> bool:
        """Whether a batch may leave vectors that no image has: of the bytes that a path held before, or its own."""
        new = {row.path: row.sha256 for row in rows}
        if not vectors.keys() <= set(new.values()):
            return True
        known = self._rows_where("path IN (SELECT value FROM json_each(?))", new)
        return any(new[row.path] != row.sha256 for row in known)

    def remove(self, paths: Sequence[str]) -> None:
        """Forget images, and all vectors that no image has (any more: its file may have changed)."""
        # Only a store of the first version does not say whether it holds such vectors.
        loose = meta(self._db, "loose") != "0"
        if not paths and not loose:
            return
        with self._db:
            contents = {image.sha256 for image in self.images_at(paths)}
            self._db.executemany("DELETE FROM photos WHERE path = ?", [(path,) for path in paths])
            self._set("last_id", self._last_id())
            # By id, for SQLite would else read every vector for its hash.
            orphans = "SELECT id FROM embeddings WHERE sha256 NOT IN (SELECT sha256 FROM photos)"
            if not loose:
                orphans += " AND sha256 IN (SELECT value FROM json_each(?))"
            values = () if loose else (json_list(contents),)
            gone = self._db.execute(f"DELETE FROM embeddings WHERE id IN ({orphans})", values).rowcount  # noqa: S608
            self._set("loose", 0)
            if paths or gone:
                self._grow_revision()

    def _last_id(self) -> int:
        """The largest row id that a vector ever had: SQLite alone would give that of a removed one again."""
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM embeddings").fetchone()
        return max(int(last), int(meta(self._db, "last_id") or 0))

    def renew_identity(self) -> None:
        """Give a copy an identity of its own: from now on it is the index of another run."""
        with self._db:
            self._db.execute("UPDATE meta SET value = lower(hex(randomblob(8))) WHERE key = 'identity'")

    def name_encoder(self, fingerprint: str, name: str) -> None:
        """Keep a readable name beside a fingerprint."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO encoders VALUES (?, ?)", (fingerprint, name))

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and label, and vectors by encoder name, for `hybrid info`."""
        by_split = "SELECT coalesce(split, 'none'), count(*) FROM photos GROUP BY 1 ORDER BY 1"
        by_encoder = (
            "SELECT coalesce(name, fingerprint), count(*) FROM embeddings LEFT JOIN encoders USING (fingerprint) "
            "GROUP BY fingerprint ORDER BY 1"
        )
        splits, embeddings = (dict(self._db.execute(query).fetchall()) for query in (by_split, by_encoder))
        return {"splits": splits, "labels": self.labels(), "embeddings": embeddings}

    def texts(self, texts: Sequence[str], fingerprint: str) -> dict[str, FloatArray]:
        """Cached text vectors (dim,) of this encoder, for those of `texts` that have one."""
        query = "SELECT vector FROM texts WHERE text = ? AND fingerprint = ?"
        rows = {text: self._db.execute(query, (text, fingerprint)).fetchone() for text in texts}
        return {text: np.frombuffer(row[0], dtype="<f4") for text, row in rows.items() if row}

    def write_texts(self, vectors: Mapping[str, FloatArray], fingerprint: str) -> None:
        """Cache text vectors (dim,) of this encoder."""
        rows = [(text, fingerprint, to_blob(vector)) for text, vector in vectors.items()]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", rows)

    def _rows_where(self, condition: str, values: Collection[str] | None = None) -> Iterator[ImageRow]:
        """Rows that satisfy a condition (SQL of this module), ordered by path; its ``json_each(?)`` are the values."""
        query = f"SELECT {_COLUMNS} FROM photos WHERE {condition} ORDER BY path"  # noqa: S608
        return map(ImageRow._make, self._db.execute(query, () if values is None else (json_list(values),)))

    def _set(self, key: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    def _grow_revision(self) -> None:
        self._db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'revision'")
