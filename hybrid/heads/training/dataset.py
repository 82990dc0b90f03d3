"""From the store's labeled images to a training and a validation set without overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hybrid.errors import DataError, listing
from hybrid.heads.base import LabeledImages, TrainingSet, check_vectors
from hybrid.images.naming import plural
from hybrid.images.splits import stratified_split
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.labels.names import NameTable, check_not_reserved, class_of, joined_notes
from hybrid.labels.near import did_you_mean

HELD_BACK = ("test",)


def training_set(
    store: EmbeddingStore,
    fingerprint: str,
    *,
    limit_to: Sequence[str] | None,
    val_fraction: float,
    seed: int,
) -> TrainingSet:
    """Choose the images to train on.

    Images of split ``test`` are never used. Where the sources name a validation split it is used, else a
    stratified `val_fraction` is cut from the labeled images. Images that a person labeled because they were doubtful
    are never held out. Each content counts once: copies are dropped, and a content with two different labels is left
    out.

    Parameters
    ----------
    limit_to : sequence of str, optional
        The seen classes; None takes every label of the index.

    Raises
    ------
    DataError
        If there are no labeled images, fewer than two classes, or a class of `limit_to` has no image.
    """
    chosen = choose_images(store.images(), limit_to=limit_to, place="index")
    train, val, notes = divide(chosen, val_fraction, seed)

    def embedded(part: list[StoredImage]) -> LabeledImages:
        return with_embeddings(pack(part, chosen.classes), store, fingerprint)

    trains_only = frozenset(image.sha256 for image in chosen.images if image.trains_only)
    negatives = _negatives(store, fingerprint)
    return TrainingSet(chosen.classes, embedded(train), embedded(val), notes, trains_only, negatives)


def _negatives(store: EmbeddingStore, fingerprint: str) -> LabeledImages | None:
    """Images of none of the classes that may calibrate the rejector: drawn at random, and not of split ``test``."""
    found = {image.sha256: image for image in reversed(store.images_with(store.negatives()))}
    usable = [i for i in found.values() if i.given and not i.given.is_chosen and i.record.split not in HELD_BACK]
    hashes = tuple(image.sha256 for image in usable)
    if not hashes:
        return None
    target = np.full(len(hashes), -1, dtype=np.intp)
    return LabeledImages(tuple(i.record for i in usable), hashes, target, store.embeddings(hashes, fingerprint))


@dataclass(frozen=True)
class ChosenImages:
    """Labeled images of the classes to train, each content once, not yet divided.

    Attributes
    ----------
    classes : tuple of str
    images : list of StoredImage
        Ordered by path.
    notes : list of str
        What was left out.
    """

    classes: tuple[str, ...]
    images: list[StoredImage]
    notes: list[str]


def choose_images(images: Sequence[StoredImage], *, limit_to: Sequence[str] | None, place: str) -> ChosenImages:
    """Choose the images that may train or validate: labeled, not of split ``test``, each content once.

    Parameters
    ----------
    images : sequence of StoredImage
    limit_to : sequence of str, optional
        The seen classes; None takes every label.
    place : {"index", "sources"}
        Where the images come from, for the errors.

    Raises
    ------
    DataError
        If there are no labeled images, fewer than two classes, or a class of `limit_to` has no image.
    """
    labeled = [p for p in images if p.record.label is not None and p.record.split not in HELD_BACK]
    if not labeled:
        raise DataError(
            f"the {place} {'holds' if place == 'index' else 'hold'} no labeled photos to train on",
            expected="class folders, a manifest with labels, or labeled shards",
            got=_without_label(images),
            fix="hybrid build-index FOLDER_WITH_CLASS_FOLDERS"
            if place == "index"
            else "give a folder of class folders",
        )
    counts = Counter(str(p.record.label) for p in labeled)
    class_names = class_of(counts, _exact(counts, limit_to))
    classes = _classes(class_names, limit_to, place)
    check_not_reserved(classes, f"the labels of the {place}")
    wanted = {label: name for label, name in class_names.items() if name in classes}
    named = [relabeled(p, wanted) for p in labeled if p.record.label in wanted]
    once, notes = each_content_once(named)
    _check_own_images(classes, named, once)
    return ChosenImages(classes, once, [*joined_notes(wanted, counts), *notes])


def _without_label(images: Sequence[StoredImage]) -> str:
    held_back = sum(p.record.label is not None for p in images)
    return f"{plural(len(images), 'photo')}" + (
        f", {held_back} of them labeled, but of split test" if held_back else ""
    )


def divide(
    chosen: ChosenImages, val_fraction: float, seed: int
) -> tuple[list[StoredImage], list[StoredImage], tuple[str, ...]]:
    """Divide chosen images into training and validation: by the split that is named, else a stratified cut.

    Those that may only train take no part in the cut.

    Returns
    -------
    train, val, notes

    Raises
    ------
    DataError
        If nothing can be held out, or a class is left without a training image.
    """
    named_val = [p for p in chosen.images if p.record.split == "val"]
    rest = [p for p in chosen.images if p.record.split != "val"]
    if named_val and rest:
        train, val = rest, named_val
        note = "validation: the split that the sources name"
    else:
        train, val = _cut([p for p in chosen.images if not p.trains_only], val_fraction, seed)
        train = sorted([*train, *(p for p in chosen.images if p.trains_only)], key=lambda p: p.record.path)
        note = f"validation: a stratified {val_fraction:.0%} of the labeled photos, seed {seed}"
        note += ", sequences whole" if any(p.sequence for p in chosen.images) else ""
    present = {p.record.label for p in train}
    missing = [name for name in chosen.classes if name not in present]
    if missing:
        raise DataError("classes without a training photo", got=listing(missing), fix="add photos of them")
    return train, val, (*chosen.notes, note)


def pack(images: Sequence[StoredImage], classes: tuple[str, ...]) -> LabeledImages:
    """Number the classes of images, without embeddings: those are (n, 0) float32.

    Labels find their class in any spelling; each must be one of `classes`.
    """
    table = NameTable(classes)
    index_of = {label: table.find(label) for label in {str(p.record.label) for p in images}}
    target = np.array([index_of[str(p.record.label)] for p in images], dtype=np.intp)
    empty = np.empty((len(images), 0), dtype=np.float32)
    return LabeledImages(tuple(p.record for p in images), tuple(p.sha256 for p in images), target, empty)


def with_embeddings(images: LabeledImages, store: EmbeddingStore, fingerprint: str) -> LabeledImages:
    """Give images the store's embeddings; StoreError if one has none, or a damaged one."""
    embedded = replace(images, embeddings=store.embeddings(images.hashes, fingerprint))
    check_vectors(embedded)
    return embedded


