"""What benchmarks.scale measures: vectors as embeddings lie, a real store of them, its index and plain FAISS."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.images.records import ImageRecord
from hybrid.index.faiss_file import read_note
from hybrid.index.neighbors import NeighborIndex, open_index
from hybrid.index.store import EmbeddingStore, StoredImage

# Where this package lies.
ROOT = Path(__file__).parents[2]
ENCODER = "benchmark"
# Bytes of disk per row and float: the store, the index, and the index that takes its place while both are there.
DISK = 4 * 3.6
BATCH, SMALL_BATCH, SMALL_ROWS = 1000, 32, 3200
NEAREST, ASKED, FOR_RECALL, REPEATS, ROUNDS = 10, 100, 300, 7, 3
# The mixture. At 5,714 rows of 101 classes its local intrinsic dimension (Levina and Bickel 2004, 20 neighbors) is
# 17, that of CLIP ViT-B/32 on Caltech-101's images 11; mean cosine .43 and .56. 75 cells then need 16 probes for a
# recall@10 of .98, Caltech's 4: the mixture is the harder one for an approximate index.
CLASSES, LATENT, DECAY, SPREAD, CONE, NOISE = 1000, 128, 0.7, 1.0, 0.6, 0.01


def draw(rows: int, dim: int, classes: int = CLASSES, seed: int = 0, chunk: int = BATCH) -> Iterator[FloatArray]:
    """Draw unit vectors (chunk, dim) as embeddings lie: classes around a common direction, of low dimension.

    A latent Gaussian of `LATENT` dimensions, whose k-th has scale k ** -DECAY, gives each class its center and,
    `SPREAD` times as wide, each image its place around it; class k is drawn in proportion to k ** -0.5. A random
    orthonormal basis takes it to `dim` dimensions, with a common direction that holds `CONE` of the squared norm of a
    center, and a little noise in all of them. Classes and basis are the same for every `seed`.
    """
    fixed = np.random.default_rng(0)
    latent = min(LATENT, dim - 1)
    scale = np.arange(1, latent + 1) ** -DECAY
    scale /= np.linalg.norm(scale)
    basis = np.linalg.qr(fixed.standard_normal((dim, latent + 1)))[0].T.astype(np.float32)
    centers = (fixed.standard_normal((classes, latent)) * scale).astype(np.float32)
    share = np.arange(1, classes + 1) ** -0.5
    for start in range(0, rows, chunk):
        rng = np.random.default_rng([seed, start])
        count = min(chunk, rows - start)
        own = centers[rng.choice(classes, count, p=share / share.sum())]
        places = own + SPREAD * rng.standard_normal((count, latent), dtype=np.float32) * scale.astype(np.float32)
        vectors = (1 - CONE) ** 0.5 * places @ basis[1:] + CONE**0.5 * basis[0]
        vectors += NOISE * rng.standard_normal((count, dim), dtype=np.float32)
        yield (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@dataclass
class Run:
    """A store in a folder and its FAISS file."""

    folder: Path
    rows: int
    dim: int

    @property
    def classes(self) -> int:
        """Of the mixture that its vectors are drawn from."""
        return min(CLASSES, max(1, self.rows // 20))

    @property
    def store(self) -> Path:
        """The database."""
        return self.folder / "index.sqlite"

    @property
    def index(self) -> Path:
        """The FAISS file."""
        return self.folder / "index.faiss"

    def open(self) -> NeighborIndex:
        """Open both, as a search does."""
        with EmbeddingStore(self.store, must_exist=True) as store:
            return open_index(store, ENCODER, self.index)

    def queries(self, count: int) -> FloatArray:
        """Vectors of images that are not in the store, of the same classes."""
        return next(draw(count, self.dim, self.classes, seed=1, chunk=count))


def images(name: str, count: int, start: int = 0, per_class: int = 1) -> list[StoredImage]:
    """Records with paths and hashes as long as real ones, by path, as a source lists them."""
    records = (
        ImageRecord(
            f"/data/photos/{name}/class-{n // per_class:04}/{n:08}.jpg",
            "/data/photos",
            f"{n // per_class:04}",
            "train",
            100_000 + n,
            1_700_000_000_000_000_000 + n,
        )
        for n in range(start, start + count)
    )
    return [StoredImage(record, hashlib.sha256(record.path.encode()).hexdigest()) for record in records]


def timed(job: Callable[[], Any]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def write(store: EmbeddingStore, batch: list[StoredImage], vectors: FloatArray) -> float:
    hashes = [image.sha256 for image in batch]
    return timed(lambda: store.write_batch(batch, dict(zip(hashes, vectors, strict=True)), ENCODER))


def fill(run: Run) -> dict[str, float]:
    """Insert all rows in bulk, in batches of 1,000; then some more in batches of 32, which leave again."""
    with EmbeddingStore(run.store) as store:
        store.name_encoder(ENCODER, ENCODER)
        seconds = done = 0.0
        per_class = -(-run.rows // CLASSES)
        with ExitStack() as bulk:
            bulk.enter_context(store.bulk())
            for vectors in draw(run.rows, run.dim, run.classes):
                batch = images("train", len(vectors), int(done), per_class)
                seconds += write(store, batch, vectors)
                done += len(vectors)
            # What finds images by content is made at the end.
            seconds += timed(bulk.close)
        few = 0.0
        for start, vectors in enumerate(draw(SMALL_ROWS, run.dim, run.classes, seed=2, chunk=SMALL_BATCH)):
            few += write(store, images("few", len(vectors), start * SMALL_BATCH), vectors)
        store.remove([image.record.path for image in images("few", SMALL_ROWS)])
    return {"insert_rows_per_s": run.rows / seconds, "insert_rows_per_s_batch_32": SMALL_ROWS / few}


def changes(run: Run) -> dict[str, float]:
    """Time what follows a change of 1,000 images, medians over rounds: they join, are relabeled, and leave."""
    took: dict[str, list[float]] = {}

    def note(name: str, job: Callable[[], Any]) -> None:
        took.setdefault(name, []).append(timed(job))

    new = images("new", BATCH)
    for number in range(ROUNDS):
        with EmbeddingStore(run.store) as store:
            write(store, new, next(draw(BATCH, run.dim, run.classes, seed=3 + number)))
        note("open_1000_added_s", run.open)
        before = run.index.stat()
        with EmbeddingStore(run.store) as store:
            relabeled = [replace(image, record=replace(image.record, label=f"new {number}")) for image in new]
            note("relabel_1000_s", lambda: store.write_batch(relabeled))  # noqa: B023  called at once
            note("remove_nothing_s", lambda: store.remove([]))
        note("open_1000_relabelled_s", run.open)
        after = run.index.stat()
        if (after.st_ino, after.st_mtime_ns) != (before.st_ino, before.st_mtime_ns):
            raise AssertionError("new labels alone have changed the FAISS file")
        with EmbeddingStore(run.store) as store:
            note("remove_1000_s", lambda: store.remove([image.record.path for image in new]))
        note("open_1000_removed_s", run.open)
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def searches(run: Run, *, exact: bool = True) -> dict[str, float]:
    """Time one query and 100 by our index, by plain FAISS on our file, and exactly; interleaved, medians."""
    import faiss

    ours, plain = run.open(), faiss.read_index(str(run.index))
    queries = run.queries(FOR_RECALL)
    peers: dict[str, Callable[[FloatArray], Any]] = {
        "hybrid": lambda asked: ours.search(asked, NEAREST),
        "plain_faiss": lambda asked: plain.search(asked, NEAREST),
    }
    found: dict[str, float] = {}
    if exact:
        flat = faiss.IndexFlatIP(run.dim)
        with EmbeddingStore(run.store) as store:
            rows = store.rows(ENCODER)
            ids = rows.ids()
            for _, vectors, _ in rows.chunks(ids):
                flat.add(vectors)
        peers["exact"] = lambda asked: flat.search(asked, NEAREST)
        true = ids[flat.search(queries, NEAREST)[1]]
        hits = [np.isin(near, own).mean() for near, own in zip(plain.search(queries, NEAREST)[1], true, strict=True)]
        found["recall_at_10"] = float(np.mean(hits))
    for name, asked in (("one", queries[:1]), ("100", queries[:ASKED])):
        took: dict[str, list[float]] = {peer: [] for peer in peers}
        for search in peers.values():
            search(asked)  # pages and threads are there
        for _ in range(REPEATS):
            for peer, search in peers.items():
                took[peer].append(timed(lambda: search(asked)))  # noqa: B023  called at once
        found |= {f"search_{name}_{peer}_s": statistics.median(seconds) for peer, seconds in took.items()}
    found["search_vs_plain_faiss"] = found["search_100_hybrid_s"] / found["search_100_plain_faiss_s"]
    return found


FRESH = """
import json, sys, time
from pathlib import Path
import faiss, numpy as np
from benchmarks.scale.measure import Run, high_water
run, queries = Run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])), np.load(sys.argv[4], allow_pickle=False)
base = high_water()
start = time.perf_counter()
index = run.open()
opened = time.perf_counter() - start
opened_mib = high_water()
index.search(queries, 10)
done = time.perf_counter() - start
print(json.dumps([base, opened_mib, high_water(), opened, done]))
"""


def fresh_process(run: Run, *, cold: bool) -> dict[str, float]:
    """Open and search 100 in a fresh process: seconds, and peak memory in MiB, imports excluded and included.

    Parameters
    ----------
    cold : bool
        The files are dropped from the page cache first, as after a restart of the machine.
    """
    if cold:
        for file in (run.store, run.index):
            drop(file)
    asked = run.folder / "queries.npy"
    np.save(asked, run.queries(ASKED))
    command = [sys.executable, "-c", FRESH, str(run.folder), str(run.rows), str(run.dim), str(asked)]
    paths = os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths})
    base, opened_mib, searched_mib, opened, searched = json.loads(done.stdout)
    if cold:
        return {"open_cold_s": opened, "open_and_search_100_cold_s": searched}
    return {
        "open_s": opened,
        "imports_mib": base,
        "open_peak_mib": opened_mib,
        "open_and_search_100_peak_mib": searched_mib,
    }


def drop(file: Path) -> None:
    """Ask the system to forget a file's pages, where it can be asked."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def high_water() -> float:
    """Peak resident memory of this process in MiB; pages of mapped files count."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, not inherited from the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything for one number of rows."""
    say("inserting")
    found: dict[str, Any] = fill(run)
    say("building the index")
    found["first_build_s"] = timed(run.open)
    note = read_note(run.index)
    assert note is not None
    found |= {"kind": note.kind, "cells": note.lists, "probed": note.nprobe, "measured_recall": note.recall}
    say("opening in fresh processes")
    found |= fresh_process(run, cold=True)
    found |= fresh_process(run, cold=False)
    say("searching")
    found |= searches(run)
    say("updating")
    found |= changes(run)
    found |= {"store_mib": run.store.stat().st_size / 2**20, "index_mib": run.index.stat().st_size / 2**20}
    return found


def search_ratio(rows: int, dim: int, folder: Path) -> float:
    """Time of 100 queries by hybrid over that of plain FAISS on the same file, in a store of its own in `folder`."""
    check_disk(rows, dim, folder)
    with tempfile.TemporaryDirectory(prefix="hybrid-scale-", dir=folder) as made:
        run = Run(Path(made), rows, dim)
        fill(run)
        return searches(run, exact=False)["search_vs_plain_faiss"]


def check_disk(rows: int, dim: int, folder: Path | None) -> None:
    """Leave with an error where the disk cannot hold a store of so many rows."""
    place = folder or Path(tempfile.gettempdir())
    if not place.is_dir():
        sys.exit(f"there is no folder {place}")
    needed, free = int(rows * dim * DISK), shutil.disk_usage(place).free
    if needed > free:
        sys.exit(f"{rows:,} rows need {needed / 1e9:.1f} GB in {place}, and {free / 1e9:.1f} GB are free: --folder")
