"""Give images of a run other labels than their sources do, and take that back: the one way of all commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, DataError, InUseError, LabelConflictError, listing
from hybrid.images.naming import plural
from hybrid.images.pipeline import read_each
from hybrid.images.records import ImageRecord
from hybrid.index.contents import joined_label
from hybrid.index.given import UNDO, GivenLabel, now
from hybrid.index.neighbors import open_index
from hybrid.index.store import LABELED, EmbeddingStore, StoredImage
from hybrid.labels.check import name_notes
from hybrid.labels.names import NONE, NameTable, check_name, class_key, is_reserved
from hybrid.lock import label_lock
from hybrid.run.classes.change import RunClasses, read_run_classes
from hybrid.run.classes.images import Unreadable, embed_images
from hybrid.run.files import Layout, RunInfo, note_store, read_run
from hybrid.run.heads import read_head_info, writing
from hybrid.run.photos import has_no_file, keep

HASH = re.compile("[0-9a-f]{64}")


class Unset:
    """No word on what the label in force is believed to be; the type of `UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()


@dataclass(frozen=True, eq=False)
class EmbeddedImage:
    """An image whose content and vector are known, so that it joins the index unread.

    Attributes
    ----------
    record : ImageRecord
    sha256 : str
    vector : (dim,) float32, unit norm
        By the encoder of the run, whose fingerprint the caller has compared.
    """

    record: ImageRecord
    sha256: str
    vector: FloatArray


@dataclass(frozen=True)
class LabelRequest:
    """A label for one image.

    Attributes
    ----------
    image : ImageRecord, EmbeddedImage or str
        An image, which joins the index if its content is not there; or a content hash of the index.
    label : str
        A class, in any spelling, or ``none of these``.
    why : str
        See `GivenLabel`.
    was : str, None or UNSET
        What the caller believes the label in force to be (None: there is none); UNSET: whatever it is.
    answer : str or None
        See `GivenLabel`.
    """

    image: ImageRecord | EmbeddedImage | str
    label: str
    why: str = "person"
    was: str | Unset | None = UNSET
    answer: str | None = None


class LabelConflict(NamedTuple):
    """An image that has another label than the caller believed: whose, and since when, where a person gave it."""

    sha256: str
    label: str | None
    by: str | None
    at: str | None


@dataclass(frozen=True)
class LabelSummary:
    """What became of labels.

    Attributes
    ----------
    ids : tuple of int
        Of the rows of the history that were written, in the order of the requests.
    applied, new, unchanged : int
        Labels given; images that joined the index for it; those that a person had labeled so before.
    unreadable : tuple of (path, reason)
    notes : tuple of str
        What each new label means.
    revision : int
        Of the store.
    """

    ids: tuple[int, ...] = ()
    applied: int = 0
    new: int = 0
    unchanged: int = 0
    unreadable: Unreadable = ()
    notes: tuple[str, ...] = ()
    revision: int = 0


@dataclass
class _Plan:
    """Requests by content, and what the store must get first."""

    wanted: dict[str, LabelRequest] = field(default_factory=dict)
    joining: list[StoredImage] = field(default_factory=list)
    vectors: dict[str, FloatArray] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def give_labels(
    layout: Layout,
    requests: Sequence[LabelRequest],
    load_encoder: Callable[[], Encoder],
    *,
    by: str,
    wait: bool = True,
) -> LabelSummary:
    """Give labels to images, all of them or none.

    Parameters
    ----------
    layout : Layout
        Of a run that has an index.
    requests : sequence of LabelRequest
    load_encoder : callable
        Called where an image is not in the index yet.
    by : str
        Who gives them.
    wait : bool
        See `hybrid.lock.run_lock`.

    Raises
    ------
    LabelConflictError
        If an image has another label in force than the request believed.
    DataError
        If a label is blank, one image gets two labels, or the index has no image of a content hash. Images that cannot
        be read are no error: they are listed.
    HybridError
        If there is no run, or the encoder is not the run's.
    """
    run, head = read_run(layout), read_head_info(layout)
    classes, _ = read_run_classes(layout, (run.encoder_fingerprint,), head)
    with EmbeddingStore(layout.store, read_only=True) as store:
        plan = _plan(store, [replace(one, label=_spelled(one.label, classes)) for one in requests])
    with _labeling(layout, joins=bool(plan.joining), wait=wait), EmbeddingStore(layout.store, must_exist=True) as store:
        before, given = _labels_before(store, plan), store.labels_in_force()
        _join(store, plan, run, load_encoder, layout)
        fresh = {
            sha256: one
            for sha256, one in plan.wanted.items()
            if sha256 not in given or given[sha256].label != one.label
        }
        at = now()
        ids = store.write_labels(
            [
                GivenLabel(0, sha256, one.label, before.get(sha256), by, at, one.why, None, one.answer)
                for sha256, one in fresh.items()
            ]
        )
        revision = store.revision
    notes = _notes(fresh.values(), classes)
    unchanged = len(plan.wanted) - len(fresh)
    return LabelSummary(tuple(ids), len(fresh), len(plan.joining), unchanged, tuple(plan.unreadable), notes, revision)


def take_back(
    layout: Layout,
    ids: Sequence[int] | None = None,
    *,
    count: int = 1,
    by: str,
    wait: bool = True,
) -> list[GivenLabel]:
    """Take labels back that people gave: those of these ids, else the last `count`; gives their rows, newest first.

    What was in force before is in force again, be it another person's label or what the source says.

    Raises
    ------
    DataError
        If a label is not there, or was taken back before.
    """
    read_run(layout)
    with _labeling(layout, joins=False, wait=wait), EmbeddingStore(layout.store, must_exist=True) as store:
        history = store.given_labels()
        undone = {row.undoes for row in history}
        there = {
            row.id: row for row in history if row.undoes is None and row.label is not None and row.id not in undone
        }
        wanted = sorted(there)[-count:] if ids is None else list(dict.fromkeys(ids))
        missing = [number for number in wanted if number not in there]
        if missing or not wanted:
            raise DataError(
                "there is no such label to take back" if missing else "there is no label to take back",
                got=listing([str(number) for number in missing]) if missing else "no label that a person gave",
                fix="hybrid label --list shows the labels that people gave",
            )
        rows = [there[number] for number in sorted(wanted, reverse=True)]
        at = now()
        store.write_labels([GivenLabel(0, row.sha256, None, row.label, by, at, UNDO, row.id) for row in rows])
    return rows


@contextmanager
def _labeling(layout: Layout, *, joins: bool, wait: bool) -> Iterator[None]:
    """Be the only one who labels. Where images join the index, nobody else may write to the run either.

    A label alone is a row of the store, which has transactions: it waits for no training, which may last hours. The
    store is ahead of ``run.json`` then, as it may be.
    """
    with ExitStack() as held:
        alone = True
        try:
            held.enter_context(writing(layout, "label", wait=wait and joins))
        except InUseError:
            if joins:
                raise
            alone = False
        held.enter_context(label_lock(layout.root))
        yield
        if alone:
            note_store(layout)


def _spelled(label: str, classes: RunClasses) -> str:
    """The label as the run spells the class; DataError where it is blank."""
    if is_reserved(label):
        return NONE
    label = check_name(label, "the label")
    names = (*classes.seen, *(one.name for one in classes.support), *classes.index.labels())
    place = NameTable(names).find(label)
    return label if place is None else names[place]


def _plan(store: EmbeddingStore, requests: Sequence[LabelRequest]) -> _Plan:
    """Find the content of each request, and what is to join the index for it."""
    plan = _Plan()
    records = {id(one): one.image for one in requests if isinstance(one.image, ImageRecord)}
    reads = dict(zip(records, read_each(list(records.values()), None), strict=True))
    known = {str(one.image) for one in requests if isinstance(one.image, str)}
    known |= {read.sha256 for read in reads.values() if not read.reason}
    known |= {one.image.sha256 for one in requests if isinstance(one.image, EmbeddedImage)}
    there = {image.sha256 for image in store.images_with(known)}
    for one in requests:
        if isinstance(one.image, str):
            if one.image not in there:
                raise DataError(
                    "the index has no photo of this content",
                    got=one.image,
                    fix="name the photo itself, or build the index with it: hybrid build-index SOURCE",
                )
            sha256, record = one.image, None
        elif isinstance(one.image, EmbeddedImage):
            sha256, record = one.image.sha256, one.image.record
            plan.vectors[sha256] = one.image.vector
            _check_same(store, one.image)
        else:
            read = reads[id(one)]
            if read.reason:
                plan.unreadable.append((read.record.path, read.reason))
                continue
            sha256, record = read.sha256, read.record
        if record is not None and sha256 not in there and sha256 not in plan.wanted:
            plan.joining.append(StoredImage(replace(record, source=LABELED, label=None, split=None), sha256))
        other = plan.wanted.setdefault(sha256, one)
        if class_key(other.label) != class_key(one.label):
            raise DataError(
                "one photo cannot have two labels",
                got=f"{other.label} and {one.label} for {sha256}",
                fix="leave one of them out",
            )
    return plan


def _check_same(store: EmbeddingStore, image: EmbeddedImage) -> None:
    """Refuse an image whose path the index knows with other bytes: it would put the older ones in their place."""
    if other := [one for one in store.images_at([image.record.path]) if one.sha256 != image.sha256]:
        raise DataError(
            f"the index knows {image.record.path} with other bytes",
            expected=f"content {image.sha256}",
            got=f"content {other[0].sha256}",
            fix="label it as the index has it: hybrid label",
        )


def _labels_before(store: EmbeddingStore, plan: _Plan) -> dict[str, str | None]:
    """Labels in force, by content; LabelConflictError where a request believed another one."""
    given = store.labels_in_force()
    records: dict[str, list[ImageRecord]] = {}
    for image in store.images_with(plan.wanted):
        records.setdefault(image.sha256, []).append(image.record)
    before = {
        sha256: given[sha256].label if sha256 in given else joined_label(records.get(sha256, []))
        for sha256 in plan.wanted
    }
    conflicts = []
    for sha256, one in plan.wanted.items():
        label = before[sha256]
        if isinstance(one.was, Unset) or one.was == label:
            continue
        row = given.get(sha256)
        conflicts.append(LabelConflict(sha256, label, row and row.by, row and row.at))
    if conflicts:
        first = conflicts[0]
        raise LabelConflictError(
            f"{plural(len(conflicts), 'photo')} got another label meanwhile",
            expected=f"{plan.wanted[first.sha256].was or 'no label'} for {first.sha256}",
            got=f"{first.label or 'no label'}" + (f", by {first.by} at {first.at}" if first.by else ""),
            fix="look at the photo again, then give the label once more",
            conflicts=tuple(conflicts),
        )
    return before


def _join(
    store: EmbeddingStore, plan: _Plan, run: RunInfo, load_encoder: Callable[[], Encoder], layout: Layout
) -> None:
    """Let images join the index without a label: what people say of them is the history's."""
    if not plan.joining:
        return
    encoder = load_encoder()
    if encoder.identity != run.encoder_identity:
        raise ArtifactError(
            "the run's index was made with another encoder",
            expected=run.encoder_name,
            got=encoder.name,
            fix="use that one, or make the index again with this one: hybrid build-index",
        )
    encoder.check([image.record for image in plan.joining])
    there = store.embedded(encoder.fingerprint, [image.sha256 for image in plan.joining])
    lacking = [image for image in plan.joining if image.sha256 not in there]
    made, torn = embed_images(encoder, [image for image in lacking if image.sha256 not in plan.vectors], None, None)
    vectors: Mapping[str, FloatArray] = made | {
        image.sha256: plan.vectors[image.sha256] for image in lacking if image.sha256 in plan.vectors
    }
    plan.unreadable += torn
    lost = {image.sha256 for image in plan.joining} - there - vectors.keys()
    plan.wanted = {sha256: one for sha256, one in plan.wanted.items() if sha256 not in lost}
    readable = [image for image in plan.joining if image.sha256 not in lost]
    plan.joining = [keep(image, layout.photos) if has_no_file(image.record) else image for image in readable]
    store.name_encoder(encoder.fingerprint, encoder.name)
    store.write_batch(plan.joining, vectors, encoder.fingerprint)
    if vectors:
        open_index(store, encoder.fingerprint, layout.neighbors)


def _notes(requests: Iterable[LabelRequest], classes: RunClasses) -> tuple[str, ...]:
    """Say what labels mean: who knows them now, and who learns them when."""
    labels = sorted({one.label for one in requests})
    support = NameTable(one.name for one in classes.support)
    trained = [label for label in labels if label in classes.seen]
    new = [label for label in labels if label not in (NONE, *classes.seen) and support.find(label) is None]
    notes = []
    if new:
        notes += name_notes(new, (*classes.seen, *(one.name for one in classes.support)), "labels")
        notes.append(f"new: {listing(new)}; known by examples and by name from now on, trained at the next train-head")
    if trained:
        notes.append(f"trained: {listing(trained)}; the head learns these photos at the next hybrid train-head")
    if NONE in labels:
        notes.append("none of these: such photos train and show no class; those drawn at random teach the rejector")
    return tuple(notes)


def with_labels_in_force(layout: Layout, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Give images that may not be in the index the labels that people gave to their contents.

    Of a run where nobody gave any, nothing is read. Else the index says what a file holds that is as it was; others are
    read where their size is that of a labeled content, or one of both has none: such a content left the index, or lies
    in a Parquet table.
    """
    if not layout.store.is_file():
        return list(records)
    with EmbeddingStore(layout.store, read_only=True) as store:
        given = store.labels_in_force()
        if not given:
            return list(records)
        there = {image.record.path: image for image in store.images_at([record.path for record in records])}
        known = {image.sha256: image.record.size for image in store.images_with(given)}
    sizes = {0, *known.values()}
    any_size = len(known) < len(given) or 0 in known.values()
    contents: dict[int, str] = {}
    unknown: list[int] = []
    for place, record in enumerate(records):
        image = there.get(record.path)
        if image is not None and _stamp(image.record) == _stamp(record):
            contents[place] = image.sha256
        elif any_size or record.size in sizes:
            unknown.append(place)
    reads = read_each([records[place] for place in unknown], None)
    contents |= {place: read.sha256 for place, read in zip(unknown, reads, strict=True)}
    return [
        replace(record, label=given[contents[place]].label) if contents.get(place) in given else record
        for place, record in enumerate(records)
    ]


def _stamp(record: ImageRecord) -> tuple[str | int | None, ...]:
    version = record.inode if record.is_remote else 0
    return record.size, record.mtime_ns, record.ctime_ns, record.container, record.offset, version
