"""Let a class join a run and leave it, in seconds and without training: in memory, or in the run folder."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from hybrid.encoders.base import Encoder
from hybrid.errors import ArtifactError, DataError, HybridWarning, listing
from hybrid.heads.training.dataset import HELD_BACK
from hybrid.images.records import ImageRecord
from hybrid.index.neighbors import open_index
from hybrid.index.store import EmbeddingStore, StoredImage, is_added
from hybrid.labels.check import name_notes
from hybrid.labels.names import NameTable, class_key, class_of, joined_notes
from hybrid.labels.prompts import Templates, load_templates
from hybrid.run.classes.entries import ClassesInfo, entry_of, read_classes, with_images_of
from hybrid.run.classes.images import JoiningImages, Unreadable, check_images, embed_images
from hybrid.run.classes.names import fit_notes, usable
from hybrid.run.classes.pending import PendingIndex
from hybrid.run.classes.support import SupportClass, gather, gather_labels
from hybrid.run.files import HeadInfo, Layout, RunInfo, note_store, read_run, write_info, writing_parts
from hybrid.run.heads import at_one_moment, read_head_info, writing


@dataclass(frozen=True)
class AddSummary:
    """What it meant that a class joined.

    Attributes
    ----------
    name : str
        As the run spells it.
    synonyms : tuple of str
    named : bool
        Whether its names speak for the class, besides its images.
    images : int
        Different images that show the class now.
    new : int
        Images that joined the index.
    unreadable : tuple of (path, reason)
    notes : tuple of str
    """

    name: str
    synonyms: tuple[str, ...]
    named: bool
    images: int
    new: int
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RemoveSummary:
    """What left with a class: its name as the run spelled it, how many images the index forgets, and notes."""

    name: str
    images: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunClasses:
    """The classes of a run that its head does not know, with changes that are not written yet.

    Attributes
    ----------
    info : ClassesInfo
        What a person added.
    support : tuple of SupportClass
        Those, and labels of the index that the head does not know.
    index : PendingIndex
    seen : tuple of str
        Classes of the head.
    left_out : tuple of str or None
        See `HeadInfo`.
    touched : frozenset of str
        `class_key` of classes that joined or left since the run was read.
    """

    info: ClassesInfo
    support: tuple[SupportClass, ...]
    index: PendingIndex
    seen: tuple[str, ...] = ()
    left_out: tuple[str, ...] | None = ()
    touched: frozenset[str] = frozenset()

    @property
    def hashes(self) -> frozenset[str]:
        """Contents of all images that show one of the classes."""
        return frozenset(sha256 for c in self.support for sha256 in c.hashes)

    def merged(self, before: ClassesInfo) -> ClassesInfo:
        """``classes.json`` with the changes; a class that another process added meanwhile stays."""
        info = before
        for entry in self.info.added:
            if (key := class_key(entry.name)) in self.touched:
                info = info.with_entry(with_images_of(entry, self.index.images_added([key])))
        for key in self.touched - {class_key(entry.name) for entry in self.info.added}:
            info = info.without(key)
        return info

    def write_to(self, layout: Layout) -> None:
        """Write the changes into a run folder, by the one who holds its lock."""
        before = read_classes(layout)
        info = self.merged(before)
        # Images first when a class joins and when it leaves: killed in between, it is called by its label, or is a
        # class with names alone, and a second call does the rest.
        parts = {layout.classes: info} if info != before else {}
        with writing_parts(layout, parts), EmbeddingStore(layout.store) as store:
            self.index.write_to(store)
        if not parts:
            note_store(layout)


def read_run_classes(
    layout: Layout, fingerprints: Sequence[str], head: HeadInfo | None, run: RunInfo | None = None
) -> tuple[RunClasses, tuple[str, ...]]:
    """Read the classes that a run's head does not know, and notes for people on what was left out.

    Parameters
    ----------
    layout : Layout
        Where there is no run yet, there is no class.
    fingerprints : sequence of str
        See `PendingIndex`.
    head : HeadInfo or None
    run : RunInfo, optional
        What was read of ``run.json``; default: it is read.

    Raises
    ------
    HybridError
        If ``classes.json`` or the store cannot be read.
    """
    seen, left_out = (head.classes, head.left_out) if head else ((), ())
    names = tuple(dict.fromkeys(fingerprints))
    if not layout.run.is_file():
        return RunClasses(ClassesInfo(), (), PendingIndex(None, names), seen, left_out), ()
    info, index = read_classes(layout, run), PendingIndex(layout.store, names)
    support, notes = gather(info, index, seen, left_out)
    return RunClasses(info, support, index, seen, left_out), notes


def join_class(
    classes: RunClasses,
    encoder: Encoder,
    name: str,
    records: Sequence[ImageRecord],
    *,
    synonyms: Sequence[str] = (),
    named: bool | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
) -> tuple[RunClasses, AddSummary]:
    """Let a class join by images, by name or by both, or give one that joined before more images or other names.

    Parameters
    ----------
    classes : RunClasses
    encoder : Encoder
        The run's.
    name : str
        A label of the index or an added class that is called so, in any spelling, is this class and keeps its spelling.
    records : sequence of ImageRecord
        Labels and splits of theirs do not count. None: the class gets its name alone.
    synonyms : sequence of str
        Other names; they take the place of those that were given before.
    named : bool, optional
        False: images alone speak for the class. Default: as before, True for a class that is new.
    batch_size, workers
        As for `build_index`.

    Raises
    ------
    DataError
        If the head was trained on the class; a name is blank or another class's; an image belongs to another class; no
        image can be read (some are no error); or there is neither a name nor an image.
    EncoderError
        If the encoder has no vector of an image.
    """
    encoder.check(records)
    entry = entry_of(classes.info, name, synonyms, named, classes.seen, classes.index.labels())
    joining = check_images(classes.index, entry.name, records, workers)
    entry, notes = usable(entry, encoder)
    index, unreadable = _with_images(classes.index, encoder, entry.name, joining, batch_size, workers)
    labels = [label for label in index.labels() if class_key(label) == class_key(entry.name)]
    own, more = gather_labels([entry], labels, index)
    if not own:
        raise _nothing_known(entry.name, [*notes, *joining.notes])
    info, (cls,) = classes.info.with_entry(entry), own
    support = (*(c for c in classes.support if class_key(c.name) != class_key(cls.name)), cls)
    touched = classes.touched | {class_key(cls.name)}
    after = replace(classes, info=info, support=_in_order(info, support), index=index, touched=touched)
    there = {image.record.path for image in classes.index.images_at(list(index.images))}
    new = sum(path not in there for path in index.images)
    others = [*classes.seen, *(c.name for c in classes.support if c.name != cls.name)]
    spelling = name_notes([name], [cls.name], "names") + name_notes([cls.name], others, "names")
    notes = (*notes, *joining.notes, *more, *spelling)
    return after, AddSummary(cls.name, cls.synonyms, cls.named, len(cls.hashes), new, unreadable, notes)


def _nothing_known(name: str, notes: list[str]) -> DataError:
    """Make the error for a class that has neither a name that the encoder knows nor an image."""
    return DataError(
        f"nothing would be known of {name}",
        expected="a name that the encoder knows, or a photo that is not of split test",
        got=listing(notes) or "photos alone (--no-name), and no photo",
        fix="give photos of it, or leave --no-name out, or give a name that the encoder knows",
    )


def _with_images(
    index: PendingIndex,
    encoder: Encoder,
    name: str,
    joining: JoiningImages,
    batch_size: int | None,
    workers: int | None,
) -> tuple[PendingIndex, Unreadable]:
    """The index with images of a class and their vectors, and what could not be read."""
    known = index.find_vectors([image.sha256 for image in joining.images])
    fresh = [i for i in joining.images if i.sha256 not in known and i.record.split not in HELD_BACK]
    vectors, torn = embed_images(encoder, fresh, batch_size, workers)
    unreadable = (*joining.unreadable, *torn)
    images = [i for i in joining.images if i.sha256 in known or i.sha256 in vectors]
    if unreadable and not images:
        raise DataError(
            f"none of the photos of {name} can be read",
            got=listing([f"{path}: {reason}" for path, reason in unreadable], 3),
            fix="give photos that can be read, or none to add the class by its name alone",
        )
    there = {image.record.path: image for image in index.images_at([i.record.path for i in images])}
    changed = [i for i in images if i != there.get(i.record.path) or i.sha256 in vectors]
    return index.with_images(changed, vectors), unreadable


def leave_class(classes: RunClasses, name: str) -> tuple[RunClasses, RemoveSummary]:
    """Let a class leave that the head does not know: its names, and the images in the index that show it.

    Images of split ``test``, and those of a label that the head left out, stay.

    Parameters
    ----------
    classes : RunClasses
    name : str
        A label of the index or an added class, in any spelling.

    Raises
    ------
    DataError
        If the head was trained on the class, or there is none of this name.
    """
    key, labels = class_key(name), classes.index.labels()
    if NameTable(classes.seen).find(name) is not None:
        raise DataError(
            f"the head was trained on {name}",
            fix="train it again without the class (hybrid train-head --classes FILE), then remove it",
        )
    names = class_of(labels, [entry.name for entry in classes.info.added])
    known = list(dict.fromkeys((*(entry.name for entry in classes.info.added), *names.values())))
    index = NameTable(known).find(name)
    if index is None:
        raise no_such_class(name, [*known, *labels])
    own = [label for label in labels if names[label] == known[index]]
    left_out = {class_key(label) for label in classes.left_out or ()}
    images = [image for image in classes.index.images_sharing(own) if image.record.label in own]
    # An image that a person labeled so and that a source holds stays, with the label of its source.
    asked = [i for i in images if i.given is not None and not is_added(i.record.source) and i.source_label not in own]
    going = [i for i in images if i not in asked and _shows(i, left_out=key in left_out)]
    after = replace(
        classes,
        info=classes.info.without(name),
        support=tuple(c for c in classes.support if class_key(c.name) != key),
        index=classes.index.without(going).retract(asked),
        touched=classes.touched | {key},
    )
    sources = sorted({i.record.source for i in going if not is_added(i.record.source)})
    notes = joined_notes(dict.fromkeys(own, known[index]))
    if asked:
        notes += (f"{len(asked)} of its photos stay in the index, with what their sources say of them",)
    notes += (f"the next hybrid build-index of {listing(sources, 3)} brings its photos back",) if sources else ()
    return after, RemoveSummary(own[0] if own else known[index], len(going), notes)


def no_such_class(name: str, names: Sequence[str]) -> DataError:
    """Make the error for a class to remove that is not there."""
    near = difflib.get_close_matches(name, list(dict.fromkeys(names)), n=3, cutoff=0.5)
    return DataError(
        f"there is no class {name!r} to remove",
        got=f"near it: {listing(near)}" if near else None,
        fix="hybrid info lists the classes of the run",
    )


def add_class(
    layout: Layout,
    encoder: Encoder,
    name: str,
    records: Sequence[ImageRecord],
    *,
    synonyms: Sequence[str] = (),
    named: bool | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    wait: bool = True,
) -> AddSummary:
    """Let a class join a run folder; the next head learns its images. Killed on the way, the same call again goes on.

    Parameters
    ----------
    layout : Layout
        Of a run that has an index.
    encoder, name, records, synonyms, named, batch_size, workers
        As for `join_class`; so are the errors. Nothing has changed then.
    wait : bool
        See `hybrid.lock.run_lock`.

    Raises
    ------
    ArtifactError
        If there is no run, or the encoder is not the run's.
    """
    read_run(layout)
    with writing(layout, "add-class", wait=wait):
        return _add_class(layout, encoder, name, records, synonyms, named, batch_size, workers)


def _add_class(
    layout: Layout,
    encoder: Encoder,
    name: str,
    records: Sequence[ImageRecord],
    synonyms: Sequence[str],
    named: bool | None,
    batch_size: int | None,
    workers: int | None,
) -> AddSummary:
    run = _without_lost_classes(layout)
    if run.encoder_identity != encoder.identity:
        raise ArtifactError(
            "the run's index was made with another encoder",
            expected=run.encoder_name,
            got=encoder.name,
            fix="use that one, or make the index again with this one: hybrid build-index",
        )
    classes, _ = read_run_classes(layout, (run.encoder_fingerprint, encoder.fingerprint), read_head_info(layout))
    after, summary = join_class(
        classes, encoder, name, records, synonyms=synonyms, named=named, batch_size=batch_size, workers=workers
    )
    after = replace(after, index=after.index.with_files(layout.photos))
    after.write_to(layout)
    notes = list(summary.notes)
    if after.index.images:
        with EmbeddingStore(layout.store) as store:
            store.name_encoder(encoder.fingerprint, encoder.name)
            open_index(store, encoder.fingerprint, layout.neighbors)
        if encoder.fingerprint != run.encoder_fingerprint:
            notes.append(
                "these vectors are of another precision or decoder than the index: hybrid train-head cannot use them"
            )
    own = next(c for c in after.support if class_key(c.name) == class_key(summary.name))
    texts = PendingIndex(layout.store, after.index.fingerprints)
    notes += fit_notes(own, after.support, after.seen, encoder, usual_templates(layout), texts)
    return replace(summary, notes=tuple(notes))


def remove_class(layout: Layout, name: str, *, wait: bool = True) -> RemoveSummary:
    """Let a class leave a run folder; see `leave_class`, and `hybrid.lock.run_lock` for `wait`.

    Raises
    ------
    HybridError
        As `leave_class`, and if there is no run.
    """
    read_run(layout)
    with writing(layout, "remove-class", wait=wait):
        run = _without_lost_classes(layout)
        classes, _ = read_run_classes(layout, (run.encoder_fingerprint,), read_head_info(layout))
        after, summary = leave_class(classes, name)
        after.write_to(layout)
        if summary.images:
            with EmbeddingStore(layout.store) as store:
                if store.dim(run.encoder_fingerprint) is not None:
                    open_index(store, run.encoder_fingerprint, layout.neighbors)
    return summary


def usual_templates(layout: Layout) -> Templates:
    """Templates that a run is asked with where nobody names others."""
    simple = load_templates("simple")
    return at_one_moment(layout, lambda run: simple if run.head is None else run.head.gate_info().templates)


def _without_lost_classes(layout: Layout) -> RunInfo:
    """What ``run.json`` says; where ``classes.json`` is gone, it says no more that there is one.

    So whoever is told that the file is damaged removes it, and adds the classes again.
    """
    info = read_run(layout)
    allowed = info.parts.get(layout.classes.name, ("",))
    if "" in allowed or layout.classes.exists() or layout.classes.is_symlink():
        return info
    text = f"{layout.classes} is gone, and with it the names of classes that were added; their photos stay"
    warnings.warn(text, HybridWarning, stacklevel=3)
    rest = {name: digests for name, digests in info.parts.items() if name != layout.classes.name}
    write_info(layout, msgspec.structs.replace(info, parts=rest))
    return read_run(layout)


def _shows(image: StoredImage, *, left_out: bool) -> bool:
    """Whether an image makes its label a class of the run: it was added, or its label joins by itself."""
    return is_added(image.record.source) or (image.record.split not in HELD_BACK and not left_out)


def _in_order(info: ClassesInfo, support: Sequence[SupportClass]) -> tuple[SupportClass, ...]:
    """Those that a person added first, in their order; then mere labels of the index, sorted."""
    place = {class_key(entry.name): number for number, entry in enumerate(info.added)}
    keyed = [(place.get(class_key(c.name), len(place)), class_key(c.name), c) for c in support]
    return tuple(c for _, _, c in sorted(keyed, key=lambda entry: entry[:2]))
