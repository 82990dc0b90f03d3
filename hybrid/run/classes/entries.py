"""``classes.json``: what a person said of classes, and the names that a class may have."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from hybrid.errors import ArtifactError, DataError, listing
from hybrid.images.naming import plural
from hybrid.index.store import StoredImage, added_to
from hybrid.labels.names import NameTable, check_name, class_key
from hybrid.labels.prompts import PromptClass
from hybrid.run.files import FORMAT, Layout, RunInfo, read_part


class AddedClass(Struct, frozen=True, kw_only=True):
    """One entry of ``classes.json``.

    Attributes
    ----------
    name : str
    synonyms : tuple of str
    named : bool
        False: the name says nothing to a text encoder, images alone speak for the class.
    images : int or None
        How many images a person added to the class; None where version 0.1.0 wrote it.
    paths : str
        sha256 of their paths in the store.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    named: bool = True
    images: int | None = None
    paths: str = ""

    @property
    def prompt(self) -> PromptClass:
        """What the class is called in a prompt."""
        return PromptClass(self.name, self.synonyms)


class ClassesInfo(Struct, frozen=True, kw_only=True):
    """``classes.json``: the classes that a person added; their images lie in the store."""

    format: int = FORMAT
    added: tuple[AddedClass, ...] = ()

    def find(self, name: str) -> AddedClass | None:
        """The entry of the class that is called so, in any spelling."""
        index = self._place(name)
        return None if index is None else self.added[index]

    def with_entry(self, entry: AddedClass) -> ClassesInfo:
        """The entry in the place of the one before, else at the end."""
        index = self._place(entry.name)
        if index is None:
            return ClassesInfo(added=(*self.added, entry))
        return ClassesInfo(added=(*self.added[:index], entry, *self.added[index + 1 :]))

    def without(self, name: str) -> ClassesInfo:
        """All entries but that of this class."""
        index = self._place(name)
        return self if index is None else ClassesInfo(added=(*self.added[:index], *self.added[index + 1 :]))

    def _place(self, name: str) -> int | None:
        return NameTable(entry.name for entry in self.added).find(name)


def read_classes(layout: Layout, info: RunInfo | None = None) -> ClassesInfo:
    """Read ``classes.json``; without the file nothing was added.

    Parameters
    ----------
    info : RunInfo, optional
        What was read of ``run.json``; default: it is read.

    Raises
    ------
    ArtifactError
        If it is torn, of another format, lost, or not what the run wrote last.
    """
    again = f"remove {layout.classes}, and run hybrid add-class again for each class"
    return read_part(layout, layout.classes, ClassesInfo, again, info) or ClassesInfo()


def with_images_of(entry: AddedClass, images: Iterable[StoredImage]) -> AddedClass:
    """The entry with what tells that the store has the images that a person added to the class.

    Parameters
    ----------
    images : iterable of StoredImage
        Those that a person added to classes, this one among them; one that was labeled otherwise since counts.
    """
    key = class_key(entry.name)
    names = ((added_to(image.record.source), image.record.path) for image in images)
    paths = sorted(path for name, path in names if name is not None and class_key(name) == key)
    digest = hashlib.sha256("\n".join(paths).encode("utf-8", "surrogateescape")).hexdigest()
    return msgspec.structs.replace(entry, images=len(paths), paths=digest)


class HasImages(Protocol):
    """A store, or what reads like one."""

    def images_added(self, keys: Collection[str]) -> list[StoredImage]: ...  # noqa: D102


def check_added(layout: Layout, run: RunInfo, info: ClassesInfo, index: HasImages) -> None:
    """Raise ArtifactError unless the index has the images that were added to classes; see `with_images_of`."""
    entries = {class_key(entry.name): entry for entry in info.added if entry.images is not None}
    if not entries or run.is_changing(layout.classes):  # while it changes, the store may be ahead of the file
        return
    images = index.images_added(entries.keys())
    for entry in entries.values():
        found = with_images_of(entry, images)
        if found.paths != entry.paths:
            raise ArtifactError(
                f"the index does not have the photos that were added to class {entry.name}",
                expected=plural(entry.images or 0, "photo"),
                got=f"{plural(found.images or 0, 'photo')}{', others' if found.images == entry.images else ''}",
                fix=f"bring index.sqlite and classes.json back from one backup; or: hybrid remove-class "
                f"{entry.name!r} --run {layout.root}, and hybrid add-class again",
            )


def entry_of(
    info: ClassesInfo,
    name: str,
    synonyms: Sequence[str],
    named: bool | None,
    seen: Sequence[str],
    labels: Sequence[str],
) -> AddedClass:
    """Give the entry of ``classes.json`` as it shall be.

    Parameters
    ----------
    info : ClassesInfo
    name, synonyms, named
        As for `hybrid.run.classes.add_class`.
    seen : sequence of str
        Classes of the head.
    labels : sequence of str
        Of the index; one that names this class says how it is spelled.

    Raises
    ------
    DataError
        If the head knows the class, or a name is blank, reserved, unprintable or another class's.
    """
    name = check_name(name, "the class")
    key = class_key(name)
    if NameTable(seen).find(name) is not None:
        raise DataError(
            f"the head was trained on {name}; more photos of it count only when it is trained again",
            fix=f"hybrid build-index with a class folder {name!r} of them, then hybrid train-head",
        )
    before = info.find(name) or AddedClass(name=name)
    spelled = next((label for label in sorted(labels) if class_key(label) == key), before.name)
    # By key, so that no synonym is there twice or repeats the name.
    given = [check_name(synonym, f"a synonym of {name}") for synonym in synonyms]
    others = {class_key(s): s for s in given or before.synonyms}
    others.pop(key, None)
    owners = {class_key(label): label for label in (*seen, *labels)}
    for entry in info.added:
        owners |= {class_key(s): entry.name for s in (*entry.synonyms, entry.name)}
    taken = sorted({owners[k] for k in (key, *others) if k in owners and class_key(owners[k]) != key})
    if taken:
        raise DataError(
            f"a name of {spelled} is also a name of another class",
            got=listing(taken),
            fix="leave that name out, or first: hybrid remove-class OTHER",
        )
    named = before.named if named is None else named
    return msgspec.structs.replace(before, name=spelled, synonyms=tuple(others.values()), named=named)
