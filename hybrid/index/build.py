"""Bring a store up to date with its sources, in three stages: plan and read, embed, commit.

What goes from one stage to the next is plain data. The middle one, `embed`, knows neither sources nor store, so that it
may run in another process or on another machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from hybrid.encoders.base import Encoder, FloatArray, decoder_of
from hybrid.errors import listing
from hybrid.garbage import collected_seldom
from hybrid.images.captures import Capture
from hybrid.images.naming import plural
from hybrid.images.pipeline import ReadImage, begin_reading, read_each
from hybrid.images.records import ImageRecord
from hybrid.images.sources import Scan
from hybrid.images.stream import IN_FLIGHT, ordered_map, prefetched
from hybrid.index.missing import Missing, find_missing, settle_hollow
from hybrid.index.store import EmbeddingStore, ImageRow, StoredImage, added_to, is_added

T = TypeVar("T")
Progress = Callable[[int], None]
Look = Callable[[ReadImage], ReadImage]
# Images from which on a store is filled in bulk, if they are more than it holds.
_BULK = 5000
# Sources that are gone and are named one by one.
_SHOWN = 5
# Of rows and of records: which bytes an image is, by what the system says; and what is written anew where it is another
# one, although the file is as it was.
_bytes_of = attrgetter("size", "mtime_ns", "container", "offset")
_stored = attrgetter("source", "label", "split", "ctime_ns", "inode")


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
        Images not even read: size and times as before.
    new, changed, removed : int
        Paths that joined, that hold other bytes than before, that are gone.
    held : int
        Images that were not seen, because they or what they lie in could not be read, and that stay.
    relabeled : int
        Images known before that have another label now, or none.
    orphans : dict of str to int
        Sources that do not exist any more and were not named, with how many images of theirs stay.
    kept : int
        Images that a person added to a class and that stay with it, whatever sources and `replace` say.
    vectors : int
        Vectors of the index afterwards, where somebody opened it.
    unreadable : list of (path, reason)
        Images, and sources, folders and shards that could not be read.
    mended : list of str
        Paths of rows that were damaged, and were forgotten before the images were read.
    """

    images: int = 0
    encoded: int = 0
    reused: int = 0
    unchanged: int = 0
    new: int = 0
    changed: int = 0
    removed: int = 0
    held: int = 0
    relabeled: int = 0
    orphans: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    vectors: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class IndexBatch(Generic[T]):
    """Images that are committed together.

    Attributes
    ----------
    images : list of StoredImage
    contents : dict of content hash to T
        Those without a vector: what the encoder takes of each; after `embed`, its vector (dim,) float32.
    unreadable : list of (path, reason)
    """

    images: list[StoredImage] = field(default_factory=list)
    contents: dict[str, T] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


Known = Mapping[str, ImageRow]


@collected_seldom()
def build_index(
    scan: Scan,
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    replace: bool = False,
    prune: bool = False,
    may_shrink: bool = False,
    verify: bool = False,
    progress: Progress = lambda count: None,
) -> IndexSummary:
    """Make the store hold exactly the images of the scanned sources, each with a vector of `encoder`.

    Images that a source does not hold any more are forgotten; images that cannot be read now, or that lie in what could
    not be listed, stay. Images of sources that are not part of `scan` stay. So do those that a person added to a class
    (`store.is_added`), also where a source holds them under another label or none. Batches are cut from the images in
    scan order and committed whole, so a killed run goes on at the batch where it stopped, with the same batches and
    vectors if the batch size is the same. While a batch is encoded the next one is read, and the one before is
    committed.

    Parameters
    ----------
    batch_size : int, optional
        Images to encode at once; default: the encoder's own.
    workers : int, optional
        Threads that decode; default: one per core, at most 16.
    replace : bool
        Also forget the images of every source that is not part of `scan`.
    prune, may_shrink : bool
        See `hybrid.index.missing.find_missing`, which may raise a DataError; nothing is written then.
    verify : bool
        Read every image, also those that look as before, and make again what is damaged in the store.
    progress : callable
        Called with the number of images finished since the last call.
    """
    encoder.check(scan.records)
    mended = store.mend() if verify else []
    known = {row.path: row for row in store.source_rows()}
    missing = find_missing(scan, known, replace=replace, prune=prune, may_shrink=may_shrink)
    store.name_encoder(encoder.fingerprint, encoder.name)
    embedded = store.embedded(encoder.fingerprint)
    captures = store.captures()
    unread, relabeled = plan(scan.records, known, embedded, verify=verify, captures=captures)
    _relabel(store, relabeled, unread)
    if captures:
        store.forget_captures([r.path for r in scan.records if r.path in captures and not r.capture])
    same, renamed = len(scan.records) - len(unread), _count_relabeled(relabeled, known)
    summary = IndexSummary(images=len(scan.records), unchanged=same, relabeled=renamed, mended=mended)
    progress(summary.unchanged)
    with store.bulk() if len(unread) > max(_BULK, len(known)) else nullcontext():
        for batch in embedded_batches(unread, encoder, embedded, batch_size, workers=workers):
            store.write_batch(batch.images, batch.contents, encoder.fingerprint)
            _count(batch, known, summary)
            progress(len(batch.images) + len(batch.unreadable))
    _forget(scan, store, known, missing, summary, replace=replace)
    return summary


