"""``classes.json``: what a person said of classes, and the names that a class may have."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from msgspec import Struct

from hybrid.errors import DataError, listing
from hybrid.images.naming import clean_label
from hybrid.labels.prompts import PromptClass, class_key
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

    @property
    def prompt(self) -> PromptClass:
        """What the class is called in a prompt."""
        return PromptClass(self.name, self.synonyms)


class ClassesInfo(Struct, frozen=True, kw_only=True):
    """``classes.json``: the classes that a person added; their images lie in the store."""

    format: int = FORMAT
    added: tuple[AddedClass, ...] = ()

    def find(self, name: str) -> AddedClass | None:
        """The entry of this `class_key`."""
        return next((entry for entry in self.added if class_key(entry.name) == class_key(name)), None)

    def with_entry(self, entry: AddedClass) -> ClassesInfo:
        """The entry in the place of the one before, else at the end."""
        if self.find(entry.name) is None:
            return ClassesInfo(added=(*self.added, entry))
        key = class_key(entry.name)
        return ClassesInfo(added=tuple(entry if class_key(e.name) == key else e for e in self.added))

    def without(self, name: str) -> ClassesInfo:
        """All entries but that of this `class_key`."""
        return ClassesInfo(added=tuple(e for e in self.added if class_key(e.name) != class_key(name)))


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
        Of the index; one of the same `class_key` says how the class is spelled.

    Raises
    ------
    DataError
        If the head knows the class, or a name is blank, unprintable or another class's.
    """
    name, key = _clean(name), class_key(name)
    if key in {class_key(label) for label in seen}:
        raise DataError(
            f"the head was trained on {name}; more photos of it count only when it is trained again",
            fix=f"hybrid build-index with a class folder {name!r} of them, then hybrid train-head",
        )
    before = info.find(name) or AddedClass(name=name)
    spelled = next((label for label in sorted(labels) if class_key(label) == key), before.name)
    # By key, so that no synonym is there twice or repeats the name.
    others = {class_key(s): s for s in map(_clean, synonyms)} or {class_key(s): s for s in before.synonyms}
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
    return AddedClass(name=spelled, synonyms=tuple(others.values()), named=before.named if named is None else named)


def _clean(name: str) -> str:
    """A name as it is kept; DataError where it is blank or not one line of text."""
    clean = clean_label(name) or ""
    if not class_key(clean):
        raise DataError("the class has no name", expected="a name such as: zebra", got=repr(name))
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in clean):
        raise DataError("a class name is one line of text", got=f"{clean!a}, with control characters")
    return clean
