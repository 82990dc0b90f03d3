"""A read-only archive of all that a plan embedded: its parts as they are, and a FAISS index over their vectors.

A folder holds all of it::

    archive.json         what it holds; written last, so that a folder without it is half an archive
    parts/               the parts, hard links where the file system can, else copies
    index.faiss          every vector by its row number, counted through the parts; or how they are sorted into lists
    index.lists          the lists, and in index.digests.npy a digest of each
    rows.runs.npy        where single vectors lie in the parts, and in rows.digests.npy a digest of each
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hybrid.cluster.archive_index import ArchiveIndex, IndexInfo, build_again
from hybrid.cluster.archive_rows import PartRows, RowVectors
from hybrid.cluster.parts import PartBatch, check_part, halves_of, iterate_part, opened_part, read_part, vectors_of
from hybrid.cluster.tables import CHUNK, RECORD_NAMES, to_records
from hybrid.config import EncoderSettings
from hybrid.encoders.base import FloatArray, unit_norm
from hybrid.errors import ConfigError, StoreError, named_file_errors
from hybrid.images.records import ImageRecord
from hybrid.index.ivf import NEAREST, SEED
from hybrid.index.rows import Ids
from hybrid.run.files import parse_json

FORMAT = 1
INFO, PARTS = "archive.json", "parts"
# Groups of rows that a sample is drawn from: 4 MiB each of 512 numbers.
BLOCKS = 256
# How a run gets vectors of the encoder of an archive.
OTHER_RUN = "take a run with vectors of the archive's encoder: hybrid import-index DIR --run R, and train-head"


class ArchivePart(Struct, frozen=True):
    """A part: its name, rows and bytes."""

    name: str
    rows: int
    size: int


class ArchiveInfo(Struct, frozen=True, kw_only=True):
    """``archive.json``.

    Attributes
    ----------
    encoder : EncoderSettings
    encoder_name, fingerprint, dim
        See `hybrid.encoders.base.Encoder`.
    parts : tuple of ArchivePart
        In the order in which rows are counted.
    vectors : int
    index : IndexInfo
    """

    format: int = FORMAT
    encoder: EncoderSettings
    encoder_name: str
    fingerprint: str
    dim: int
    parts: tuple[ArchivePart, ...]
    vectors: int
    index: IndexInfo

    @property
    def rows(self) -> int:
        """Photos, those that could not be read too."""
        return sum(part.rows for part in self.parts)

    @property
    def line(self) -> str:
        """What to tell people of a search."""
        index = self.index
        if not index.lists:
            return f"exact search among {self.vectors:,} vectors"
        again = f", {index.candidates} candidates compared again" if index.candidates else ""
        return (
            f"approximate search among {self.vectors:,} vectors: {index.nprobe} of {index.lists} IVF lists{again}, "
            f"which finds {index.recall:.1%} of the {NEAREST} nearest photos (measured on {index.sample})"
        )


class ArchiveRows(NamedTuple):
    """Some rows of an archive, ascending.

    Attributes
    ----------
    rows : tuple of n int
    records : tuple of n ImageRecord
    hashes : tuple of n str
    halves : (n, dim) float16
        Their vectors as they are stored.
    """

    rows: tuple[int, ...]
    records: tuple[ImageRecord, ...]
    hashes: tuple[str, ...]
    halves: NDArray[np.float16]

    def vectors(self, places: Sequence[int]) -> FloatArray:
        """Vectors of some of them, (m, dim) float32, of unit norm."""
        return unit_norm(self.halves[list(places)])


class ArchiveRecords:
    """The images of an archive, in order; none is kept in memory."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def __iter__(self) -> Iterator[ImageRecord]:
        for batch in self._archive._columns(*RECORD_NAMES):
            yield from to_records(batch)