def _relabel(store: EmbeddingStore, relabeled: Sequence[StoredImage], unread: Sequence[ImageRecord]) -> None:
    """Write the images that need no reading; StoreError where a damaged page may hide what is to be added."""
    if unread or relabeled:
        store.check_images_found()
    if unread:
        store.check_vectors_found()
    store.write_batch(relabeled)


def plan(
    records: Sequence[ImageRecord],
    known: Known,
    embedded: Collection[str],
    *,
    verify: bool = False,
    captures: Mapping[str, Capture] = MappingProxyType({}),
) -> tuple[list[ImageRecord], list[StoredImage]]:
    """Tell which images must be read, from what the store has: its rows by path, and which contents have a vector.

    Parameters
    ----------
    captures : mapping of path to Capture
        What the store knows of when and where images were taken.

    Returns
    -------
    unread : list of ImageRecord
        New ones, those that have changed, and those without a vector.
    relabeled : list of StoredImage
        Unchanged ones whose source, label, split or capture is another one now, or of which the store does not know all
        that the system says.
    """
    unread, relabeled = [], []
    for record in records:
        row = known.get(record.path)
        if row is not None and is_added(row.source):
            # It came because a person labeled it, so it does not go with a source that holds it, too.
            record = dataclasses.replace(record, source=row.source)
            if added_to(row.source) is not None:
                # What a person said of an image holds, whatever its source says.
                record = dataclasses.replace(record, label=row.label, split=row.split)
        if row is None or row.sha256 not in embedded or verify or _has_changed(row, record):
            unread.append(record)
        elif _stored(row) != _stored(record) or _is_moved(record, captures):
            relabeled.append(StoredImage(record, row.sha256))
    return unread, relabeled


def _is_moved(record: ImageRecord, captures: Mapping[str, Capture]) -> bool:
    """Whether a source says of an image's capture what the store does not know."""
    return bool(record.sequence or record.region or record.time) and captures.get(record.path) != record.capture


def _has_changed(row: ImageRow, record: ImageRecord) -> bool:
    """Whether a file may hold other bytes than before.

    Programs that unpack or copy set the time of modification back, so that files of one size that changed places would
    look as before. Nobody can set back when a file was last written or moved. A file that was only moved or copied is
    read and hashed once more, and not encoded.
    """
    if _bytes_of(row) != _bytes_of(record):
        return True
    # 0: not known, to the system or to the version of hybrid that wrote the row.
    return (row.ctime_ns != record.ctime_ns and 0 not in (row.ctime_ns, record.ctime_ns)) or (
        row.inode != record.inode and 0 not in (row.inode, record.inode)
    )


def cut_batches(images: Iterable[ReadImage], embedded: Collection[str], size: int) -> Iterator[IndexBatch[Any]]:
    """Cut images that were read into batches of `size` new contents, with every image that shows one of them.

    A content is new if it is not in `embedded`, and in no batch before: a copy is encoded once.
    """
    batched: set[str] = set()
    batch: IndexBatch[Any] = IndexBatch()
    for image in images:
        if image.reason:
            batch.unreadable.append((image.record.path, image.reason))
        else:
            batch.images.append(StoredImage(image.record, image.sha256))
            if image.sha256 not in embedded and image.sha256 not in batched:
                batched.add(image.sha256)
                batch.contents[image.sha256] = image.prepared
        # Copies alone must not pile up without limit either. Unreadable images never part contents: the next run reads
        # them again, and must cut the same batches.
        if len(batch.contents) == size or len(batch.images or batch.unreadable) >= 16 * size:
            yield batch
            batch = IndexBatch()
    if batch.images or batch.unreadable:
        yield batch


