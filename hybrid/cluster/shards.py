"""Embed the shards of a plan, each whole or not at all, whoever hands them out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.cluster.parts import PartRow, remove_rests, writing_part
from hybrid.cluster.places import check_writable, times
from hybrid.cluster.plan import Plan, PlanFolder
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import named_file_errors
from hybrid.images.pipeline import ReadImage
from hybrid.images.records import ImageRecord
from hybrid.index.build import IndexBatch, Progress, embedded_batches


@dataclass
class ShardSummary:
    """What came of some shards.

    Attributes
    ----------
    shards : int
        Shards that were embedded.
    images : int
        Their images.
    unreadable : list of (path, reason)
        Those of them that could not be used; their rows say so, too.
    """

    shards: int = 0
    images: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: ShardSummary) -> None:
        """Count what came of other shards."""
        self.shards += other.shards
        self.images += other.images
        self.unreadable += other.unreadable


def missing_of(folder: PlanFolder, plan: Plan, numbers: Iterable[int]) -> list[int]:
    """Of some shards, those without a part; what writers left beside parts that are there is removed."""
    done, missing = folder.done(plan), []
    for number in numbers:
        if number in done:
            remove_rests(folder.part(plan, number))
        else:
            missing.append(number)
    return missing


def embed_shards(
    folder: PlanFolder,
    plan: Plan,
    numbers: Sequence[int],
    encoder: Encoder,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Progress = lambda count: None,
) -> ShardSummary:
    """Embed shards one after another, but for those whose part is there by then; parameters as for `embed_shard`."""
    summary = ShardSummary()
    if numbers:
        check_writable(folder.parts)
    for number in numbers:
        if folder.part(plan, number).exists():
            progress(plan.shards[number - 1].rows)
        else:
            own = embed_shard(folder, plan, number, encoder, batch_size=batch_size, workers=workers, progress=progress)
            summary.add(own)
    return summary


def embed_shard(
    folder: PlanFolder,
    plan: Plan,
    number: int,
    encoder: Encoder,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Progress = lambda count: None,
) -> ShardSummary:
    """Embed the images of a shard, and write its part.

    Parameters
    ----------
    folder : PlanFolder
    plan : Plan
    number : int
        Of the shard, from 1.
    encoder : Encoder
        As `hybrid.cluster.plan.load_planned` gives it.
    batch_size, workers, progress
        See `hybrid.index.build.build_index`.

    Raises
    ------
    HybridError
        If the manifest is not the plan's, or the part cannot be written. No image that cannot be read raises one.
    """
    records = folder.read_manifest(plan, number)
    encoder.check(records)
    info, file = plan.part(number), folder.part(plan, number)
    batches = embedded_batches(records, encoder, (), batch_size, workers=workers, look=as_planned)
    summary = ShardSummary(shards=1)
    with named_file_errors("the part cannot be written", str(file)), writing_part(file, info) as write:
        for rows in _in_order(records, batches):
            write(rows)
            summary.images += len(rows)
            summary.unreadable += [(row.record.path, row.reason) for row in rows if row.reason]
            progress(len(rows))
    return summary


def _in_order(records: Sequence[ImageRecord], batches: Iterable[IndexBatch[FloatArray]]) -> Iterator[list[PartRow]]:
    """The rows of a part, in the order of the manifest; copies get the vector of the first of them."""
    vectors: dict[str, NDArray[np.float16]] = {}
    planned = iter(records)
    for batch in batches:
        vectors |= {sha256: vector.astype(np.float16) for sha256, vector in batch.contents.items()}
        hashes = {image.record.path: image.sha256 for image in batch.images}
        reasons = dict(batch.unreadable)
        rows = []
        for record in islice(planned, len(hashes) + len(reasons)):
            sha256 = hashes.get(record.path)
            vector: Any = vectors[sha256] if sha256 is not None else None
            rows.append(PartRow(record, sha256, vector, reasons.get(record.path)))
        yield rows


def as_planned(image: ReadImage) -> ReadImage:
    """Give an image that was read with a reason not to use it, if its file is another one than when it was listed."""
    record = image.record
    if image.reason:
        return image
    try:
        status = Path(record.container or record.file).stat()
    except (OSError, ValueError):  # not a file of this machine; or it was read, and is gone by now
        return image
    size = record.size if record.container else status.st_size
    if (size, status.st_mtime_ns) == (record.size, record.mtime_ns):
        return image
    return replace(image, sha256="", prepared=None, reason="it was changed after it was planned; plan again")


# Parts whose times tell how fast it goes now.
_RECENT = 50


@dataclass(frozen=True)
class Status:
    """How far a plan is.

    Attributes
    ----------
    done, images : int
        Shards with a part, and their images.
    missing : list of int
        Numbers of the other shards.
    rate : float or None
        Images per second on all machines, by the times of the last parts; None while there are too few.
    """

    done: int
    images: int
    missing: list[int]
    rate: float | None


def status(folder: PlanFolder, plan: Plan) -> Status:
    """Tell how far a plan is, by a listing of its parts."""
    done, written = folder.done(plan), times(folder.parts)
    ends = sorted((written.get(folder.part(plan, number).name, 0), plan.shards[number - 1].rows) for number in done)
    recent = ends[-_RECENT:]
    seconds = recent[-1][0] - recent[0][0] if recent else 0
    rate = sum(rows for _, rows in recent[1:]) / seconds if seconds else None
    missing = [number for number in range(1, len(plan.shards) + 1) if number not in done]
    return Status(len(done), sum(rows for _, rows in ends), missing, rate)
