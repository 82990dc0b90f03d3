"""Folders as sources: class folders, a plain folder, split folders, and a folder of shards."""

# Paths stay str from scandir to record: a Path for each of a million images is slow.
# ruff: noqa: PTH116, PTH118, PTH119

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from hybrid.errors import DataError
from hybrid.images.naming import Found, clean_label, count_endings, is_image_name, is_text, plural, split_of
from hybrid.images.records import ImageRecord
from hybrid.images.shards import read_shard


@dataclass(frozen=True, slots=True)
class _File:
    """One image file below a folder: its path relative to that folder, its size and time."""

    relative: str
    size: int
    mtime_ns: int


@dataclass
class _Walk:
    """What lies below a folder."""

    images: list[_File] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_folder(root: str, *, labeled: bool) -> Found:
    """Read a folder of images, or of shards; the records come in no particular order.

    Parameters
    ----------
    root : str
        Absolute path of the folder.
    labeled : bool
        Whether first-level subfolders are class names (or split names); False: images without labels.

    Raises
    ------
    DataError
        If the folder cannot be read, or a shard in it is broken.
    """
    walk = _walk(root)
    shards = [name for name in walk.others if os.sep not in name and name.endswith(".tar")]
    if shards and not walk.images:
        return _read_shards(root, shards, walk, labeled=labeled)
    if walk.others:
        what = f"{plural(len(walk.others), 'file')} with other endings left out"
        walk.notes.append(f"{root}: {what}: {count_endings(walk.others)}")
    split = split_of(os.path.basename(root))
    if not labeled:
        return [_record(root, file, None, split) for file in walk.images], walk.notes
    return _read_labeled(root, walk, split)


def _read_labeled(root: str, walk: _Walk, split: str | None) -> Found:
    """Read labels, and splits where every subfolder is named like one, from the first-level subfolders."""
    by_folder: defaultdict[str, list[_File]] = defaultdict(list)
    for file in walk.images:
        first, separator, _ = file.relative.partition(os.sep)
        by_folder[first if separator else ""].append(file)
    beside = by_folder.pop("", [])
    if not (by_folder and all(split_of(name) for name in by_folder)):
        return _class_tree(root, "", walk.images, split, walk.notes), walk.notes
    records = _class_tree(root, "", beside, split, walk.notes)
    if beside:
        walk.notes.append(f"{root}: {plural(len(beside), 'photo')} beside the split folders, taken without label")
    for name, files in by_folder.items():
        records += _class_tree(root, name + os.sep, files, split_of(name), walk.notes)
    return records, walk.notes


def _class_tree(
    root: str, prefix: str, files: Iterable[_File], split: str | None, notes: list[str]
) -> list[ImageRecord]:
    """Make records of the files below ``root/prefix``: the subfolder there is the label."""
    records, unlabeled = [], 0
    for file in files:
        first, separator, _ = file.relative[len(prefix) :].partition(os.sep)
        label = clean_label(first) if separator else None
        unlabeled += not separator
        records.append(_record(root, file, label, split))
    if 0 < unlabeled < len(records):
        where = os.path.join(root, prefix).rstrip(os.sep)
        notes.append(f"{where}: {plural(unlabeled, 'photo')} beside the class folders, taken without label")
    return records


def _record(root: str, file: _File, label: str | None, split: str | None) -> ImageRecord:
    return ImageRecord(os.path.join(root, file.relative), root, label, split, file.size, file.mtime_ns)


def _read_shards(root: str, shards: list[str], walk: _Walk, *, labeled: bool) -> Found:
    """Read a folder that holds tar files and no images; its own name gives the split the shards do not."""
    records, split = [], split_of(os.path.basename(root))
    others = [name for name in walk.others if name not in set(shards)]
    if others:
        what = f"{plural(len(others), 'file')} beside the shards left out"
        walk.notes.append(f"{root}: {what}: {count_endings(others)}")
    for name in sorted(shards):
        images, notes = read_shard(os.path.join(root, name), root, labeled=labeled, split=split)
        records += images
        walk.notes += notes
    return records, walk.notes


def _walk(root: str) -> _Walk:
    """List every file below a folder, each real folder once.

    Links to folders are followed after all real folders have been read, and only to folders not yet read:
    a loop of links ends, and an image keeps the name (and so the label) of its real place.
    """
    walk = _Walk()
    seen: set[tuple[int, int]] = set()
    pending, links = [""], list[str]()
    while pending or links:
        relative = pending.pop() if pending else links.pop(0)
        path = os.path.join(root, relative) if relative else root
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                walk.notes.append(f"{path}: a link to a folder that was read already, left out")
                continue
            seen.add((status.st_dev, status.st_ino))
            folders, folder_links = _list_folder(path, relative, walk)
        except OSError as error:
            if not relative:
                raise DataError(
                    f"The folder {root} cannot be read: {error.strerror}", fix="check its permissions"
                ) from error
            walk.notes.append(f"{path}: this folder cannot be read and is left out: {error.strerror}")
            continue
        # Reversed, because the last one pending is read first: folders are read in the order of their names.
        pending += sorted(folders, reverse=True)
        links += sorted(folder_links)
    return walk


def _list_folder(path: str, relative: str, walk: _Walk) -> tuple[list[str], list[str]]:
    """Add one folder's files to `walk`; give its subfolders and its links to folders."""
    folders: list[str] = []
    links: list[str] = []
    not_text = 0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = os.path.join(relative, entry.name)
            if not is_text(entry.name):
                not_text += 1
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(name)
            elif is_image_name(entry.name):
                _add_image(entry, name, walk)
            else:
                walk.others.append(name)
    if not_text:
        walk.notes.append(f"{path}: {plural(not_text, 'name')} in it not valid UTF-8, left out; rename to use")
    return folders, links


def _add_image(entry: os.DirEntry[str], name: str, walk: _Walk) -> None:
    try:
        status = entry.stat()
    except OSError:
        # A link to nowhere, or a file just removed: kept, so that it is later reported as unreadable.
        walk.images.append(_File(name, 0, 0))
        return
    # A pipe or a device named like an image would block the reader for ever.
    if entry.is_file():
        walk.images.append(_File(name, status.st_size, status.st_mtime_ns))
