"""Class folders and split folders: which label and which split the images of a folder get by its place in a tree."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from hybrid.errors import listing
from hybrid.images.naming import clean_label, is_unlabeled_folder, plural, split_of_folder

Place = tuple[str | None, str | None]
"""Label and split of the images that lie in one folder."""


@dataclass
class Reading:
    """How a tree of folders was understood.

    Attributes
    ----------
    places : dict of str to (label, split)
        By folder, relative to the root.
    notes : list of str
        What people should know of it.
    """

    places: dict[str, Place] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Top:
    """A first-level folder: how many images lie directly in it, and below each of its subfolders."""

    direct: int
    below: Mapping[str, int]

    @property
    def is_tree(self) -> bool:
        """Whether most of its images lie in subfolders."""
        return sum(self.below.values()) > self.direct


def read_places(root: str, counts: Mapping[str, int], split: str | None) -> Reading:
    """Read labels and splits from the names of folders.

    First-level folders are classes. They are splits where all of them are named like one, or where some are and the
    tree shows it: those hold class folders, and there are two splits or more, or the folders beside them are the same
    classes, or there is just one. Where the first level holds classes and all of the second is splits, those count.

    Parameters
    ----------
    root : str
        Absolute path, for the notes.
    counts : mapping of str to int
        Images that lie directly in each folder that has some, by the folder's path relative to the root (``""``: the
        root itself).
    split : str or None
        What the root's own name says.
    """
    reading, tops = Reading(), _tops(counts)
    if wrapper := _wrapper(counts, tops):
        inner = {folder[len(wrapper) + 1 :]: count for folder, count in counts.items()}
        reading = read_places(f"{root}{os.sep}{wrapper}", inner, None)
        reading.places = {f"{wrapper}{os.sep}{folder}": place for folder, place in reading.places.items()}
        return reading
    splits = {name: own for name in tops if (own := split_of_folder(name))}
    others = [name for name in tops if name not in splits and not is_unlabeled_folder(name)]
    if _are_splits(tops, splits, others):
        _read_splits(root, counts, tops, splits, reading)
    else:
        _read_classes(root, counts, tops, split, reading)
        if splits:
            held = listing([repr(name) for name in splits], 4)
            kind, split_kind = ("classes", "splits") if len(splits) > 1 else ("a class", "a split")
            reading.notes.append(
                f"{root}: {held} beside {plural(len(others), 'class folder')} read as {kind}, not as {split_kind}; "
                "a manifest (path,label,split) can say it otherwise"
            )
    return reading


def _wrapper(counts: Mapping[str, int], tops: Mapping[str, _Top]) -> str:
    """Give the only first-level folder, if it is one around split folders that hold class folders, else ``""``."""
    if len(tops) != 1 or counts.get(""):
        return ""
    ((name, top),) = tops.items()
    deep = any(folder.count(os.sep) > 1 for folder in counts)
    splits = [split_of_folder(second) for second in top.below]
    return name if deep and not top.direct and all(splits) and not split_of_folder(name) else ""


def _tops(counts: Mapping[str, int]) -> dict[str, _Top]:
    below: dict[str, dict[str, int]] = {}
    for folder, count in counts.items():
        if folder:
            first, _, rest = folder.partition(os.sep)
            second = rest.partition(os.sep)[0]
            own = below.setdefault(first, {})
            own[second] = own.get(second, 0) + count
    return {name: _Top(own.pop("", 0), own) for name, own in sorted(below.items())}


def _are_splits(tops: Mapping[str, _Top], splits: Mapping[str, str], others: Collection[str]) -> bool:
    """Whether the folders named like splits are splits, and no classes that happen to be called so."""
    if not splits or not others:
        return bool(splits)
    several = len(set(splits.values())) > 1
    if not all(tops[name].is_tree for name in splits):
        return several and len(others) == 1
    classes = _classes_in(tops, splits)
    return several or len(others) == 1 or any(_key(name) in classes for name in others)


def _classes_in(tops: Mapping[str, _Top], splits: Collection[str]) -> set[str]:
    return {_key(name) for split in splits for name in tops[split].below}


def _key(name: str) -> str:
    return (clean_label(name) or "").lower()


def _read_splits(
    root: str, counts: Mapping[str, int], tops: Mapping[str, _Top], splits: Mapping[str, str], reading: Reading
) -> None:
    classes = _classes_in(tops, splits)
    inner = {name: _inner(name, counts, splits[name]) for name in splits}
    beside: dict[str, int] = {}
    labeled: list[str] = []
    strays = dict.fromkeys(splits, 0)
    for folder, count in counts.items():
        first, _, rest = folder.partition(os.sep)
        if first in splits:
            label = _label(rest[len(inner[first]) :])
            reading.places[folder] = label, splits[first]
            strays[first] += count if rest == inner[first].rstrip(os.sep) else 0
        elif first and _key(first) in classes:
            reading.places[folder] = _label(first), None
            labeled.append(first)
        else:
            reading.places[folder] = None, None
            beside[first] = beside.get(first, 0) + count
    _note_splits(root, tops, splits, sorted(set(labeled)), reading)
    _note_beside(root, beside, reading)
    for name, stray in strays.items():
        if tops[name].below:
            _note_strays(os.path.join(root, name), stray, reading)  # noqa: PTH118


def _inner(name: str, counts: Mapping[str, int], split: str) -> str:
    """Give the path below a split folder at which its classes begin: archives hold ``seg_train/seg_train/CLASS``."""
    rests = {folder.partition(os.sep)[2] for folder in counts if folder.partition(os.sep)[0] == name}
    seconds = {rest.partition(os.sep)[0] for rest in rests}
    if len(seconds) == 1 and split_of_folder(second := seconds.pop()) == split:
        return second + os.sep
    return ""


def _label(folder: str) -> str | None:
    first = folder.partition(os.sep)[0]
    return None if is_unlabeled_folder(first) else clean_label(first)


def _read_classes(
    root: str, counts: Mapping[str, int], tops: Mapping[str, _Top], split: str | None, reading: Reading
) -> None:
    inside = _splits_inside(tops)
    for folder in counts:
        first, _, rest = folder.partition(os.sep)
        own = inside.get(rest.partition(os.sep)[0], split)
        reading.places[folder] = _label(first), own
    if inside:
        reading.notes.append(f"{root}: every class folder holds the split folders {listing(sorted(inside), 6)}")
    elif len(tops) == 1 and not counts.get("") and (top := next(iter(tops.values()))).is_tree and len(top.below) > 1:
        (name,) = tops
        if not (is_unlabeled_folder(name) or split_of_folder(name)):
            reading.notes.append(
                f"WARNING: {root} holds one folder, so all its photos are of the class {name!r}; if the "
                f"{len(top.below)} folders in it are the classes: hybrid build-index '{root}{os.sep}{name}'"
            )
    unlabeled = {name: top.direct + sum(top.below.values()) for name, top in tops.items() if is_unlabeled_folder(name)}
    _note_beside(root, unlabeled, reading)
    if tops.keys() - unlabeled:
        _note_strays(root, counts.get("", 0), reading)


def _splits_inside(tops: Mapping[str, _Top]) -> dict[str, str]:
    """The split folders in the class folders, by name; empty unless every image of a class lies in one."""
    classes = [top for name, top in tops.items() if not is_unlabeled_folder(name)]
    names = {name for top in classes for name in top.below}
    splits = {name: split for name in names if (split := split_of_folder(name))}
    whole = len(splits) == len(names) and not any(top.direct for top in classes)
    return splits if whole and len(set(splits.values())) > 1 else {}


def _note_splits(
    root: str, tops: Mapping[str, _Top], splits: Mapping[str, str], labeled: list[str], reading: Reading
) -> None:
    plain = all(name.lower() in ("train", "val", "valid", "validation", "test") for name in splits)
    if not plain or len(splits) < len(tops):
        named = listing([name if plain else f"{name} is {split}" for name, split in splits.items()], 6)
        reading.notes.append(f"{root}: read as split folders: {named}")
    if labeled:
        reading.notes.append(
            f"{root}: {listing(labeled, 6)} beside them: class folders, as in the split folders; without a split"
        )


def _note_beside(root: str, beside: dict[str, int], reading: Reading) -> None:
    """Say which folders give images without a label, and how to say it otherwise."""
    loose = beside.pop("", 0)
    if loose:
        reading.notes.append(f"{root}: {plural(loose, 'photo')} beside the split folders, taken without label")
    if beside:
        held = listing([f"{name} ({plural(count, 'photo')})" for name, count in sorted(beside.items())], 6)
        other = [name for name in sorted(beside) if not is_unlabeled_folder(name)]
        hint = (
            f"; to use its class folders, give it as a source of its own: '{root}{os.sep}{other[0]}'" if other else ""
        )
        reading.notes.append(f"{root}: taken without label: {held}{hint}")


def _note_strays(where: str, count: int, reading: Reading) -> None:
    if count:
        reading.notes.append(f"{where}: {plural(count, 'photo')} beside the class folders, taken without label")
