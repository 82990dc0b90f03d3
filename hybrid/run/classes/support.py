"""The classes of a run that its head does not know, from ``classes.json`` and the labels of the index."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.errors import listing
from hybrid.heads.training.dataset import HELD_BACK, each_content_once
from hybrid.images.naming import plural
from hybrid.index.store import StoredImage, is_added
from hybrid.labels.prompts import PromptClass, class_key
from hybrid.run.classes.entries import AddedClass, ClassesInfo
from hybrid.run.classes.pending import PendingIndex


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
        In the order of `hashes`. `dim` is 0 where no image of these classes has a vector.
    """

    name: str
    synonyms: tuple[str, ...]
    named: bool
    hashes: tuple[str, ...]
    embeddings: FloatArray

    @property
    def prompt(self) -> PromptClass:
        """What the class is called in a prompt."""
        return PromptClass(self.name, self.synonyms)


def gather(
    info: ClassesInfo, index: PendingIndex, seen: Sequence[str], left_out: Sequence[str] | None
) -> tuple[tuple[SupportClass, ...], tuple[str, ...]]:
    """Gather the classes of a run that its head does not know.

    These are the labels of the index that are not `seen`, with their images that are not of split ``test``, and the
    classes that were added by name alone. Names are compared by `class_key`. Each content counts once; contents that
    carry two labels do not count.

    Parameters
    ----------
    info : ClassesInfo
    index : PendingIndex
    seen : sequence of str
        Classes of the head.
    left_out : sequence of str, or None
        Labels that are no classes of the run unless `info` adds them; see `HeadInfo`. None: all of them.

    Returns
    -------
    classes : tuple of SupportClass
        Those of `info` in its order, then the other labels, sorted by `class_key`.
    notes : tuple of str
        What was left out, for people.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    labels = index.labels()
    added = {class_key(entry.name) for entry in info.added}
    left_out = labels if left_out is None else left_out
    outside = {class_key(name) for name in seen} | ({class_key(name) for name in left_out} - added)
    return gather_labels(
        [entry for entry in info.added if class_key(entry.name) not in outside],
        [label for label in labels if class_key(label) not in outside],
        index,
    )


def gather_labels(
    entries: Sequence[AddedClass], labels: Sequence[str], index: PendingIndex
) -> tuple[tuple[SupportClass, ...], tuple[str, ...]]:
    """Do the work of `gather` for some entries of ``classes.json`` and some labels of the index."""
    images, notes = _images_by_class(index, labels)
    by_key = {class_key(entry.name): entry for entry in entries}
    spelled = {class_key(label): label for label in sorted(labels, reverse=True)}
    for key in images:
        by_key.setdefault(key, AddedClass(name=spelled[key]))
    vectors = index.find_vectors([image.sha256 for own in images.values() for image in own])
    dim = len(next(iter(vectors.values()), ()))
    classes = []
    for key, entry in by_key.items():
        lacking = [image for image in images.get(key, []) if image.sha256 not in vectors]
        notes += [_lack_note(entry.name, lacking)] if lacking else []
        own = tuple(image.sha256 for image in images.get(key, []) if image.sha256 in vectors)
        embeddings = np.array([vectors[sha256] for sha256 in own], dtype=np.float32).reshape(len(own), dim)
        classes.append(SupportClass(entry.name, entry.synonyms, entry.named, own, embeddings))
    silent = [c.name for c in classes if not c.named and not c.hashes]
    notes += [f"left out, for want of a photo that shows them: {listing(silent)}"] if silent else []
    return tuple(c for c in classes if c.named or c.hashes), tuple(notes)


def _images_by_class(index: PendingIndex, labels: Sequence[str]) -> tuple[dict[str, list[StoredImage]], list[str]]:
    """Images of the labels by `class_key`, each content once, and notes on those that carry two labels."""
    usable = [i for i in index.images_sharing(labels) if i.record.label and i.record.split not in HELD_BACK]
    # Not for each image anew: there may be a hundred thousand.
    keys = {label: class_key(label) for label in {*labels, *(str(i.record.label) for i in usable)}}
    # Copies of an image and two spellings of a class are nothing to tell a person; two classes for one image are.
    copies = {(i.sha256, keys[str(i.record.label)]): i for i in reversed(usable)}
    keyed = [
        i if i.record.label == key else StoredImage(dataclasses.replace(i.record, label=key), i.sha256)
        for (_, key), i in copies.items()
    ]
    once, notes = each_content_once(keyed)
    images: dict[str, list[StoredImage]] = {key: [] for key in sorted({keys[label] for label in labels})}
    for image in once:
        images[str(image.record.label)].append(image)  # one of another class would carry two labels
    return {key: own for key, own in images.items() if own}, notes


def _lack_note(name: str, images: Sequence[StoredImage]) -> str:
    added = any(is_added(image.record.source) for image in images)
    fix = f"hybrid add-class {name!r} with them again" if added else "hybrid build-index again"
    have = "has" if len(images) == 1 else "have"
    return f"{plural(len(images), 'photo')} of class {name} {have} no vector in this precision: {fix}"
