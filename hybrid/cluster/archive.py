"""A read-only archive of all that a plan embedded: its parts as they are, and a FAISS index over their vectors.

A folder holds all of it::

    archive.json    what it holds; written last, so that a folder without it is half an archive
    parts/          the parts, hard links where the file system can, else copies
    index.faiss     every vector by its row number, counted through the parts
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from hybrid.cluster.parts import iterate_part, vectors_of
from hybrid.cluster.places import AnyPath
from hybrid.cluster.plan import PlanFolder
from hybrid.cluster.tables import to_records
from hybrid.config import EncoderSettings
from hybrid.encoders.base import FloatArray
from hybrid.errors import ConfigError, StoreError, file_error, named_file_errors
from hybrid.files import atomic_write, file_sha256
from hybrid.images.records import ImageRecord
from hybrid.index.faiss_build import EXACT_UP_TO
from hybrid.index.ivf import KMEANS_ITERATIONS, MIN_RECALL, NEAREST, POINTS_PER_LIST, SEED
from hybrid.index.rows import Ids
from hybrid.run.files import parse_json, to_json

FORMAT = 1
# Vectors that recall is measured with.
QUERIES = 200


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
    index_sha256 : str
        Of ``index.faiss``.
    lists, nprobe : int
        IVF lists, and how many a search probes; 0 where every vector is compared.
    recall : float
        At 10, over `QUERIES` vectors of the archive.
    """

    format: int = FORMAT
    encoder: EncoderSettings
    encoder_name: str
    fingerprint: str
    dim: int
    parts: tuple[ArchivePart, ...]
    vectors: int
    index_sha256: str
    lists: int = 0
    nprobe: int = 0
    recall: float = 1.0

    @property
    def line(self) -> str:
        """What to tell people of a search."""
        if not self.lists:
            return f"exact search among {self.vectors:,} vectors"
        found = f"which finds {self.recall:.1%} of the {NEAREST} nearest photos"
        return f"approximate search among {self.vectors:,} vectors: {self.nprobe} of {self.lists} IVF lists, {found}"


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
        file = root / "archive.json"
        again = f"build it again: hybrid archive build DIR --out {root}"
        if not file.is_file():
            half = (root / "parts").is_dir()
            raise StoreError(
                f"{root} is half an archive: its build did not end" if half else f"there is no archive in {root}",
                expected=str(file),
                got="no such file",
                fix=again,
            )
        with named_file_errors("the archive cannot be read", file):
            info = parse_json(file.read_bytes(), ArchiveInfo, file, again)
        for part in info.parts:
            place = root / "parts" / part.name
            size = place.stat().st_size if place.is_file() else None
            if size != part.size:
                raise StoreError(
                    f"a part of the archive is {'missing' if size is None else 'cut off or another file'}: {place}",
                    expected=f"{part.size} bytes",
                    got="no file" if size is None else f"{size} bytes",
                    fix=again,
                )
        return cls(root, info)

    def check_encoder(self, fingerprint: str, of: str) -> None:
        """Refuse an encoder whose vectors are not those of the archive."""
        if fingerprint != self.info.fingerprint:
            raise ConfigError(
                f"the archive {self.root} holds vectors of another encoder than {of}",
                expected=f"fingerprint {self.info.fingerprint} ({self.info.encoder_name})",
                got=f"fingerprint {fingerprint}",
                fix="embed the query with the archive's encoder, or build an archive with the run's",
            )

    def search(self, query: FloatArray, count: int) -> list[tuple[ImageRecord, str, float]]:
        """Find the rows that are most similar to a query (1, dim): image, content hash and cosine, best first.

        Raises
        ------
        StoreError
            If the index does not fit its digest, or a part is damaged.
        """
        import faiss

        file = self.root / "index.faiss"
        with named_file_errors("the archive's index cannot be read", file):
            found_digest = file_sha256(file)
        if found_digest != self.info.index_sha256:
            raise StoreError(
                f"{file} is damaged: it does not fit its digest",
                expected=self.info.index_sha256[:16],
                got=found_digest[:16],
                fix=f"build the archive again: hybrid archive build DIR --out {self.root}",
            )
        index: Any = faiss.read_index(str(file), faiss.IO_FLAG_MMAP if self.info.lists else 0)
        similarity, rows = index.search(query, min(count, self.info.vectors))
        hits = [(int(row), float(score)) for row, score in zip(rows[0], similarity[0], strict=True) if row >= 0]
        found = self._rows([row for row, _ in hits])
        return [(*found[row], score) for row, score in hits]

    def _rows(self, wanted: list[int]) -> dict[int, tuple[ImageRecord, str]]:
        found: dict[int, tuple[ImageRecord, str]] = {}
        start = 0
        for part in self.info.parts:
            own = {row for row in wanted if start <= row < start + part.rows}
            at = start
            for batch in iterate_part(self.root / "parts" / part.name, self.info.fingerprint) if own else ():
                for row in [row for row in own if at <= row < at + batch.num_rows]:
                    one = batch.slice(row - at, 1)
                    found[row] = to_records(one)[0], str(one.column("sha256")[0].as_py())
                at += batch.num_rows
            start += part.rows
        return found


