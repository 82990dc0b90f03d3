"""`EmbeddingStore`: one SQLite database a run, the truth about images, labels and vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.errors import StoreError
from hybrid.images.records import ImageRecord
from hybrid.index.rows import VectorRows, from_blobs, in_parts, to_blob
from hybrid.index.schema import BY_ENCODER, connect, meta

IMAGE_COLUMNS = "path, source, label, split, size, mtime_ns, container, offset, sha256"
# An image as the table has it, in the order of PHOTO_COLUMNS.
ImageRow = tuple[str, str, str | None, str | None, int, int, str | None, int, str]
# Begins the source of images that a person added to a class; sources of build-index are absolute paths.
ADDED = "class:"


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
        If the file is missing, no database, or of another format.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self.path = path
        self._db = connect(path, must_exist=must_exist)

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
        """Grows with every change to images or embeddings; derived files compare it with their own."""
        return int(meta(self._db, "revision"))

    @property
    def identity(self) -> str:
        """Random name of this database, so that one built anew in its place is told apart."""
        return meta(self._db, "identity")

    @property
    def is_empty(self) -> bool:
        """Whether there is no image."""
        return self._db.execute("SELECT 1 FROM photos LIMIT 1").fetchone() is None

    def image_rows(self) -> Iterator[ImageRow]:
        """Every image as a plain tuple, ordered by path: the cheapest way through all of them.

        They are read as they are asked for; nothing may be written before the last one.
        """
        return iter(self._db.execute(f"SELECT {IMAGE_COLUMNS} FROM photos ORDER BY path"))  # noqa: S608

    def iter_images(self) -> Iterator[StoredImage]:
        """Every image, ordered by path, read as `image_rows` are."""
        return map(_image, self.image_rows())

    def images(self) -> list[StoredImage]:
        """Every image, ordered by path."""
        return list(self.iter_images())

    def images_at(self, paths: Sequence[str]) -> list[StoredImage]:
        """Images of these paths, as far as there are any, ordered by path."""
        return self._images_where("path", paths)

    def images_with(self, hashes: Sequence[str]) -> list[StoredImage]:
        """All images of these contents, ordered by path."""
        return self._images_where("sha256", hashes)

    def images_sharing(self, labels: Sequence[str]) -> list[StoredImage]:
        """Images of these labels, and all other images of the same contents, ordered by path."""
        found: dict[str, StoredImage] = {}
        for part, marks in in_parts(labels):
            contents = f"SELECT sha256 FROM photos WHERE label IN ({marks})"  # noqa: S608
            rows = self._db.execute(f"SELECT {IMAGE_COLUMNS} FROM photos WHERE sha256 IN ({contents})", part)  # noqa: S608
            found.update((row[0], _image(row)) for row in rows)
        return [found[path] for path in sorted(found)]

    def labels(self) -> dict[str, int]:
        """Every label and its number of images, ordered by label."""
        query = "SELECT label, count(*) FROM photos WHERE label IS NOT NULL GROUP BY 1 ORDER BY 1"
        return dict(self._db.execute(query).fetchall())

    @property
    def all_labeled(self) -> bool:
        """Whether no image lacks a label."""
        return self._db.execute("SELECT 1 FROM photos WHERE label IS NULL LIMIT 1").fetchone() is None

    def embedded(self, fingerprint: str, among: Sequence[str] | None = None) -> set[str]:
        """Content hashes, of all or of some, that have a vector of this encoder."""
        if among is None:
            # The + keeps SQLite from going by encoder, which would read every vector for its hash.
            rows = self._db.execute("SELECT sha256 FROM embeddings WHERE +fingerprint = ?", (fingerprint,))
            return {row[0] for row in rows}
        found: set[str] = set()
        for part, marks in in_parts(among):
            query = f"SELECT sha256 FROM embeddings WHERE fingerprint = ? AND sha256 IN ({marks})"  # noqa: S608
            found.update(row[0] for row in self._db.execute(query, (fingerprint, *part)))
        return found

    def embeddings(self, hashes: Sequence[str], fingerprint: str) -> FloatArray:
        """Vectors of the given content hashes, in their order, shape (n, dim).

        Raises
        ------
        StoreError
            If one has no vector of this encoder.
        """
        place = {name: number for number, name in enumerate(dict.fromkeys(hashes))}
        vectors = np.empty((len(place), self.dim(fingerprint) or 0), dtype=np.float32)
        found = 0
        for part, marks in in_parts(list(place)):
            query = f"SELECT sha256, vector FROM embeddings WHERE fingerprint = ? AND sha256 IN ({marks})"  # noqa: S608
            rows = self._db.execute(query, (fingerprint, *part)).fetchall()
            if rows:
                vectors[[place[name] for name, _ in rows]] = from_blobs([blob for _, blob in rows])
            found += len(rows)
        if found < len(place):
            raise StoreError(
                f"{len(place) - found} of {len(place)} photos have no vector of encoder {fingerprint}",
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
        images : iterable of StoredPhoto
            Replace what the store knew of their paths.
        vectors : mapping of content hash to (dim,) float32
            New embeddings by the encoder `fingerprint`.
        """
        rows = [
            (r.path, r.source, r.label, r.split, r.size, r.mtime_ns, r.container, r.offset, image.sha256)
            for image in images
            for r in [image.record]
        ]
        vectors = vectors or {}
        if not rows and not vectors:
            return
        self._db.execute(BY_ENCODER)  # a store of the first version has no such index yet
        with self._db:
            if self._leaves_vectors(rows, vectors):
                self._set("loose", 1)
            self._db.executemany(
                f"INSERT OR REPLACE INTO photos ({IMAGE_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)",  # noqa: S608
                rows,
            )
            if vectors:
                blobs = ((name, fingerprint, to_blob(vector)) for name, vector in vectors.items())
                numbered = ((number, *blob) for number, blob in enumerate(blobs, self._last_id() + 1))
                self._db.executemany(
                    "INSERT OR IGNORE INTO embeddings (id, sha256, fingerprint, vector) VALUES (?,?,?,?)", numbered
                )
            self._grow_revision()

    def _leaves_vectors(self, rows: Sequence[ImageRow], vectors: Mapping[str, FloatArray]) -> bool:
        """Whether a batch may leave vectors that no image has: of the bytes that a path held before, or its own."""
        new = {row[0]: row[8] for row in rows}
        if not vectors.keys() <= set(new.values()):
            return True
        for part, marks in in_parts(list(new)):
            known = self._db.execute(f"SELECT path, sha256 FROM photos WHERE path IN ({marks})", part)  # noqa: S608
            if any(new[path] != sha256 for path, sha256 in known):
                return True
        return False

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
            if loose:
                # By id, for SQLite would else read every vector for its hash.
                orphans = "SELECT id FROM embeddings WHERE sha256 NOT IN (SELECT sha256 FROM photos)"
                gone = self._db.execute(f"DELETE FROM embeddings WHERE id IN ({orphans})").rowcount  # noqa: S608
                self._set("loose", 0)
            else:
                gone = sum(self._remove_orphans(part, marks) for part, marks in in_parts(list(contents)))
            if paths or gone:
                self._grow_revision()

    def _remove_orphans(self, hashes: Sequence[str], marks: str) -> int:
        orphans = (
            f"DELETE FROM embeddings WHERE sha256 IN ({marks}) "  # noqa: S608
            "AND NOT EXISTS (SELECT 1 FROM photos WHERE photos.sha256 = embeddings.sha256)"
        )
        return self._db.execute(orphans, hashes).rowcount

    def _last_id(self) -> int:
        """The largest row id that a vector ever had: SQLite alone would give that of a removed one again."""
        (there,) = self._db.execute("SELECT coalesce(max(id), 0) FROM embeddings").fetchone()
        return max(int(there), int(meta(self._db, "last_id") or 0))

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
        found = {text: self._db.execute(query, (text, fingerprint)).fetchone() for text in texts}
        return {text: np.frombuffer(row[0], dtype="<f4") for text, row in found.items() if row}

    def write_texts(self, vectors: Mapping[str, FloatArray], fingerprint: str) -> None:
        """Cache text vectors (dim,) of this encoder."""
        rows = [(text, fingerprint, to_blob(vector)) for text, vector in vectors.items()]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", rows)

    def _images_where(self, column: str, values: Sequence[str]) -> list[StoredImage]:
        found: dict[str, StoredImage] = {}
        for part, marks in in_parts(list(dict.fromkeys(values))):
            rows = self._db.execute(f"SELECT {IMAGE_COLUMNS} FROM photos WHERE {column} IN ({marks})", part)  # noqa: S608
            found.update((row[0], _image(row)) for row in rows)
        return [found[path] for path in sorted(found)]

    def _set(self, key: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    def _grow_revision(self) -> None:
        self._db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'revision'")


def _image(row: ImageRow) -> StoredImage:
    return StoredImage(ImageRecord(*row[:8]), row[8])
