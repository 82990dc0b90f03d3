"""Make an archive of a plan: link its parts, train an index on a sample, add the vectors shard by shard, measure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np

from hybrid.cluster.archive import INFO, PARTS, ArchiveInfo, ArchivePart
from hybrid.cluster.archive_index import IndexBuilder, IndexInfo, Kind, kind_of, training_points
from hybrid.cluster.archive_rows import RowPlaces
from hybrid.cluster.parts import halves_of, iterate_part, vectors_of
from hybrid.cluster.places import AnyPath
from hybrid.cluster.plan import Plan, PlanFolder
from hybrid.encoders.base import FloatArray
from hybrid.errors import ConfigError, StoreError, file_error
from hybrid.files import atomic_write
from hybrid.index.ivf import SEED, Nearest
from hybrid.index.rows import Ids
from hybrid.run.files import to_json

# Vectors that recall is measured with.
QUERIES = 200
# Of the folder that a build writes to until all is there.
BUILDING = ".building-"
AskedKind = Kind | Literal["auto"]


def build_archive(
    folder: PlanFolder,
    out: Path,
    *,
    kind: AskedKind = "auto",
    progress: Callable[[int], None] = lambda count: None,
    say: Callable[[str], None] = lambda line: None,
) -> ArchiveInfo:
    """Make an archive of a plan whose parts are all there. One that is there already serves until the new one is.

    Parameters
    ----------
    folder : PlanFolder
    out : Path
    kind : str
        Of the index (`IndexInfo`); ``auto``: what serves so many vectors.
    progress : callable
        Told of photos that are done.
    say : callable
        Told of each step that takes long, such as training.

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
        (out / PARTS).mkdir(parents=True, exist_ok=True)
        for rest in out.glob(f"{BUILDING}*"):  # of a build that was killed
            shutil.rmtree(rest, ignore_errors=True)
        parts = tuple(
            _link(folder.part(plan, number), out / PARTS, plan.shards[number - 1].rows)
            for number in range(1, len(plan.shards) + 1)
        )
        with TemporaryDirectory(prefix=BUILDING, dir=out) as building:
            count, index = _index(parts, out / PARTS, plan, kind, Path(building), progress, say)
            info = ArchiveInfo(
                encoder=plan.encoder,
                encoder_name=plan.encoder_name,
                fingerprint=plan.fingerprint,
                dim=plan.dim,
                parts=parts,
                vectors=count,
                index=index,
            )
            _put_in_place(Path(building), out, info)
    except OSError as error:
        raise file_error(error, f"the archive {out} cannot be written", out) from error
    return info


def _put_in_place(building: Path, out: Path, info: ArchiveInfo) -> None:
    """Give the files their names, and remove those of an archive that was there before."""
    (out / INFO).unlink(missing_ok=True)
    new = {file.name for file in building.iterdir()}
    for name in new:
        (building / name).replace(out / name)
    for pattern in ("index.*", "rows.*"):
        for file in out.glob(pattern):
            if file.name not in new:
                file.unlink()
    own = {part.name for part in info.parts}
    for file in (out / PARTS).iterdir():
        if file.name not in own:
            file.unlink()
    with atomic_write(out / INFO) as place:
        place.write_bytes(to_json(info))


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


class _Rows(NamedTuple):
    """Rows of a part: their numbers in the archive, and what is stored of them."""

    start: int
    there: Ids
    vectors: FloatArray
    batch: Any


def _rows(file: Path, fingerprint: str, start: int) -> Iterator[_Rows]:
    """Rows of a part, some thousand at a time; vectors (n, dim) of those that are `there`, counted from `start`."""
    for batch in iterate_part(file, fingerprint, columns=["vector", "reason"]):
        there = np.flatnonzero(np.asarray(batch.column("vector").is_valid()))
        vectors = vectors_of(batch, file)
        yield _Rows(start, there, vectors if len(there) == len(vectors) else vectors[there], batch)
        start += batch.num_rows


def _index(
    parts: tuple[ArchivePart, ...],
    folder: Path,
    plan: Plan,
    asked: AskedKind,
    building: Path,
    progress: Callable[[int], None],
    say: Callable[[str], None],
) -> tuple[int, IndexInfo]:
    """Write the index of all vectors, and where they lie; tell how many there are."""
    there = _readable(parts, folder, plan.fingerprint)
    kind = kind_of(asked, len(there))
    sample, queries, own = _sample(parts, folder, plan, there, training_points(kind, len(there)))
    nearest = Nearest(queries, own)
    builder = IndexBuilder(kind, plan.dim, len(there), sample, building, say)
    del sample
    places = RowPlaces(building, plan.images, plan.dim) if kind == "pq" else None
    start = 0
    for part in parts:
        if places is not None:
            places.begin(folder / part.name)
        for rows in _rows(folder / part.name, plan.fingerprint, start):
            ids = rows.start + rows.there
            if places is not None:
                places.add(rows.start, halves_of(rows.batch), rows.there)
            if len(ids):
                builder.add(rows.vectors, ids)
            if len(ids) and kind != "exact":
                nearest.update(rows.vectors, ids)
            progress(rows.batch.num_rows)
        start += part.rows
    if places is not None:
        places.write()
    return len(there), builder.finish(nearest)


def _readable(parts: tuple[ArchivePart, ...], folder: Path, fingerprint: str) -> Ids:
    """Numbers of the rows that have a vector."""
    found: list[Ids] = []
    start = 0
    for part in parts:
        for batch in iterate_part(folder / part.name, fingerprint, columns=["reason"]):
            found.append(start + np.flatnonzero(np.asarray(batch.column("reason").is_null())))
            start += batch.num_rows
    there = np.concatenate([np.empty(0, dtype=np.int64), *found])
    if not len(there):
        raise StoreError("no photo of the plan could be read", fix="hybrid embed status says what is there")
    return there


def _sample(
    parts: tuple[ArchivePart, ...], folder: Path, plan: Plan, there: Ids, count: int
) -> tuple[FloatArray, FloatArray, Ids]:
    """Vectors drawn at random to train on, the same each time; and those to measure with, and their rows."""
    if not count:
        nothing = np.empty((0, plan.dim), dtype=np.float32)
        return nothing, nothing, np.empty(0, dtype=np.int64)
    drawn = there[np.random.default_rng(SEED).permutation(len(there))[: max(count, QUERIES)]]
    order = np.argsort(drawn)
    sample, start = np.empty((len(drawn), plan.dim), dtype=np.float32), 0
    for part in parts:
        for rows in _rows(folder / part.name, plan.fingerprint, start):
            low, high = np.searchsorted(drawn, [rows.start, rows.start + rows.batch.num_rows], sorter=order)
            places = np.searchsorted(rows.start + rows.there, drawn[order[low:high]])
            sample[order[low:high]] = rows.vectors[places]
        start += part.rows
    return sample[:count], sample[:QUERIES], drawn[:QUERIES]
