"""Bring a store up to date with its sources: read, hash, decode, encode, commit batch by batch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.data.decode import decode
from hybrid.data.records import ImageRecord
from hybrid.data.sources import Scan
from hybrid.data.stream import default_workers, ordered_map
from hybrid.encoders.base import Encoder
from hybrid.errors import UnreadableImageError
from hybrid.index.store import ADDED, EmbeddingStore, StoredPhoto

Progress = Callable[[int], None]


@dataclass
class IndexSummary:
    """What one `build_index` did.

    Attributes
    ----------
    encoded : int
        Contents that went through the encoder.
    reused : int
        Photos read whose content already had a vector (a copy, a renamed file).
    unchanged : int
        Photos not even read: size and modification time as before.
    new, changed, removed : int
        Paths that joined, that hold other bytes than before, that are gone.
    kept : int
        Photos that a person added to a class and that stay with it, whatever sources and `replace` say.
    unreadable : list of (path, reason)
    """

    photos: int = 0
    encoded: int = 0
    reused: int = 0
    unchanged: int = 0
    new: int = 0
    changed: int = 0
    removed: int = 0
    kept: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Read:
    """One photo after its worker thread: hashed and, where a vector is needed, prepared for the encoder."""

    record: ImageRecord
    sha256: str
    prepared: Any
    reason: str


def build_index(
    scan: Scan,
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    batch_size: int = 32,
    workers: int | None = None,
    replace: bool = False,
    progress: Progress = lambda count: None,
) -> IndexSummary:
    """Make the store hold exactly the photos of the scanned sources, each with a vector of `encoder`.

    Photos of sources that are not part of `scan` stay. So do those that a person added to a class (`store.ADDED`), also
    where a source holds them under another label or none. Batches are cut from the photos in scan order and
    committed whole, so a killed run goes on at the batch where it stopped, with the same batches and vectors.

    Parameters
    ----------
    replace : bool
        Also forget the photos of every source that is not part of `scan`.
    progress : callable
        Called with the number of photos finished since the last call.

    Returns
    -------
    IndexSummary
    """
    encoder.check(scan.records)
    store.name_encoder(encoder.fingerprint, encoder.name)
    summary = IndexSummary(photos=len(scan.records))
    known = {photo.record.path: photo for photo in store.photos()}
    embedded = store.embedded(encoder.fingerprint)
    records = [_with_its_class(record, known) for record in scan.records]
    waiting = _skip_unchanged(records, known, embedded, store, summary)
    progress(summary.unchanged)

    def read(record: ImageRecord) -> _Read:
        return _read(record, encoder, embedded)

    reads = ordered_map(read, waiting, workers or default_workers(), 2 * batch_size)
    for photos, prepared in _cut(reads, known, embedded, batch_size, summary, progress):
        vectors = encoder.encode_images(list(prepared.values()))
        store.write_batch(photos, dict(zip(prepared, vectors, strict=True)), encoder.fingerprint)
        summary.encoded += len(prepared)
        progress(len(photos))
    present = {record.path for record in scan.records} - {path for path, _ in summary.unreadable}
    named = set(scan.sources)
    added = {path for path, photo in known.items() if photo.record.source.startswith(ADDED)}
    owned = (path for path, photo in known.items() if replace or photo.record.source in named)
    gone = [path for path in owned if path not in present and path not in added]
    summary.kept = sum(replace or path in present for path in added)
    store.remove(gone)
    summary.removed = len(gone)
    return summary


def _with_its_class(record: ImageRecord, known: dict[str, StoredPhoto]) -> ImageRecord:
    """The record as its source has it, but for a photo that a person added to a class: it keeps what they said."""
    before = known[record.path].record if record.path in known else None
    if before is None or not before.source.startswith(ADDED):
        return record
    return dataclasses.replace(record, source=before.source, label=before.label, split=before.split)


def _skip_unchanged(
    records: Sequence[ImageRecord],
    known: dict[str, StoredPhoto],
    embedded: set[str],
    store: EmbeddingStore,
    summary: IndexSummary,
) -> list[ImageRecord]:
    """Records that must be read; a new label or split of an unread photo is written at once."""
    waiting, relabelled = [], []
    for record in records:
        photo = known.get(record.path)
        same = photo is not None and _stamp(photo.record) == _stamp(record) and photo.sha256 in embedded
        if photo is None or not same:
            waiting.append(record)
            continue
        summary.unchanged += 1
        if photo.record != record:
            relabelled.append(StoredPhoto(record, photo.sha256))
    store.write_batch(relabelled)
    return waiting


def _stamp(record: ImageRecord) -> tuple[int, int, str | None, int]:
    return record.size, record.mtime_ns, record.container, record.offset


def _read(record: ImageRecord, encoder: Encoder, embedded: set[str]) -> _Read:
    try:
        data = record.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in embedded:
            return _Read(record, sha256, None, "")
        return _Read(record, sha256, encoder.prepare(decode(data), record), "")
    except OSError as error:
        return _Read(record, "", None, error.strerror or str(error))
    except UnreadableImageError as error:
        return _Read(record, "", None, error.what)


def _cut(
    reads: Iterator[_Read],
    known: dict[str, StoredPhoto],
    embedded: set[str],
    batch_size: int,
    summary: IndexSummary,
    progress: Progress,
) -> Iterator[tuple[list[StoredPhoto], dict[str, Any]]]:
    """Cut reads into batches of `batch_size` new contents, with every photo that shows one of them."""
    photos: list[StoredPhoto] = []
    prepared: dict[str, Any] = {}
    for read in reads:
        if read.reason:
            summary.unreadable.append((read.record.path, read.reason))
            progress(1)
            continue
        before = known.get(read.record.path)
        summary.new += before is None
        summary.changed += before is not None and before.sha256 != read.sha256
        photos.append(StoredPhoto(read.record, read.sha256))
        # `embedded` grows here, in the reading order, so that a copy is encoded once even within a run.
        if read.sha256 in embedded:
            summary.reused += 1
        else:
            embedded.add(read.sha256)
            prepared[read.sha256] = read.prepared
        # Copies alone must not pile up without limit either.
        if len(prepared) == batch_size or len(photos) >= 16 * batch_size:
            yield photos, prepared
            photos, prepared = [], {}
    if photos:
        yield photos, prepared
