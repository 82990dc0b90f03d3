"""The classes of a run that its head does not know, from ``classes.json`` and the labels of the index."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct

from hybrid.encoders.base import FloatArray
from hybrid.errors import listing
from hybrid.heads.training.dataset import HELD_BACK, each_content_once
from hybrid.images.naming import plural
from hybrid.index.store import ADDED, EmbeddingStore, StoredImage
from hybrid.labels.prompts import class_key
from hybrid.run.files import FORMAT, Layout, read_json


class AddedClass(Struct, frozen=True, kw_only=True):
    """One entry of ``classes.json``.

    Attributes
    ----------
    name : str
    synonyms : tuple of str
    named : bool
        False: the name says nothing to a text encoder, images alone speak for the class.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    named: bool = True


class ClassesInfo(Struct, frozen=True, kw_only=True):
    """``classes.json``: what a person said of classes; their images lie in the store."""

    format: int = FORMAT
    added: tuple[AddedClass, ...] = ()


@dataclass(frozen=True)
class SupportClass:
    """A class that the head does not know.

    Attributes
    ----------
    name : str
    synonyms : tuple of str
    named : bool
        Whether its names may be put to a text encoder.
    hashes : tuple of str
        Contents of its images, each once, by path; empty for a class that has names alone.
    embeddings : (k, dim) float32, unit norm
        In the order of `hashes`. `dim` is 0 where the index holds no vector at all.
    """

    name: str
    synonyms: tuple[str, ...]
    named: bool
    hashes: tuple[str, ...]
    embeddings: FloatArray


def read_classes(layout: Layout) -> ClassesInfo:
    """Read ``classes.json``; without the file nothing was added.

    Raises
    ------
    ArtifactError
        If it is torn or of another format.
    """
    if not layout.classes.is_file():
        return ClassesInfo()
    return read_json(layout.classes, ClassesInfo, f"remove {layout.classes} and run hybrid add-class again")


def support_classes(
    layout: Layout, fingerprints: Sequence[str], seen: Sequence[str], left_out: Sequence[str] | None
) -> tuple[tuple[SupportClass, ...], tuple[str, ...]]:
    """Gather the classes of a run that its head does not know.

    These are the labels of the index that are not `seen`, with their images that are not of split ``test``, and the
    classes that were added by name alone. Names are compared by `class_key`. Each content counts once; contents that
    carry two labels do not count.

    Parameters
    ----------
    layout : Layout
        Where there is no run yet, there is no class.
    fingerprints : sequence of str
        Encoders of one identity, the best precision first: of each image the first vector that there is serves.
    seen : sequence of str
        Classes of the head.
    left_out : sequence of str, or None
        Labels that are no classes of the run unless ``classes.json`` adds them; see `HeadInfo`. None: all of them.

    Returns
    -------
    classes : tuple of ShownClass
        Those of ``classes.json`` in its order, then the other labels, sorted by `class_key`.
    notes : tuple of str
        What was left out, for people.

    Raises
    ------
    HybridError
        If ``classes.json`` or the store cannot be read.
    """
    if not layout.run.is_file():
        return (), ()
    with EmbeddingStore(layout.store) as store:
        return gather(read_classes(layout), store, fingerprints, seen, left_out)


def gather(
    info: ClassesInfo,
    store: EmbeddingStore,
    fingerprints: Sequence[str],
    seen: Sequence[str],
    left_out: Sequence[str] | None,
) -> tuple[tuple[SupportClass, ...], tuple[str, ...]]:
    """Do the work of `support_classes`, with a ``classes.json`` that need not be written yet."""
    added = {class_key(entry.name): entry for entry in info.added}
    if left_out is None:
        left_out = tuple(store.labels())
    outside = {class_key(name) for name in seen} | ({class_key(name) for name in left_out} - set(added))
    entries = {key: entry for key, entry in added.items() if key not in outside}
    labels = [label for label in store.labels() if class_key(label) not in outside]
    images, notes = _images_by_class(store, labels)
    spelled = {class_key(label): label for label in sorted(labels, reverse=True)}
    for key in images:
        entries.setdefault(key, AddedClass(name=spelled[key]))
    hashes = [image.sha256 for found in images.values() for image in found]
    vectors = _vectors(store, hashes, fingerprints)
    dim = max((store.dim(fingerprint) or 0 for fingerprint in fingerprints), default=0)
    classes = []
    for key, entry in entries.items():
        lacking = [image for image in images.get(key, []) if image.sha256 not in vectors]
        notes += [_lack_note(entry.name, lacking)] if lacking else []
        own = tuple(image.sha256 for image in images.get(key, []) if image.sha256 in vectors)
        embeddings = np.array([vectors[name] for name in own], dtype=np.float32).reshape(len(own), dim)
        classes.append(SupportClass(entry.name, entry.synonyms, entry.named, own, embeddings))
    mute = [c.name for c in classes if not c.named and not c.hashes]
    notes += [f"left out, for want of a photo that shows them: {listing(mute)}"] if mute else []
    return tuple(c for c in classes if c.named or c.hashes), tuple(notes)


def _images_by_class(store: EmbeddingStore, labels: Sequence[str]) -> tuple[dict[str, list[StoredImage]], list[str]]:
    """Images of the labels by `class_key`, each content once, and notes on those that carry two labels."""
    usable = [p for p in store.images_sharing(labels) if p.record.label and p.record.split not in HELD_BACK]
    # Not of each image anew: there may be a hundred thousand.
    keys = {label: class_key(label) for label in {*labels, *(str(p.record.label) for p in usable)}}
    # Copies of an image and two spellings of a class are nothing to tell a person; two classes for one image are.
    copies = {(p.sha256, keys[str(p.record.label)]): p for p in reversed(usable)}
    keyed = [
        p if p.record.label == key else StoredImage(dataclasses.replace(p.record, label=key), p.sha256)
        for (_, key), p in copies.items()
    ]
    once, notes = each_content_once(keyed)
    images: dict[str, list[StoredImage]] = {key: [] for key in sorted({keys[label] for label in labels})}
    for image in once:
        images[str(image.record.label)].append(image)  # of another class it would carry two labels
    return {key: found for key, found in images.items() if found}, notes


def _vectors(store: EmbeddingStore, hashes: Sequence[str], fingerprints: Sequence[str]) -> dict[str, FloatArray]:
    """Vectors (dim,) of contents by the first encoder that has one."""
    vectors: dict[str, FloatArray] = {}
    for fingerprint in fingerprints:
        if missing := [name for name in hashes if name not in vectors]:
            there = store.embedded(fingerprint, missing)
            new = [name for name in missing if name in there]
            vectors.update(zip(new, store.embeddings(new, fingerprint), strict=True))
    return vectors


def _lack_note(name: str, images: Sequence[StoredImage]) -> str:
    added = any(image.record.source.startswith(ADDED) for image in images)
    fix = f"hybrid add-class {name!r} with them again" if added else "hybrid build-index again"
    have = "has" if len(images) == 1 else "have"
    return f"{plural(len(images), 'photo')} of class {name} {have} no vector in this precision: {fix}"