def split_by_training(data: TrainingSet, classes: tuple[str, ...], trained_on: frozenset[str]) -> TrainingSet:
    """Divide images by whether they trained a head: what did not may calibrate it, unless it may only train.

    Parameters
    ----------
    data : TrainingSet
    classes : tuple of str
        The head's, in its order.
    trained_on : frozenset of str
        Content hashes of the head's training images.

    Raises
    ------
    DataError
        If the index no longer holds these classes' training images, or no other image.
    """
    position = np.array([classes.index(name) if name in classes else -1 for name in data.classes], dtype=np.intp)
    both = data.train + data.val
    both = replace(both, target=position[both.target])
    no_sample = trained_on | data.trains_only
    has_trained = np.array([sha256 in no_sample for sha256 in both.hashes], dtype=bool)
    train, val = both.take(np.flatnonzero(has_trained)), both.take(np.flatnonzero(~has_trained))
    covered = len(np.unique(train.target))
    if sorted(data.classes) != sorted(classes) or covered < len(classes) or not len(val):
        raise DataError(
            "the index no longer fits the head",
            expected=f"training photos of its {len(classes)} classes, and others to calibrate on",
            got=f"{len(train)} photos that trained it, of {covered} classes, and {len(val)} others",
            fix="hybrid build-index with the head's photos, or hybrid train-head",
        )
    return replace(data, classes=classes, train=train, val=val)


def _check_own_images(classes: Sequence[str], named: list[StoredImage], once: list[StoredImage]) -> None:
    """DataError where every photo of a class carries another label too: a folder that was renamed or copied."""
    own = {p.record.label for p in once}
    lost = [name for name in classes if name not in own]
    if not lost:
        return
    example = next(p for p in named if p.record.label == lost[0])
    twin = next(p for p in named if p.sha256 == example.sha256 and p.record.label != lost[0])
    raise DataError(
        f"every photo of {listing(lost)} carries another label too, so none can be trained on",
        expected="one label for the same bytes",
        got=f"{example.record.path} is {example.record.label}, {twin.record.path} is {twin.record.label}",
        fix="remove the copies, or, where a folder was moved or renamed, build the index with the new one alone: "
        "hybrid build-index FOLDER --replace",
    )


