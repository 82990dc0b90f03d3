"""Bring a store up to date with its sources: read, hash, decode, encode, commit batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.encoders.base import Encoder, FloatArray
from hybrid.images.pipeline import ReadImage, read_each
from hybrid.images.records import ImageRecord
from hybrid.images.sources import Scan
from hybrid.images.stream import IN_FLIGHT, ordered_map
from hybrid.index.store import ADDED, EmbeddingStore, ImageRow, StoredImage

Progress = Callable[[int], None]


@dataclass
class IndexSummary:
    """What one `build_index` did.

    Attributes
    ----------
    encoded : int
        Contents that went through the encoder.
    reused : int
        Images read whose content already had a vector (a copy, a renamed file).
    unchanged : int
        Images not even read: size and modification time as before.
    new, changed, removed : int
        Paths that joined, that hold other bytes than before, that are gone.
    kept : int
        Images that a person added to a class and that stay with it, whatever sources and `replace` say.
    vectors : int
        Vectors of the index afterwards, where somebody opened it.
    unreadable : list of (path, reason)
    """

    images: int = 0
    encoded: int = 0
    reused: int = 0
    unchanged: int = 0
    new: int = 0
    changed: int = 0
    removed: int = 0
    kept: int = 0
    vectors: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


Known = Mapping[str, ImageRow]


def build_index(
    scan: Scan,
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    replace: bool = False,
    progress: Progress = lambda count: None,
) -> IndexSummary:
    """Make the store hold exactly the images of the scanned sources, each with a vector of `encoder`.

    Images of sources that are not part of `scan` stay. So do those that a person added to a class (`store.ADDED`), also
    where a source holds them under another label or none. Batches are cut from the images in scan order and
    committed whole, so a killed run goes on at the batch where it stopped, with the same batches and vectors if the
    batch size is the same. While a batch is encoded the next one is read, and the one before is committed.

    Parameters
    ----------
    batch_size : int, optional
        Images to encode at once; default: the encoder's own.
    workers : int, optional
        Threads that decode; default: one a core, at most 16.
    replace : bool
        Also forget the images of every source that is not part of `scan`.
    progress : callable
        Called with the number of images finished since the last call.

    Returns
    -------
    IndexSummary
    """
    encoder.check(scan.records)
    store.name_encoder(encoder.fingerprint, encoder.name)
    summary = IndexSummary(images=len(scan.records))
    known: dict[str, ImageRow] = {row[0]: row for row in store.image_rows()}
    embedded = store.embedded(encoder.fingerprint)
    records = [_with_its_class(record, known) for record in scan.records]
    waiting = _skip_unchanged(records, known, embedded, store, summary)
    progress(summary.unchanged)
    # A GPU's memory is found out by a trial, so only where it matters.
    size = batch_size or (encoder.batch_size if len(waiting) > 1 else 1)
    reads = read_each(
        waiting, encoder.prepare, min_side=encoder.min_side, known=embedded, batch_size=size, workers=workers
    )

    def encode(batch: _Batch) -> tuple[list[StoredImage], dict[str, FloatArray]]:
        vectors = encoder.encode_images(list(batch.prepared.values()))
        return batch.images, dict(zip(batch.prepared, vectors, strict=True))

    batches = _cut(reads, known, embedded, size, summary, progress)
    for images, vectors in ordered_map(encode, batches, IN_FLIGHT, IN_FLIGHT):
        store.write_batch(images, vectors, encoder.fingerprint)
        summary.encoded += len(vectors)
        progress(len(images))
    _forget(scan, store, known, summary, replace=replace)
    return summary


def _forget(scan: Scan, store: EmbeddingStore, known: Known, summary: IndexSummary, *, replace: bool) -> None:
    """Remove what the sources do not hold any more, but for images that a person added."""
    present = {record.path for record in scan.records} - {path for path, _ in summary.unreadable}
    named = set(scan.sources)
    added = {path for path, row in known.items() if row[1].startswith(ADDED)}
    owned = (path for path, row in known.items() if replace or row[1] in named)
    gone = [path for path in owned if path not in present and path not in added]
    summary.kept = sum(replace or path in present for path in added)
    store.remove(gone)
    summary.removed = len(gone)


def _with_its_class(record: ImageRecord, known: Known) -> ImageRecord:
    """The record as its source has it, but for an image that a person added to a class: it keeps what they said."""
    before = known.get(record.path)
    if before is None or not before[1].startswith(ADDED):
        return record
    return dataclasses.replace(record, source=before[1], label=before[2], split=before[3])


def _skip_unchanged(
    records: Sequence[ImageRecord], known: Known, embedded: set[str], store: EmbeddingStore, summary: IndexSummary
) -> list[ImageRecord]:
    """Records that must be read; a new label or split of an unread image is written at once."""
    waiting, relabeled = [], []
    for record in records:
        row = known.get(record.path)
        stamp = (record.size, record.mtime_ns, record.container, record.offset)
        if row is None or row[4:8] != stamp or row[8] not in embedded:
            waiting.append(record)
            continue
        summary.unchanged += 1
        if row[1:4] != (record.source, record.label, record.split):
            relabeled.append(StoredImage(record, row[8]))
    store.write_batch(relabeled)
    return waiting


@dataclass(frozen=True, slots=True)
class _Batch:
    """Images that are committed together, and what the encoder takes of their new contents by hash."""

    images: list[StoredImage]
    prepared: dict[str, Any]


def _cut(
    reads: Iterator[ReadImage],
    known: Known,
    embedded: set[str],
    batch_size: int,
    summary: IndexSummary,
    progress: Progress,
) -> Iterator[_Batch]:
    """Cut reads into batches of `batch_size` new contents, with every image that shows one of them."""
    images: list[StoredImage] = []
    prepared: dict[str, Any] = {}
    for image in reads:
        if image.reason:
            summary.unreadable.append((image.record.path, image.reason))
            progress(1)
            continue
        before = known.get(image.record.path)
        summary.new += before is None
        summary.changed += before is not None and before[8] != image.sha256
        images.append(StoredImage(image.record, image.sha256))
        # `embedded` grows here, in the reading order, so that a copy is encoded once even within a run.
        if image.sha256 in embedded:
            summary.reused += 1
        else:
            embedded.add(image.sha256)
            prepared[image.sha256] = image.prepared
        # Copies alone must not pile up without limit either.
        if len(prepared) == batch_size or len(images) >= 16 * batch_size:
            yield _Batch(images, prepared)
            images, prepared = [], {}
    if images:
        yield _Batch(images, prepared)
