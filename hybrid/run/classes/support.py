"""The classes of a run that its head does not know, from ``classes.json`` and the labels of the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.errors import listing
from hybrid.heads.training.dataset import HELD_BACK, each_content_once, relabeled
from hybrid.images.naming import plural
from hybrid.index.store import StoredImage, is_added
from hybrid.labels.names import NameTable, class_of, joined_notes, spoken_form
from hybrid.labels.prompts import PromptClass
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
    classes that were added by name alone. Names are compared as `hybrid.labels.names` has it. Each content counts
    once; contents that carry two labels do not count.

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
        Those of `info` in its order, then the other labels, sorted.
    notes : tuple of str
        What was left out, for people.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    labels = index.labels()
    added = NameTable(entry.name for entry in info.added)
    left_out = labels if left_out is None else left_out
    trained = NameTable(seen)
    # Whoever labels an image names a class, one that the head was trained without too.
    given = NameTable(index.labels_given())
    silent = (name for name in left_out if added.find(name) is None and given.find(name) is None)
    outside = NameTable((*seen, *silent))
    classes, notes = gather_labels(
        [entry for entry in info.added if outside.find(entry.name) is None],
        [label for label in labels if outside.find(label) is None],
        index,
    )
    learned = {label: seen[place] for label in labels if (place := trained.find(label)) is not None}
    return classes, (*joined_notes(learned), *notes)


def gather_labels(
    entries: Sequence[AddedClass], labels: Sequence[str], index: PendingIndex
) -> tuple[tuple[SupportClass, ...], tuple[str, ...]]:
    """Do the work of `gather` for some entries of ``classes.json`` and some labels of the index."""
    names = class_of(labels, [entry.name for entry in entries])
    images, notes = _images_by_class(index, names)
    by_name = {entry.name: entry for entry in entries}
    for name in images:
        by_name.setdefault(name, AddedClass(name=name))
    vectors = index.find_vectors([image.sha256 for own in images.values() for image in own])
    dim = len(next(iter(vectors.values()), ()))
    classes = []
    for name, entry in by_name.items():
        lacking = [image for image in images.get(name, []) if image.sha256 not in vectors]
        notes += [_lack_note(entry.name, lacking)] if lacking else []
        own = tuple(image.sha256 for image in images.get(name, []) if image.sha256 in vectors)
        embeddings = np.array([vectors[sha256] for sha256 in own], dtype=np.float32).reshape(len(own), dim)
        classes.append(SupportClass(entry.name, entry.synonyms, entry.named, own, embeddings))
    silent = [c.name for c in classes if not c.named and not c.hashes]
    notes += [f"left out, for want of a photo that shows them: {listing(silent)}"] if silent else []
    return tuple(c for c in classes if c.named or c.hashes), tuple(notes)


def _images_by_class(index: PendingIndex, names: Mapping[str, str]) -> tuple[dict[str, list[StoredImage]], list[str]]:
    """Images of labels by the class they name, each content once, and notes on what a person should hear of them."""
    usable = [i for i in index.images_sharing(list(names)) if i.record.label and i.record.split not in HELD_BACK]
    counts = Counter(str(i.record.label) for i in usable)
    # An image that carries another label too shows none of these classes, whatever that label is called.
    names = {label: names.get(label, label) for label in counts}
    # Copies of an image and two spellings of its class are nothing to tell of it; two classes for one image are.
    copies = {(i.sha256, names[str(i.record.label)]): i for i in reversed(usable)}
    once, notes = each_content_once([relabeled(i, names) for i in copies.values()])
    images: dict[str, list[StoredImage]] = {}
    for image in once:
        images.setdefault(str(image.record.label), []).append(image)
    in_order = sorted(images, key=lambda name: (spoken_form(name), name))
    return {name: images[name] for name in in_order}, [*joined_notes(names, counts), *notes]


def _lack_note(name: str, images: Sequence[StoredImage]) -> str:
    added = any(is_added(image.record.source) for image in images)
    fix = f"hybrid add-class {name!r} with them again" if added else "hybrid build-index again"
    have = "has" if len(images) == 1 else "have"
    return f"{plural(len(images), 'photo')} of class {name} {have} no vector in this precision: {fix}"