def embed(batch: IndexBatch[Any], encoder: Encoder) -> IndexBatch[FloatArray]:
    """Encode the new contents of a batch."""
    vectors = encoder.encode_images(list(batch.contents.values())) if batch.contents else ()
    return IndexBatch(batch.images, dict(zip(batch.contents, vectors, strict=True)), batch.unreadable)


def embedded_batches(
    records: Sequence[ImageRecord],
    encoder: Encoder,
    known: Collection[str],
    batch_size: int | None,
    *,
    workers: int | None = None,
    look: Look | None = None,
) -> Iterator[IndexBatch[FloatArray]]:
    """Read images and embed their new contents; whatever the caller does with a batch, the next ones go on.

    Parameters
    ----------
    records : sequence of ImageRecord
    encoder : Encoder
    known : collection of str
        Contents that have a vector.
    batch_size : int or None
        New contents to encode at once; None: as many as the encoder likes.
    workers : int, optional
        Threads that decode; default: one per core, at most 16.
    look : callable, optional
        Gives each image that was read as it is to be used.
    """
    decoder = decoder_of(encoder)
    begin_reading(decoder, records)
    # A GPU's memory is found out by a trial, so only where it matters.
    size = batch_size or (encoder.batch_size if len(records) > 1 else 1)
    images = read_each(
        records,
        encoder.prepare,
        min_side=encoder.min_side,
        known=known,
        batch_size=size,
        workers=workers,
        decoder=decoder,
    )
    batches = prefetched(cut_batches(map(look, images) if look else images, known, size), 1)
    yield from ordered_map(partial(embed, encoder=encoder), batches, IN_FLIGHT, IN_FLIGHT)


def _count_relabeled(relabeled: Iterable[StoredImage], known: Known) -> int:
    return sum(image.record.label != known[image.record.path].label for image in relabeled)


def _count(batch: IndexBatch[FloatArray], known: Known, summary: IndexSummary) -> None:
    summary.encoded += len(batch.contents)
    summary.reused += len(batch.images) - len(batch.contents)
    summary.unreadable += batch.unreadable
    for image in batch.images:
        row = known.get(image.record.path)
        summary.new += row is None
        summary.changed += row is not None and row.sha256 != image.sha256
        summary.relabeled += row is not None and row.label != image.record.label


def _forget(
    scan: Scan, store: EmbeddingStore, known: Known, missing: Missing, summary: IndexSummary, *, replace: bool
) -> None:
    """Remove what the sources do not hold any more, and count what stays although it was not seen."""
    present = {record.path for record in scan.records}
    settle_hollow(missing, store, present)
    summary.held = missing.kept + sum(path in known for path, _ in summary.unreadable)
    summary.unreadable += [*scan.unread, *missing.unread]
    summary.orphans = missing.orphans
    summary.kept = sum(replace or path in present for path, row in known.items() if is_added(row.source))
    summary.removed = len(missing.gone)
    store.remove(missing.gone)


def change_notes(summary: IndexSummary) -> list[str]:
    """Say what a person may not expect of an index that was brought up to date."""
    notes = [
        f"WARNING: {source} is gone; its {plural(count, 'photo')} stay in the index (--prune forgets the photos of "
        "sources that are gone, --replace those of all sources that are not named)"
        for source, count in sorted(summary.orphans.items())[:_SHOWN]
    ]
    if more := len(summary.orphans) - _SHOWN:
        notes += [f"WARNING: so do the photos of {more} other sources that are gone"] if more > 0 else []
    if summary.held:
        stay = "stays in the index as it was" if summary.held == 1 else "stay in the index as they were"
        notes.append(f"{plural(summary.held, 'photo')} that could not be read now {stay}")
    if summary.mended:
        notes.append(
            f"WARNING: {plural(len(summary.mended), 'row')} of the index did not fit their digests and were forgotten: "
            f"{listing(summary.mended, 3)}; what the sources hold of them was read again, and photos of other sources "
            "come back with hybrid build-index of those, photos of added classes with hybrid add-class"
        )
    if summary.relabeled:
        have = "has" if summary.relabeled == 1 else "have"
        notes.append(f"{plural(summary.relabeled, 'photo')} {have} another label than before, or none")
    return notes