def build_archive(
    folder: PlanFolder, out: Path, *, progress: Callable[[int], None] = lambda count: None
) -> ArchiveInfo:
    """Make an archive of a plan whose parts are all there.

    Raises
    ------
    HybridError
        If a part is missing or damaged, no photo could be read, or there is no room.
    """
    plan = folder.read()
    missing = len(plan.shards) - len(folder.done(plan))
    if missing:
        raise StoreError(
            f"{missing} of {len(plan.shards)} shards in {folder.root} have no part yet",
            fix=f"hybrid embed run {folder.root} --local (or on a cluster) makes them",
        )
    if out.exists() and (not out.is_dir() or ((out / "plan.json").exists() or (out / "run.json").exists())):
        raise ConfigError("--out is not a folder of an archive", got=str(out), fix="name a new folder")
    try:
        (out / "parts").mkdir(parents=True, exist_ok=True)
        (out / "archive.json").unlink(missing_ok=True)
        parts = tuple(
            _link(folder.part(plan, number), out / "parts", plan.shards[number - 1].rows)
            for number in range(1, len(plan.shards) + 1)
        )
        files = [out / "parts" / part.name for part in parts]
        index, count, recall = _index(files, plan.fingerprint, plan.dim, progress)
        sha256 = _write_index(index, out / "index.faiss")
        info = ArchiveInfo(
            encoder=plan.encoder,
            encoder_name=plan.encoder_name,
            fingerprint=plan.fingerprint,
            dim=plan.dim,
            parts=parts,
            vectors=count,
            index_sha256=sha256,
            lists=getattr(index, "nlist", 0),
            nprobe=getattr(index, "nprobe", 0),
            recall=recall,
        )
        with atomic_write(out / "archive.json") as place:
            place.write_bytes(to_json(info))
    except OSError as error:
        raise file_error(error, f"the archive {out} cannot be written", out) from error
    return info


def _link(part: AnyPath, folder: Path, rows: int) -> ArchivePart:
    place = folder / part.name
    if not isinstance(part, Path):
        with atomic_write(place, sync=False) as new:
            part.download(new)
    elif not (place.exists() and part.samefile(place)):
        with atomic_write(place, sync=False) as new:
            new.unlink()
            try:
                os.link(part, new)
            except OSError:  # another file system, or one without links
                shutil.copyfile(part, new)
    return ArchivePart(part.name, rows, place.stat().st_size)


def _vectors(files: list[Path], fingerprint: str) -> Iterator[tuple[Ids, FloatArray]]:
    """Row numbers and vectors of all images that could be read, some thousand at a time."""
    start = 0
    for file in files:
        for batch in iterate_part(file, fingerprint):
            there = np.flatnonzero(np.asarray(batch.column("vector").is_valid()))
            if len(there):
                yield there + start, vectors_of(batch, file)[there]
            start += batch.num_rows


def _index(files: list[Path], fingerprint: str, dim: int, progress: Callable[[int], None]) -> tuple[Any, int, float]:
    """An exact index, or IVF lists whose vectors are in half precision, as those of the parts; its recall."""
    import faiss

    count = sum(len(ids) for ids, _ in _vectors(files, fingerprint))
    if not count:
        raise StoreError("no photo of the plan could be read", fix="hybrid embed status says what is there")
    index: Any = faiss.IndexIDMap(faiss.IndexFlatIP(dim))
    if count > EXACT_UP_TO:
        lists = max(1, round(count**0.5))
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        index.cp.spherical, index.cp.seed, index.cp.niter = True, SEED, KMEANS_ITERATIONS
        index.cp.max_points_per_centroid = POINTS_PER_LIST
        index.train(_sample(files, fingerprint, count, POINTS_PER_LIST * lists))
    queries = _sample(files, fingerprint, count, QUERIES)
    best = np.full((len(queries), NEAREST), -np.inf, dtype=np.float32)
    nearest = np.full((len(queries), NEAREST), -1, dtype=np.int64)
    for ids, vectors in _vectors(files, fingerprint):
        index.add_with_ids(vectors, ids)
        if count > EXACT_UP_TO:
            similarity, places = faiss.knn(queries, vectors, min(NEAREST, len(ids)), metric=faiss.METRIC_INNER_PRODUCT)
            joined, names = np.concatenate([best, similarity], axis=1), np.concatenate([nearest, ids[places]], axis=1)
            order = np.argsort(-joined, axis=1, kind="stable")[:, :NEAREST]
            best, nearest = np.take_along_axis(joined, order, axis=1), np.take_along_axis(names, order, axis=1)
        progress(len(ids))
    return index, count, 1.0 if count <= EXACT_UP_TO else _set_nprobe(index, queries, nearest)


def _sample(files: list[Path], fingerprint: str, count: int, wanted: int) -> FloatArray:
    """Vectors drawn at random, the same each time."""
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[np.random.default_rng(SEED).permutation(count)[:wanted]] = True
    parts, start = [], 0
    for _, vectors in _vectors(files, fingerprint):
        parts.append(vectors[chosen[start : start + len(vectors)]])
        start += len(vectors)
    return np.concatenate(parts)


def _set_nprobe(index: Any, queries: FloatArray, nearest: Ids) -> float:
    """Set the smallest nprobe, of steps by a half, that finds `MIN_RECALL` of the true neighbors."""
    index.nprobe, recall = 0, 0.0
    while recall < MIN_RECALL and index.nprobe < index.nlist:
        index.nprobe = min(max(index.nprobe + 1, index.nprobe * 3 // 2), index.nlist)
        _, found = index.search(queries, NEAREST)
        recall = float(np.mean([np.isin(own, row).mean() for row, own in zip(found, nearest, strict=True)]))
    return recall


def _write_index(index: Any, file: Path) -> str:
    import faiss

    try:
        with atomic_write(file, sync=False) as part:
            faiss.write_index(index, str(part))
            return file_sha256(part)
    except RuntimeError as error:
        raise StoreError(f"cannot write {file}", got=str(error), fix="make room, or let it be written") from error