@dataclass(frozen=True)
class Archive:
    """An archive in a folder."""

    root: Path
    info: ArchiveInfo

    @classmethod
    def open(cls, root: Path) -> Archive:
        """Read what an archive holds, and see that its files are there.

        Raises
        ------
        StoreError
            If there is none, it was not finished, or a part is missing or cut off.
        """
        file = root / INFO
        if not file.is_file():
            half = (root / PARTS).is_dir()
            raise StoreError(
                f"{root} is half an archive: its build did not end" if half else f"there is no archive in {root}",
                expected=str(file),
                got="no such file",
                fix=build_again(root),
            )
        with named_file_errors("the archive cannot be read", file):
            info = parse_json(file.read_bytes(), ArchiveInfo, file, build_again(root))
        for part in info.parts:
            place = root / PARTS / part.name
            size = place.stat().st_size if place.is_file() else None
            if size != part.size:
                raise StoreError(
                    f"a part of the archive is {'missing' if size is None else 'cut off or another file'}: {place}",
                    expected=f"{part.size} bytes",
                    got="no file" if size is None else f"{size} bytes",
                    fix=build_again(root),
                )
        return cls(root, info)

    def check_encoder(self, fingerprint: str, of: str, fix: str = "") -> None:
        """Refuse an encoder whose vectors are not those of the archive."""
        if fingerprint != self.info.fingerprint:
            raise ConfigError(
                f"the archive {self.root} holds vectors of another encoder than {of}",
                expected=f"fingerprint {self.info.fingerprint} ({self.info.encoder_name})",
                got=f"fingerprint {fingerprint}",
                fix=fix or "embed the query with the archive's encoder, or build an archive with the run's",
            )

    def search(self, query: FloatArray, count: int) -> list[tuple[ImageRecord, str, float]]:
        """Find the rows that are most similar to a query (1, dim): image, content hash and cosine, best first.

        Raises
        ------
        StoreError
            If something that the search reads does not fit its digest, or a part is damaged.
        """
        similarity, rows = self.nearest(query, count)
        hits = [(int(row), float(score)) for row, score in zip(rows[0], similarity[0], strict=True) if row >= 0]
        found = self.images([row for row, _ in hits])
        return [(*found[row], score) for row, score in hits]

    def nearest(self, queries: FloatArray, count: int) -> tuple[FloatArray, Ids]:
        """Find the rows that are most similar to each query (n, dim).

        Returns
        -------
        similarity, rows : (n, count)
            The most similar first, by row numbers; -1 where the lists that were searched hold no more. Errors as those
            of `search`.
        """
        count = min(count, self.info.vectors)
        candidates = self.info.index.candidates
        if not candidates:
            return self._index.search(queries, count)
        _, found = self._index.search(queries, min(self.info.vectors, -(-count * candidates // NEAREST)))
        rows = np.unique(found[found >= 0])
        vectors = self._vectors.read(rows)
        near = np.full((len(queries), count), -np.inf, dtype=np.float32), np.full((len(queries), count), -1, np.int64)
        for number, query in enumerate(queries):
            own = found[number][found[number] >= 0]
            similarity = vectors[np.searchsorted(rows, own)] @ query
            best = np.argsort(-similarity, kind="stable")[:count]
            near[0][number, : len(best)], near[1][number, : len(best)] = similarity[best], own[best]
        return near

    def images(self, rows: Sequence[int]) -> dict[int, tuple[ImageRecord, str]]:
        """Image and content hash of rows, by row number; nothing else of the parts is read but their groups of rows."""
        return {
            row: (record, str(sha256))
            for own, batch, _ in self._chosen(rows, (*RECORD_NAMES, "sha256"))
            for row, record, sha256 in zip(own, to_records(batch), batch.column("sha256").to_pylist(), strict=True)
        }

    def take(self, rows: Sequence[int]) -> ArchiveRows:
        """Those of some rows whose images could be read, ascending."""
        numbers: list[int] = []
        records: list[ImageRecord] = []
        hashes: list[str] = []
        halves = [np.empty((0, self.info.dim), np.float16)]
        for own, batch, file in self._chosen(rows, (*RECORD_NAMES, "sha256", "vector", "reason")):
            vectors_of(batch, file)  # says what is wrong with them
            there = np.flatnonzero(np.asarray(batch.column("vector").is_valid())).tolist()
            every, contents = to_records(batch), batch.column("sha256").to_pylist()
            numbers += [own[place] for place in there]
            records += [every[place] for place in there]
            hashes += [str(contents[place]) for place in there]
            halves.append(halves_of(batch)[there])
        return ArchiveRows(tuple(numbers), tuple(records), tuple(hashes), np.concatenate(halves))

    def sample(self, count: int) -> ArchiveRows:
        """Rows that are drawn at random, the same each time; see `draw_rows`."""
        return self.take(draw_rows([part.rows for part in self.info.parts], count))

    def _chosen(self, rows: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[list[int], Any, Path]]:
        """Some rows, ascending, as RecordBatches of some columns: row numbers, batch, and the part that it is of."""
        wanted, start = np.unique(np.array(rows, dtype=np.int64)), 0
        for part in self.info.parts:
            own = wanted[slice(*np.searchsorted(wanted, [start, start + part.rows]))] - start
            if len(own):
                file = self.root / PARTS / part.name
                for places, batch in _groups(file, self.info.fingerprint, own, columns):
                    yield (start + places).tolist(), batch, file
            start += part.rows

    def batches(self) -> Iterator[PartBatch]:
        """All rows in order, some thousand at a time; StoreError where a part is damaged."""
        for part in self.info.parts:
            yield from read_part(self.root / PARTS / part.name, self.info.fingerprint)

    @property
    def records(self) -> ArchiveRecords:
        """All images in order, read from the parts each time that they are gone through."""
        return ArchiveRecords(self)

    @cached_property
    def has_sequences(self) -> bool:
        """Whether images say that they belong to one sequence."""
        return any(batch.column(0).null_count < batch.num_rows for batch in self._columns("sequence"))

    def _columns(self, *names: str) -> Iterator[Any]:
        for part in self.info.parts:
            yield from iterate_part(self.root / PARTS / part.name, self.info.fingerprint, columns=names)

    def check(self) -> None:
        """Read all of it, and hold it against its digests; StoreError where something does not fit."""
        for part in self.info.parts:
            check_part(self.root / PARTS / part.name, self.info.fingerprint)
        self._index.check()
        if self.info.index.candidates:
            self._vectors.check()

    @cached_property
    def _index(self) -> ArchiveIndex:
        return ArchiveIndex(self.root, self.info.index)

    @cached_property
    def _vectors(self) -> RowVectors:
        parts = [PartRows(self.root / PARTS / part.name, part.rows, part.size) for part in self.info.parts]
        return RowVectors(self.root, parts, self.info.dim)


def draw_rows(sizes: Sequence[int], count: int) -> list[int]:
    """Draw rows at random, each with the same probability, from parts of these sizes; the same ones each time.

    Of many rows, `BLOCKS` groups of rows are drawn first, and then the same share of each: a group is read as a whole,
    and single rows from all over would be as many reads.
    """
    rng = np.random.default_rng(SEED)
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    blocks = [
        (start + at, min(CHUNK, rows - at))
        for start, rows in zip(starts, sizes, strict=True)
        for at in range(0, rows, CHUNK)
    ]
    chosen = [blocks[place] for place in rng.permutation(len(blocks))[:BLOCKS].tolist()]
    share = min(1.0, count / max(1, sum(rows for _, rows in chosen)))
    drawn = [start + rng.permutation(rows)[: round(share * rows)] for start, rows in chosen]
    return sorted(np.concatenate([np.empty(0, np.int64), *drawn]).tolist())


def _groups(file: Path, fingerprint: str, rows: Ids, columns: Sequence[str]) -> Iterator[tuple[Ids, Any]]:
    """Rows of a part, ascending, from its groups of rows: their numbers, and a RecordBatch of some columns."""
    with opened_part(file, fingerprint) as (part, _):
        at = 0
        for group in range(part.num_row_groups):
            count = part.metadata.row_group(group).num_rows
            own = rows[slice(*np.searchsorted(rows, [at, at + count]))]
            if len(own):
                table = part.read_row_group(group, columns=list(columns), use_threads=False)
                yield own, table.take(own - at).combine_chunks().to_batches()[0]
            at += count
