"""What benchmarks.archive measures, each job in a process of its own: its peak memory is that of the job."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from benchmarks.scale.measure import CLASSES, draw, high_water, timed
from hybrid.cluster.archive import Archive
from hybrid.cluster.archive_build import build_archive
from hybrid.cluster.archive_index import INDEX, LISTS
from hybrid.cluster.parts import PartRow, writing_part
from hybrid.cluster.plan import Plan, PlanFolder, Shard
from hybrid.config import EncoderSettings
from hybrid.encoders.base import FloatArray
from hybrid.images.records import ImageRecord
from hybrid.run.files import write_json

PER_SHARD, BATCH = 50_000, 1000
NEAREST, ASKED, FOR_RECALL, REPEATS = 10, 100, 200, 7
# Of the linear classifier that `classify` has.
LABELS = 100


def write_parts(folder: Path, rows: int, dim: int) -> float:
    """Write drawn vectors as the parts of a plan; gives their MiB."""
    planned = PlanFolder(folder)
    (folder / "parts").mkdir(parents=True)
    counts = [min(PER_SHARD, rows - start) for start in range(0, rows, PER_SHARD)]
    plan = Plan(
        encoder=EncoderSettings(model="tiny"),
        asked="fp32",
        decoder="cpu",
        encoder_name="drawn",
        identity="drawn",
        fingerprint="drawn",
        dim=dim,
        sources=(),
        shards=tuple(Shard(count, str(number)) for number, count in enumerate(counts)),
    )
    write_json(folder / "plan.json", plan)
    vectors, row = draw(rows, dim, CLASSES), 0
    for number, count in enumerate(counts, 1):
        with writing_part(planned.part(plan, number), plan.part(number)) as write:
            for _ in range(0, count, BATCH):
                some = next(vectors)
                write(PartRow(_record(row + n), f"{row + n:064x}", vector) for n, vector in enumerate(some))
                row += len(some)
    return _mib((folder / "parts").iterdir())


def _record(row: int) -> ImageRecord:
    return ImageRecord(f"/data/photos/{row // 1000:05}/{row:08}.jpg", "/data/photos", None, None, 100_000 + row, row)


def build(folder: Path, kind: str) -> dict[str, float]:
    """Build an archive."""
    began = time.perf_counter()
    asked = cast("Literal['exact', 'ivf', 'pq']", kind)
    info = build_archive(PlanFolder(folder / "plan"), folder / kind, kind=asked)
    index = info.index
    return {
        "build, s": time.perf_counter() - began,
        "peak memory of build, MiB": high_water(),
        "beside the parts, MiB": _mib(file for file in (folder / kind).iterdir() if file.is_file()),
        "lists": float(index.lists),
        "searched": float(index.nprobe),
        "compared again": float(index.candidates),
        "recall at 10, as the archive says": index.recall,
    }


def search(folder: Path, kind: str) -> dict[str, float]:
    """Ask an archive and plain FAISS in turn; recall against all vectors."""
    import faiss

    archive = Archive.open(folder / kind)
    plain = _plain(archive)
    asked = next(draw(FOR_RECALL, archive.info.dim, CLASSES, seed=1, chunk=FOR_RECALL))
    peers: dict[str, Callable[[FloatArray], Any]] = {
        "archive": lambda queries: archive.nearest(queries, NEAREST),
        "plain FAISS": lambda queries: plain.search(queries, NEAREST),
    }
    found: dict[str, float] = {}
    for name, queries in (("one query", asked[:1]), (f"{ASKED} queries", asked[:ASKED])):
        took: dict[str, list[float]] = {peer: [] for peer in peers}
        for job in peers.values():
            job(queries)
        for _ in range(REPEATS):
            for peer, job in peers.items():
                took[peer].append(timed(lambda: job(queries)))  # noqa: B023  called at once
        seconds = {peer: statistics.median(each) for peer, each in took.items()}
        found |= {f"{name}, {peer}, s": value for peer, value in seconds.items()}
        found[f"{name}, archive / plain FAISS"] = seconds["archive"] / seconds["plain FAISS"]
    best, true = np.full((FOR_RECALL, NEAREST), -np.inf, np.float32), np.full((FOR_RECALL, NEAREST), -1)
    start = 0
    for batch in archive.batches():
        similarity, places = faiss.knn(asked, batch.vectors, NEAREST, metric=faiss.METRIC_INNER_PRODUCT)
        joined, rows = np.concatenate([best, similarity], axis=1), np.concatenate([true, places + start], axis=1)
        order = np.argsort(-joined, axis=1)[:, :NEAREST]
        best, true = np.take_along_axis(joined, order, axis=1), np.take_along_axis(rows, order, axis=1)
        start += len(batch.records)
    for name, rows in (
        ("recall at 10", archive.nearest(asked, NEAREST)[1]),
        ("plain", plain.search(asked, NEAREST)[1]),
    ):
        recall = np.mean([np.isin(own, near).mean() for own, near in zip(rows, true, strict=True)])
        found["recall at 10, plain FAISS" if name == "plain" else name] = float(recall)
    return found


def _plain(archive: Archive) -> Any:
    """The same index as FAISS reads it."""
    import faiss

    file = archive.root / INDEX
    if archive.info.index.kind == "exact":
        return faiss.read_index(str(file))
    index: Any = faiss.read_index(str(file), faiss.IO_FLAG_SKIP_IVF_DATA)
    inverted: Any = faiss.extract_index_ivf(index).invlists
    lists: Any = faiss.downcast_InvertedLists(inverted)
    lists.filename, lists.prefetch_nthread = str(archive.root / LISTS), 0
    lists.do_mmap()
    return index


def fresh(folder: Path, kind: str) -> dict[str, float]:
    """Open an archive and answer one query: images, not only rows."""
    import faiss
    import pyarrow.parquet  # noqa: F401  imports are no part of it

    assert faiss.METRIC_INNER_PRODUCT is not None
    query, before = next(draw(1, _dim(folder), CLASSES, seed=2, chunk=1)), high_water()
    began = time.perf_counter()
    archive = Archive.open(folder / kind)
    opened = time.perf_counter() - began
    archive.search(query, NEAREST)
    return {
        "fresh: open, s": opened,
        "fresh: open and one query, s": time.perf_counter() - began,
        "fresh: memory beyond imports, MiB": high_water() - before,
    }


def classify(folder: Path, kind: str) -> dict[str, float]:
    """Go through all vectors with a linear classifier, as `predict --archive` reads them."""
    archive = Archive.open(folder / kind)
    weight = next(draw(LABELS, archive.info.dim, CLASSES, seed=3, chunk=LABELS))
    before, began, rows = high_water(), time.perf_counter(), 0
    for batch in archive.batches():
        rows += len((batch.vectors @ weight.T).argmax(axis=1))
    return {"read and score, rows/s": rows / (time.perf_counter() - began), "its memory, MiB": high_water() - before}


def _dim(folder: Path) -> int:
    return PlanFolder(folder / "plan").read().dim


def _mib(files: Any) -> float:
    return float(sum(file.stat().st_size for file in files)) / 2**20


if __name__ == "__main__":
    place, which, what = sys.argv[1:]
    job = {"build": build, "search": search, "open": fresh, "classify": classify}[what]
    sys.stdout.write(json.dumps(job(Path(place), which)) + "\n")
