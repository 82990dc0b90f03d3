"""`EmbeddingStore`: one SQLite database per run, the source of truth for images, labels and vectors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.errors import StoreError
from hybrid.images.captures import Capture
from hybrid.images.stream import batched
from hybrid.index import captures, given
from hybrid.index.database import PATIENCE, damaged
from hybrid.index.digests import checked_vectors, is_sound, row_digest, vector_digest
from hybrid.index.given import GivenLabel
from hybrid.index.rows import VectorRows, json_list, to_blob
from hybrid.index.schema import BY_CONTENT, StoreState, meta, new_token, open_database, upgrade
from hybrid.index.stored import ImageRow, StoredImage, typed_row
from hybrid.labels.names import NONE, class_key

__all__ = ["EmbeddingStore", "ImageRow", "StoredImage", "added_source", "added_to", "is_added", "path_by_content"]

# Begins the source of images that a person added to a class, and the path of those that no file holds (any more);
# sources and paths of build-index are absolute.
_ADDED = "class:"
# The source of images that a person labeled and that no source holds.
LABELED = "label:"
# The folder of images that a run keeps itself, beside the store; their paths are relative, so that a run may move.
PHOTOS = "photos"
_OWN = f"{PHOTOS}/"
# Vectors that are read at once.
_CHUNK = 500
_COLUMNS = ", ".join(ImageRow._fields)
_OLD_COLUMNS = _COLUMNS.replace("ctime_ns, inode", "0, 0")


def added_source(name: str) -> str:
    """The source of images that a person added to the class of this name."""
    return _ADDED + name


def path_by_content(name: str, sha256: str) -> str:
    """The path of an image that a person added to the class of this name, and that no file holds."""
    return f"{_ADDED}{name}/{sha256[:16]}"


def is_added(source_or_path: str) -> bool:
    """Whether a person brought the image: a source of such images, or a path of one that no file holds."""
    return source_or_path.startswith((_ADDED, LABELED))


def added_to(source: str) -> str | None:
    """The name of the class that a person added images of this source to; None for every other source."""
    return source.removeprefix(_ADDED) if source.startswith(_ADDED) else None


class EmbeddingStore:
    """Images, their content hashes and labels, and vectors keyed by content hash + encoder fingerprint.

    Every write is one transaction, so that a killed process leaves whole batches or nothing. Every row and vector has a
    digest, which is checked when it is read. A store of format 1 has none: it is read as it is, and gets them when
    images or vectors are written next. Labels that people gave hold wherever images are read, `source_rows` aside.

    Parameters
    ----------
    path : Path
        The database file; made if missing, unless `must_exist` or `read_only`.
    must_exist : bool
        Whether a missing or empty file is an error.
    read_only : bool
        Write nothing, so that it may lie on read-only media or be another user's; it must exist.
    patience : float
        Seconds that a write waits for another process that writes.

    Raises
    ------
    HybridError
        If the file is missing, not a store, of another format, or cannot be opened; and from every method if the file
        is damaged, in use for long, or the disk is full.
    """

    def __init__(
        self, path: Path, *, must_exist: bool = False, read_only: bool = False, patience: float = PATIENCE
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._db, self.format = open_database(path, must_exist=must_exist, read_only=read_only, patience=patience)
        self._sound: set[str] = set()
        self._own = f"{path.parent.absolute() / PHOTOS}{os.sep}"
        self._in_bulk = False
        self._given: tuple[int, dict[str, GivenLabel]] | None = None
        self._captures: tuple[int, dict[str, Capture]] | None = None

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; what was written is all in the one file then, unless somebody else is reading it."""
        if not self.read_only:
            self._db.empty_log()
        self._db.close()

    @property
    def has_digests(self) -> bool:
        """Whether rows and vectors have digests; those of a store of format 1 get them at the next write."""
        return self.format > 1

    @property
    def revision(self) -> int:
        """Grows with every change to images or embeddings."""
        return self.state.revision

    @property
    def identity(self) -> str:
        """Random name of this database, so that one built anew in its place is told apart."""
        return meta(self._db, "identity")

    @property
    def state(self) -> StoreState:
        """What the store holds now; files that are made from it keep this."""
        query = "SELECT key, value FROM meta WHERE key IN ('identity', 'revision')"
        if self.has_digests:
            query += """ UNION ALL SELECT 'token', token FROM history
                         WHERE revision = (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'revision')"""
        found = {str(key): str(value) for key, value in self._db.rows(query)}
        if not found.get("identity") or not found.get("revision", "").isdecimal():
            raise damaged(self.path, "no identity or no revision in the table meta")
        return StoreState(found["identity"], int(found["revision"]), found.get("token", ""))

    def has_held(self, state: StoreState) -> bool:
        """Whether the store is the one of this state and went on from there, whatever was written since."""
        present = self.state
        if present.identity != state.identity or present.revision < state.revision:
            return False
        if not state.token:  # of format 1, whose writes had a number alone
            return True
        row = self.has_digests and self._db.one("SELECT token FROM history WHERE revision = ?", (state.revision,))
        return bool(row) and row == (state.token,)

    def check_state(self, state: StoreState | None, made: str = "the run", *, may_be_older: bool = False) -> bool:
        """Refuse a store that took the place of the one that something was made from.

        Parameters
        ----------
        state : StoreState or None
            Of the store then; None where it is not known, as in runs of hybrid 0.1.0.
        made : str
            What was made from it, for the error.
        may_be_older : bool
            Whether a store that was restored from a backup is no error.

        Returns
        -------
        bool
            Whether it is as it was then, or went on from there; False: it is older.

        Raises
        ------
        StoreError
            If this store is another one, was made anew, or is older.
        """
        if state is None or self.has_held(state):
            return True
        folder, present = self.path.parent, self.state
        again = f"put back the {self.path.name} that belongs here"
        if present.identity != state.identity:
            raise StoreError(
                f"{self.path} is the index of another run, or was made anew",
                expected=f"identity {state.identity}",
                got=f"identity {present.identity}",
                fix=f"{again}; or move it away and make it again: hybrid build-index SOURCE --run {folder} (and hybrid "
                "add-class)",
            )
        if may_be_older:
            return False
        raise StoreError(
            f"{self.path} is older than {made}: restored from a backup, or its last changes were lost",
            expected=f"write {state.revision} ({state.token or 'of format 1'}), or later",
            got=f"write {present.revision} ({present.token or 'of format 1'})",
            fix=f"{again}, with its -wal file if there is one; or bring it up to date: hybrid build-index SOURCE "
            f"--run {folder}, hybrid add-class for photos that were added since, then hybrid train-head",
        )

    @property
    def is_empty(self) -> bool:
        """Whether the store holds no images."""
        return self._db.one("SELECT 1 FROM photos LIMIT 1") is None

    def image_rows(self) -> Iterator[ImageRow]:
        """Every image as a row, ordered by path: the cheapest way through all of them.

        They are read as they are asked for; nothing may be written before the last one.
        """
        labels = self.labels_in_force()
        rows = self.source_rows()
        return (row.given(labels.get(row.sha256)) for row in rows) if labels else rows

    def source_rows(self) -> Iterator[ImageRow]:
        """As `image_rows`, with the labels and splits of the sources, whatever people said since."""
        # Digests do not tell that a page with some of the rows is passed over.
        self._check_pages("quick_check(photos)")
        return self._rows_where("true")

    def source_rows_at(self, paths: Collection[str]) -> Iterator[ImageRow]:
        """As `source_rows`, for some paths, as far as there are any."""
        return self._rows_where("path IN (SELECT value FROM json_each(?))", self._stored(paths))

    def images(self) -> list[StoredImage]:
        """Every image, ordered by path."""
        return self._labeled(self.source_rows())

    def images_at(self, paths: Collection[str]) -> list[StoredImage]:
        """Images of these paths, as far as there are any, ordered by path."""
        return self._labeled(self._rows_where("path IN (SELECT value FROM json_each(?))", self._stored(paths)))

    def _labeled(self, rows: Iterable[ImageRow]) -> list[StoredImage]:
        """Images with the labels in force, and with what is known of their captures."""
        labels, known = self.labels_in_force(), self.captures()
        made = []
        for row in rows:
            own = labels.get(row.sha256)
            image = (
                row.image
                if own is None
                else StoredImage(row.given(own).image.record, row.sha256, own, (row.label, row.split))
            )
            if (capture := known.get(row.path)) is not None:
                image = replace(image, record=replace(image.record, **capture._asdict()))
            made.append(image)
        return made

    def captures(self) -> dict[str, Capture]:
        """When and where images were taken, by path, as far as their sources said so."""
        revision = self.revision
        if self._captures is None or self._captures[0] != revision:
            known = captures.read(self._db).items()
            self._captures = revision, {self._absolute(path): capture for path, capture in known}
        return self._captures[1]

    def forget_captures(self, paths: Collection[str]) -> None:
        """Forget when and where these images were taken."""
        if paths:
            with self._db.transaction():
                captures.forget(self._db, self._stored(paths))
                self._grow_revision()

    def images_with(self, hashes: Collection[str], *, every: bool = False) -> list[StoredImage]:
        """All images of these contents, ordered by path.

        Parameters
        ----------
        every : bool
            Whether each content should have one: where one lacks, a damaged page that may hide it is an error.
        """
        found = self._labeled(self._rows_where("sha256 IN (SELECT value FROM json_each(?))", hashes))
        if every and len({image.sha256 for image in found}) < len(set(hashes)):
            self.check_images_found()
        return found

    def images_sharing(self, labels: Collection[str]) -> list[StoredImage]:
        """Images of these labels, and all other images of the same contents, ordered by path."""
        with self._db.snapshot():
            in_force, wanted = self.labels_in_force(), set(labels)
            own = list(self._rows_where("label IN (SELECT value FROM json_each(?))", labels))
            hashes = {row.sha256 for row in own if row.sha256 not in in_force}
            hashes.update(sha256 for sha256, given_label in in_force.items() if given_label.label in wanted)
            found = self.images_with(hashes)
        lost = {row.path for row in own if row.sha256 in hashes} - {image.record.path for image in found}
        if lost:
            raise damaged(self.path, "photos that are not found by their content")
        return found

    def images_added(self, keys: Collection[str]) -> list[StoredImage]:
        """Images that a person added to the classes of these `class_key`s, whatever their labels are now, by path."""
        query = "SELECT DISTINCT label FROM photos WHERE label IS NOT NULL"
        labels = [label for (label,) in self._db.rows(query) if class_key(str(label)) in keys]
        rows = self._rows_where("label IN (SELECT value FROM json_each(?))", labels)
        return self._labeled(row for row in rows if added_to(row.source) is not None)

    def labels(self) -> dict[str, int]:
        """Every label and its number of images, ordered by label."""
        query = "SELECT label, count(*) FROM photos {} WHERE label IS NOT NULL GROUP BY 1 ORDER BY 1"
        ways = ("NOT INDEXED", "INDEXED BY photos_by_label") if self.has_digests else ("NOT INDEXED",)
        with self._db.snapshot():
            labels, *copies = (list(self._db.rows(query.format(way))) for way in ways)
            in_force = self.labels_in_force()
            changed = list(self._rows_where("sha256 IN (SELECT value FROM json_each(?))", in_force)) if in_force else []
        if any(copy != labels for copy in copies) or not all(isinstance(label, str) for label, _ in labels):
            raise damaged(self.path, "labels that are not what was written")
        if not changed:
            return dict(labels)
        counts = Counter(dict(labels))
        counts.subtract(row.label for row in changed if row.label is not None)
        now = [row.given(in_force[row.sha256]).label for row in changed]
        counts.update(label for label in now if label is not None)
        return {label: count for label, count in sorted(counts.items()) if count}

    @property
    def all_labeled(self) -> bool:
        """Whether no image lacks a label."""
        in_force = self.labels_in_force()
        if not in_force:
            return self._db.one("SELECT 1 FROM photos WHERE label IS NULL LIMIT 1") is None
        lacking = {str(sha256) for (sha256,) in self._db.rows("SELECT sha256 FROM photos WHERE label IS NULL")}
        return lacking <= in_force.keys() and not self.images_with(self.negatives())

    @property
    def has_own(self) -> bool:
        """Whether a person ever labeled an image, or brought one that the run keeps itself."""
        own = "SELECT 1 FROM photos WHERE path >= ? AND path < ? LIMIT 1"
        return given.has_table(self._db) or self._db.one(own, (f"{PHOTOS}/", f"{PHOTOS}0")) is not None

    def own_images(self) -> list[StoredImage]:
        """Images that the run keeps itself."""
        return self._labeled(self._rows_where(f"path >= '{PHOTOS}/' AND path < '{PHOTOS}0'"))

    def given_labels(self) -> list[GivenLabel]:
        """Every label that a person gave, and what was taken back, oldest first."""
        return given.read(self._db)

    def labels_in_force(self) -> dict[str, GivenLabel]:
        """By content, the label that a person gave to it and that holds, ``none of these`` among them."""
        revision = self.revision
        if self._given is None or self._given[0] != revision:
            self._given = revision, given.in_force(self.given_labels())
        return self._given[1]

    def negatives(self) -> list[str]:
        """Contents that show none of the classes, as a person said."""
        return [sha256 for sha256, row in self.labels_in_force().items() if row.label == NONE]

    def write_labels(self, rows: Sequence[GivenLabel]) -> list[int]:
        """Add labels that people gave to the history, in one transaction; gives their ids."""
        if not rows:
            return []
        self._upgrade()
        with self._db.transaction():
            ids = given.write(self._db, rows)
            self._grow_revision()
        return ids

    def embedded(self, fingerprint: str, among: Collection[str] | None = None) -> set[str]:
        """Content hashes, of all or of some, that have a vector of this encoder."""
        # The + keeps SQLite from going by encoder, which would read every vector for its hash.
        query, values = "SELECT sha256 FROM embeddings WHERE +fingerprint = ?", [fingerprint]
        if among is not None:
            query += " AND sha256 IN (SELECT value FROM json_each(?))"
            values.append(json_list(among))
        return {sha256 for (sha256,) in self._db.rows(query, values)}

    def embeddings(self, hashes: Sequence[str], fingerprint: str) -> FloatArray:
        """Vectors of the given content hashes, in their order, shape (n, dim).

        Raises
        ------
        StoreError
            If one has no vector of this encoder, or is damaged.
        """
        place = {name: number for number, name in enumerate(dict.fromkeys(hashes))}
        vectors = np.empty((len(place), self.dim(fingerprint) or 0), dtype=np.float32)
        query = f"""SELECT sha256, vector, {self._digest} FROM embeddings
                    WHERE fingerprint = ? AND sha256 IN (SELECT value FROM json_each(?))"""  # noqa: S608
        missing = len(place)
        for rows in batched(self._db.rows(query, (fingerprint, json_list(place))), _CHUNK):
            found = self._vectors(rows, fingerprint)
            if found.shape[1] != vectors.shape[1]:
                raise damaged(self.path, f"the vector of {rows[0][0]} is not as long as others")
            vectors[[place[name] for name, _, _ in rows]] = found
            missing -= len(rows)
        if missing:
            self.check_vectors_found()
            raise StoreError(
                f"{missing} of {len(place)} photos have no vector of encoder {fingerprint}",
                fix="run hybrid build-index again with this encoder (hybrid add-class for photos of an added class)",
            )
        return vectors if len(place) == len(hashes) else vectors[[place[name] for name in hashes]]

    def dim(self, fingerprint: str) -> int | None:
        """Length of this encoder's vectors, None where there is none."""
        query = "SELECT length(vector) FROM embeddings WHERE fingerprint = ? LIMIT 1"
        row = self._db.one(query, (fingerprint,))
        return int(row[0]) // 4 if row else None

    def rows(self, fingerprint: str) -> VectorRows:
        """Vectors of one encoder by row id."""
        return VectorRows(self._db, fingerprint, digests=self.has_digests, given=self.labels_in_force)

    def check_vectors_found(self) -> None:
        """Make sure that a vector that was not found is not there; StoreError if a damaged page may hide it."""
        self._check_pages("integrity_check(embeddings)")

    def check_images_found(self) -> None:
        """Make sure that an image that was not found is not there; StoreError if a damaged page may hide it."""
        self._check_pages("integrity_check(photos)")

    def check_pages(self) -> None:
        """Let SQLite verify the whole file: its pages, and its indices against its tables."""
        self._check_pages("integrity_check")

    def encoders(self) -> dict[str, str]:
        """Fingerprints of all encoders that vectors are of, and their names."""
        query = """SELECT DISTINCT fingerprint, coalesce(name, fingerprint) FROM embeddings
                   LEFT JOIN encoders USING (fingerprint) ORDER BY 1"""
        return {str(fingerprint): str(name) for fingerprint, name in self._db.rows(query)}

    def damaged_texts(self) -> tuple[int, int]:
        """How many cached text vectors do not fit their digests, and how many there are."""
        texts = list(self._db.rows(f"SELECT text, fingerprint, vector, {self._digest} FROM texts"))  # noqa: S608
        return sum(not is_sound(*row) for row in texts) if self.has_digests else 0, len(texts)

    def damage(self, got: str) -> StoreError:
        """Make the error for content that is not what was written."""
        return damaged(self.path, got)

    def mend(self) -> list[str]:
        """Forget rows and vectors that are not what was written, so that they are made again; gives the rows' paths.

        Raises
        ------
        StoreError
            If that does not mend it.
        """
        self._upgrade()
        with self._db.transaction():
            self._db.change("REINDEX")
            rows = self._db.rows(f"SELECT {_COLUMNS}, digest FROM photos")  # noqa: S608
            paths = [row[0] for row in rows if row_digest(row[:-1]) != row[-1]]
            vectors = self._db.rows("SELECT id, sha256, fingerprint, vector, digest FROM embeddings")
            numbers = [number for number, *row in vectors if not is_sound(*row)]
            self._db.change_each("DELETE FROM photos WHERE path = ?", [(path,) for path in paths])
            self._db.change_each("DELETE FROM embeddings WHERE id = ?", [(number,) for number in numbers])
            lost = given.mend(self._db)
            unplaced = captures.mend(self._db)
            if paths or numbers or lost or unplaced:
                self._set("loose", 1)
                self._grow_revision()
        paths += [f"label {number}, which a person gave" for number in lost]
        paths += [f"when and where {path} was taken" for path in unplaced]
        self._sound.clear()
        self._check_pages("integrity_check")
        return [str(path) for path in paths]

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
            Replace what the store knew of their paths; where one does not say when and where it was taken, that stays.
        vectors : mapping of content hash to (dim,) float32
            New embeddings by the encoder `fingerprint`.
        """
        images = list(images)
        rows = [self._relative(image.row) for image in images]
        vectors = vectors or {}
        if not rows and not vectors:
            return
        self._upgrade()
        with self._db.transaction():
            if self._leaves_vectors(rows, vectors):
                self._set("loose", 1)
            query = f"INSERT OR REPLACE INTO photos ({_COLUMNS}, digest) VALUES"
            self._db.insert(query, [(*row, row_digest(row)) for row in rows])
            taken = zip(rows, (image.record.capture for image in images), strict=True)
            captures.write(self._db, {row.path: capture for row, capture in taken if capture})
            if vectors:
                numbered = enumerate(vectors.items(), self._last_id() + 1)
                values = [_vector_row(number, name, fingerprint, vector) for number, (name, vector) in numbered]
                self._db.insert(
                    "INSERT OR IGNORE INTO embeddings (id, sha256, fingerprint, vector, digest) VALUES", values
                )
            self._grow_revision()

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Write many batches of new images: what finds images by content is made once, when the block ends.

        Each new hash falls anywhere in that index, so that a batch would write a page of it for every image. Until then
        images are found by content as well, but slowly. Where the block does not end, the next write makes the index.
        Batches that follow each other fast are committed together (`Database.together`): a process that is killed
        leaves whole batches, and may lose those of the last second.
        """
        self._upgrade()
        self._in_bulk = True
        try:
            self._db.change("DROP INDEX IF EXISTS photos_by_content")
            with self._db.together():
                yield
        finally:
            self._in_bulk = False
        self._upgrade()

    def _leaves_vectors(self, rows: Sequence[ImageRow], vectors: Mapping[str, FloatArray]) -> bool:
        """Whether a batch may leave vectors that no image has: of the bytes that a path held before, or its own."""
        new = {row.path: row.sha256 for row in rows}
        if not vectors.keys() <= set(new.values()):
            return True
        query = "SELECT path, sha256 FROM photos WHERE path IN (SELECT value FROM json_each(?))"
        known = self._db.rows(query, (json_list(new),))
        return any(new.get(path) != sha256 for path, sha256 in known)

    def remove(self, paths: Sequence[str]) -> None:
        """Forget images, and all vectors that no image has (any more: its file may have changed)."""
        # Only a store of the first version does not say whether it holds such vectors.
        loose = meta(self._db, "loose") != "0"
        if not paths and not loose:
            return
        self._upgrade()
        with self._db.transaction():
            contents = {image.sha256 for image in self.images_at(paths)}
            self._db.change_each("DELETE FROM photos WHERE path = ?", [(path,) for path in self._stored(paths)])
            captures.forget(self._db, self._stored(paths))
            self._set("last_id", self._last_id())
            # By id, for SQLite would else read every vector for its hash.
            orphans = "SELECT id FROM embeddings WHERE sha256 NOT IN (SELECT sha256 FROM photos)"
            if not loose:
                orphans += " AND sha256 IN (SELECT value FROM json_each(?))"
            values = () if loose else (json_list(contents),)
            gone = self._db.change(f"DELETE FROM embeddings WHERE id IN ({orphans})", values)  # noqa: S608
            self._set("loose", 0)
            if paths or gone:
                self._grow_revision()

    def _last_id(self) -> int:
        """The largest row id that a vector ever had: SQLite alone would give that of a removed one again."""
        ((last,),) = self._db.rows("SELECT coalesce(max(id), 0) FROM embeddings")
        return max(int(last), int(meta(self._db, "last_id") or 0))

    def renew_identity(self) -> None:
        """Give a copy an identity of its own: from now on it is the index of another run."""
        self._db.change("UPDATE meta SET value = lower(hex(randomblob(8))) WHERE key = 'identity'")

    def name_encoder(self, fingerprint: str, name: str) -> None:
        """Keep a readable name beside a fingerprint."""
        if self._db.one("SELECT 1 FROM encoders WHERE (fingerprint, name) = (?, ?)", (fingerprint, name)) is None:
            self._db.change("INSERT OR REPLACE INTO encoders VALUES (?, ?)", (fingerprint, name))

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and label, and vectors by encoder name, for `hybrid info`."""
        splits = Counter(row.split or "none" for row in self.image_rows())
        by_encoder = (
            "SELECT coalesce(name, fingerprint), count(*) FROM embeddings LEFT JOIN encoders USING (fingerprint) "
            "GROUP BY fingerprint ORDER BY 1"
        )
        return {
            "splits": dict(sorted(splits.items())),
            "labels": self.labels(),
            "embeddings": dict(self._db.rows(by_encoder)),
        }

    def texts(self, texts: Sequence[str], encoder: str) -> dict[str, FloatArray]:
        """Cached text vectors (dim,) of this encoder, for those of `texts` that have one."""
        query = f"SELECT text, vector, {self._digest} FROM texts WHERE text = ? AND fingerprint = ?"  # noqa: S608
        found = {}
        for row in (row for text in texts if (row := self._db.one(query, (text, encoder)))):
            # One that is damaged is encoded and written anew, as one that is missing.
            with suppress(StoreError):
                found[str(row[0])] = self._vectors([row], encoder)[0]
        return found

    def write_texts(self, vectors: Mapping[str, FloatArray], encoder: str) -> None:
        """Cache text vectors (dim,) of this encoder."""
        rows: list[tuple[Any, ...]] = []
        for text, vector in vectors.items():
            blob = to_blob(vector)
            rows.append((text, encoder, blob, *((vector_digest(text, encoder, blob),) if self.has_digests else ())))
        columns = "text, fingerprint, vector" + (", digest" if self.has_digests else "")
        marks = "?,?,?,?" if self.has_digests else "?,?,?"
        with self._db.transaction():
            self._db.change_each(f"INSERT OR REPLACE INTO texts ({columns}) VALUES ({marks})", rows)  # noqa: S608

    def _upgrade(self) -> None:
        if not self.has_digests:
            upgrade(self._db)
            self.format = int(meta(self._db, "format"))
        if not self._in_bulk:
            self._db.change(BY_CONTENT)

    @property
    def _digest(self) -> str:
        """The column, as far as there is one."""
        return "digest" if self.has_digests else "NULL"

    def _vectors(self, rows: Sequence[tuple[Any, ...]], encoder: str) -> FloatArray:
        return checked_vectors(rows, encoder, self.path, digests=self.has_digests)

    def _rows_where(self, condition: str, values: Collection[str] | None = None) -> Iterator[ImageRow]:
        """Rows that satisfy a condition (SQL of this module), ordered by path; its ``json_each(?)`` are the values."""
        columns = f"{_COLUMNS}, digest" if self.has_digests else _OLD_COLUMNS
        query = f"SELECT {columns} FROM photos WHERE {condition} ORDER BY path"  # noqa: S608
        rows = self._db.rows(query, () if values is None else (json_list(values),))
        return map(self._checked if self.has_digests else partial(typed_row, path=self.path), rows)

    def _checked(self, values: tuple[Any, ...]) -> ImageRow:
        row = ImageRow._make(values[:-1])
        if row_digest(row) != values[-1]:
            raise damaged(self.path, f"the row of {row.path!r} is not what was written: it does not fit its digest")
        return row._replace(path=self._absolute(row.path)) if row.path.startswith(_OWN) else row

    def _absolute(self, path: str) -> str:
        return self._own + path.removeprefix(_OWN) if path.startswith(_OWN) else path

    def _stored(self, paths: Iterable[str]) -> list[str]:
        """Paths as the table has them: those of images that the run keeps itself are relative."""
        own = self._own
        return [f"{PHOTOS}/{path.removeprefix(own)}" if path.startswith(own) else path for path in paths]

    def _relative(self, row: ImageRow) -> ImageRow:
        return row._replace(path=self._stored([row.path])[0]) if row.path.startswith(self._own) else row

    def _check_pages(self, check: str) -> None:
        if check in self._sound:
            return
        found = [str(line) for (line,) in self._db.rows(f"PRAGMA {check}")]
        if found != ["ok"]:
            raise damaged(self.path, found[0])
        self._sound.add(check)

    def _set(self, key: str, value: int) -> None:
        self._db.change("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    def _grow_revision(self) -> None:
        self._db.change("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'revision'")
        # A number that was given before was lost with a log, or stood in a file that came from elsewhere.
        query = "INSERT OR REPLACE INTO history SELECT CAST(value AS INTEGER), ? FROM meta WHERE key = 'revision'"
        self._db.change(query, (new_token(),))


def _vector_row(number: int, sha256: str, fingerprint: str, vector: FloatArray) -> tuple[Any, ...]:
    blob = to_blob(vector)
    return number, sha256, fingerprint, blob, vector_digest(sha256, fingerprint, blob)
