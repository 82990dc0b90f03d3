"""Add a class to a run and remove one, in seconds and without training."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid.encoders.base import Encoder
from hybrid.errors import ArtifactError, DataError, listing
from hybrid.images.records import ImageRecord
from hybrid.images.sources import Scan
from hybrid.index.build import build_index
from hybrid.index.neighbors import open_index
from hybrid.index.store import ADDED, EmbeddingStore, StoredImage
from hybrid.labels.prompts import class_key, load_templates
from hybrid.run.classes.images import JoiningImages, check_images
from hybrid.run.classes.names import entry_of, fit_notes, try_name
from hybrid.run.classes.support import AddedClass, ClassesInfo, gather, read_classes
from hybrid.run.files import HeadInfo, Layout, read_gate, read_head_info, read_run, write_json


@dataclass(frozen=True)
class AddSummary:
    """What one `add_class` did.

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
    """What one `remove_class` did: the class as the run spelled it, how many images the index forgot, and notes."""

    name: str
    images: int
    notes: tuple[str, ...]


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
) -> AddSummary:
    """Add a class to a run by images, by name or by both, or add more images to one that was added before.

    The images join the index with the class as their label, and the next head learns them. Killed on the way, the run
    holds some of them under the class's label; the same call again goes on.

    Parameters
    ----------
    layout : Layout
        Of a run that has an index.
    encoder : Encoder
        The run's.
    name : str
        A label of the index or an added class of the same `class_key` is this class, and keeps its spelling.
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
        image can be read (some are no error); or there is neither a name nor an image. Nothing has changed then.
    HybridError
        If there is no run, or the encoder is not the run's or has no vector of an image.
    """
    _check_encoder(layout, encoder)
    head = read_head_info(layout)
    encoder.check(records)
    with EmbeddingStore(layout.store) as store:
        labels = tuple(store.labels())
        entry = entry_of(read_classes(layout), name, synonyms, named, head.classes if head else (), labels)
        joining = check_images(store, entry.name, records, workers)
        return _add(layout, encoder, head, store, entry, joining, batch_size, workers)


def _add(
    layout: Layout,
    encoder: Encoder,
    head: HeadInfo | None,
    store: EmbeddingStore,
    entry: AddedClass,
    joining: JoiningImages,
    batch_size: int | None,
    workers: int | None,
) -> AddSummary:
    templates = read_gate(layout).templates if head else load_templates("simple")
    entry, notes = try_name(entry, encoder, templates, store)
    # A scan of no source: what was added before stays.
    scan = Scan(joining.records, (), ())
    built = build_index(scan, encoder, store, batch_size=batch_size, workers=workers)
    unreadable = (*joining.unreadable, *built.unreadable)
    if unreadable and len(built.unreadable) == len(joining.records):
        raise _none_readable(entry.name, unreadable)
    seen, left_out = (head.classes, head.left_out) if head else ((), ())
    after = _with(read_classes(layout), entry)
    classes, more = gather(after, store, (encoder.fingerprint,), seen, left_out)
    own = next((c for c in classes if class_key(c.name) == class_key(entry.name)), None)
    if own is None:
        raise DataError(
            f"nothing would be known of {entry.name}",
            expected="a name that the encoder knows, or a photo that is not of split test",
            got=listing([*notes, *joining.notes]) or "--no-name and no photo",
        )
    # After the images: killed before this line, they show a class that is called by its label.
    write_json(layout.classes, after)
    if joining.records:
        open_index(store, encoder.fingerprint, layout.neighbors)
        if encoder.fingerprint != read_run(layout).encoder_fingerprint:
            notes.append("these vectors are of another precision than the index: hybrid train-head cannot use them")
    notes += [*joining.notes, *more, *fit_notes(own, classes, seen, encoder, templates, store)]
    return AddSummary(own.name, own.synonyms, own.named, len(own.hashes), built.new, unreadable, tuple(notes))


def remove_class(layout: Layout, name: str) -> RemoveSummary:
    """Forget a class that the head does not know: its names, and the images in the index that show it.

    Images of split ``test``, and those of a label that the head left out, stay.

    Parameters
    ----------
    layout : Layout
    name : str
        A label of the index or an added class, by `class_key`.

    Returns
    -------
    RemoveSummary

    Raises
    ------
    DataError
        If the head was trained on the class, or the run has none of this name.
    HybridError
        If there is no run.
    """
    run, key = read_run(layout), class_key(name)
    info, head = read_classes(layout), read_head_info(layout)
    if head and key in {class_key(label) for label in head.classes}:
        raise DataError(
            f"the head was trained on {name}",
            fix="train it again without the class (hybrid train-head --classes FILE), then remove it",
        )
    with EmbeddingStore(layout.store) as store:
        known = {class_key(n): n for n in (*store.labels(), *(e.name for e in info.added))}
        if key not in known:
            near = [known[k] for k in difflib.get_close_matches(key, known, n=3, cutoff=0.5)]
            raise DataError(f"the run has no class {name!r}", got=f"near it: {listing(near) or 'nothing'}")
        labels = [label for label in store.labels() if class_key(label) == key]
        images = [image for image in store.images_sharing(labels) if image.record.label in labels]
        images = _that_show(images, head)
        # Before the names: killed between the two, the class has names alone, and a second call removes these.
        if images:
            store.remove([image.record.path for image in images])
        if any(class_key(e.name) == key for e in info.added):
            write_json(layout.classes, ClassesInfo(added=_without(info, name)))
        if images and store.dim(run.encoder_fingerprint) is not None:
            open_index(store, run.encoder_fingerprint, layout.neighbors)
    sources = sorted({p.record.source for p in images if not p.record.source.startswith(ADDED)})
    notes = (f"the next hybrid build-index of {listing(sources, 3)} brings its photos back",) if sources else ()
    return RemoveSummary(known[key], len(images), notes)


def _that_show(images: Sequence[StoredImage], head: HeadInfo | None) -> list[StoredImage]:
    """Images that make it a class of the run: what was added, and labels of the index that join by themselves.

    Images of split ``test``, and those of a label that the head left out, show nothing by themselves: they stay.
    """
    left_out = {class_key(label) for label in (head.left_out or ())} if head else set()
    return [
        image
        for image in images
        if image.record.source.startswith(ADDED)
        or (image.record.split != "test" and class_key(str(image.record.label)) not in left_out)
    ]


def _with(info: ClassesInfo, entry: AddedClass) -> ClassesInfo:
    """The entry in the place of the one before, else at the end."""
    keys = [class_key(e.name) for e in info.added]
    place = keys.index(class_key(entry.name)) if class_key(entry.name) in keys else len(keys)
    return ClassesInfo(added=(*info.added[:place], entry, *info.added[place + 1 :]))


def _without(info: ClassesInfo, name: str) -> tuple[AddedClass, ...]:
    return tuple(entry for entry in info.added if class_key(entry.name) != class_key(name))


def _check_encoder(layout: Layout, encoder: Encoder) -> None:
    run = read_run(layout)
    if run.encoder_identity != encoder.identity:
        raise ArtifactError(
            "the run's index was made with another encoder",
            expected=run.encoder_name,
            got=encoder.name,
            fix="use that one, or make the index again with this one: hybrid build-index",
        )


def _none_readable(name: str, unreadable: Sequence[tuple[str, str]]) -> DataError:
    return DataError(
        f"none of the photos of {name} can be read",
        got=listing([f"{path}: {reason}" for path, reason in unreadable], 3),
        fix="give photos that can be read, or none to add the class by its name alone",
    )