def relabeled(image: StoredImage, names: Mapping[str, str]) -> StoredImage:
    """The image under the name of its class, from `class_of`."""
    label = str(image.record.label)
    if names[label] == label:
        return image
    return replace(image, record=replace(image.record, label=names[label]))


def _exact(labels: Iterable[str], limit_to: Sequence[str] | None) -> list[str]:
    """Labels that a person asks for by their very spelling: these are the names of their classes."""
    there = set(labels)
    return [name for name in limit_to or () if name in there]


def _classes(class_names: Mapping[str, str], limit_to: Sequence[str] | None, place: str) -> tuple[str, ...]:
    """Seen classes, sorted; names of `limit_to` find labels in any spelling."""
    labels = sorted(set(class_names.values()))
    if limit_to is not None:
        table = NameTable(labels)
        missing = [name for name in limit_to if table.find(name) is None]
        if missing:
            raise DataError(
                f"classes to train on that the {place} {'has' if place == 'index' else 'have'} no photo of",
                expected=f"names among the {len(labels)} labels: {listing(labels)}",
                got=listing(missing),
                fix=did_you_mean(missing, labels)
                or "correct --classes, or add photos" + (" with hybrid build-index" if place == "index" else ""),
            )
        labels = sorted({labels[index] for name in limit_to if (index := table.find(name)) is not None})
    if len(labels) < 2:
        raise DataError(
            "a head needs at least two classes",
            got=listing(labels) or "none",
            fix="add photos of another class, or ask zero-shot alone (predict --prompts, without a head)",
        )
    return tuple(labels)


def each_content_once(images: list[StoredImage]) -> tuple[list[StoredImage], list[str]]:
    """Drop copies (keeping a training image before a validation one) and contents with two labels."""
    labels: dict[str, set[str]] = {}
    for image in images:
        labels.setdefault(image.sha256, set()).add(str(image.record.label))
    torn = [p.record.path for p in images if len(labels[p.sha256]) > 1]
    once: dict[str, StoredImage] = {}
    for image in sorted(images, key=lambda p: (p.record.split == "val", p.record.path)):
        if len(labels[image.sha256]) == 1:
            once.setdefault(image.sha256, image)
    notes = []
    copies = len(images) - len(once) - len(torn)
    if copies:
        notes.append(f"left out {copies} photos that are copies of others, byte for byte")
    if torn:
        notes.append(f"left out {len(torn)} photos whose same bytes carry two labels: {listing(torn, 4)}")
    return sorted(once.values(), key=lambda p: p.record.path), notes


def _cut(images: list[StoredImage], fraction: float, seed: int) -> tuple[list[StoredImage], list[StoredImage]]:
    labels = [str(p.record.label) for p in images]
    if max(Counter(labels).values(), default=0) < 2:
        raise DataError(
            "no class has two photos, so none can be held out for validation",
            got=f"{len(images)} photos of {len(set(labels))} classes",
            fix="add photos, or name a validation source in a folder called val",
        )
    train, val = cut_photos(images, fraction, seed)
    if not val:
        raise DataError(
            "no photo can be held out for validation: each has the only box of a class that could train",
            got=f"{len(images)} boxes of {len(set(labels))} classes",
            fix="add photos, or name a validation source in a folder called val",
        )
    return train, val


def cut_photos(
    images: Sequence[StoredImage], fraction: float, seed: int
) -> tuple[list[StoredImage], list[StoredImage]]:
    """Split images as `stratified_split` does, whole photos and sequences at a time: they share light and background.

    A group counts for the class of its first image. One of which a class needs an image to train on is not held out.
    Where nothing could be held out so, sequences are cut.
    """
    held = _held_out(images, [_group(image) for image in images], fraction, seed)
    held = held or _held_out(images, [image.record.file for image in images], fraction, seed)
    return (
        [image for place, image in enumerate(images) if place not in held],
        [image for place, image in enumerate(images) if place in held],
    )


def _group(image: StoredImage) -> object:
    """What an image stays together with."""
    return image.record.file if image.sequence is None else (image.record.source, image.sequence)


def _held_out(images: Sequence[StoredImage], keys: Sequence[object], fraction: float, seed: int) -> set[int]:
    """Places of the images to validate with."""
    places: dict[object, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    groups = list(places.values())
    labels = [[image.record.label for image in map(images.__getitem__, group)] for group in groups]
    train, val = stratified_split([str(own[0]) for own in labels], fraction, seed)
    trained = {label for number in train for label in labels[number]}
    held: set[int] = set()
    for number in val:
        if trained.issuperset(labels[number]):
            held.update(groups[number])
        else:
            trained.update(labels[number])
    return held
