"""Folders as sources: class folders, a plain folder, split folders, and a folder of shards."""

# Paths stay str from scandir to record: a Path for each of a million images is slow.
# ruff: noqa: PTH116, PTH118, PTH119, PTH120

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from hybrid.errors import DataError, listing
from hybrid.images import remote
from hybrid.images.class_folders import Place, read_places
from hybrid.images.manifests import read_tables
from hybrid.images.naming import (
    Found,
    ending,
    is_image_name,
    is_junk,
    is_text,
    name_endings,
    plural,
    split_of_folder,
)
from hybrid.images.records import ImageRecord, Stamp, not_a_file
from hybrid.images.shards import read_shards
from hybrid.images.spool import File, Files, Spool


@dataclass
class _Walk:
    """What lies below a folder; all paths are relative to it with `os.sep` between, but for `unread`.

    Attributes
    ----------
    images : Files
        By folder; also of folders that hold none.
    shards, tables : list of str
        Tar and Parquet files.
    others : Counter of str
        Files that are neither, by their ending.
    junk : list of str
        Names of hidden folders and of those that a system keeps for itself.
    hidden : int
        Hidden images.
    """

    images: Files = field(default_factory=Files)
    shards: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    junk: list[str] = field(default_factory=list)
    hidden: int = 0
    notes: list[str] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)

    def leave(self, name: str) -> None:
        """Keep in mind a file that is not an image."""
        if name.endswith(".tar"):
            self.shards.append(name)
        elif name.endswith(".parquet"):
            self.tables.append(name)
        else:
            self.others[ending(name)] += 1


def read_folder(root: str, *, labeled: bool, spool: Spool | None = None) -> Found:
    """Read a folder of images, or else of shards, or of tables that hold images; the records come in no order.

    Parameters
    ----------
    root : str
        Absolute path, or URL, of the folder.
    labeled : bool
        Whether first-level subfolders are class names (or split names); False: images without labels.
    spool : Spool, optional
        Where the listing is kept; the images are `Found.later` then.

    Raises
    ------
    DataError
        If the folder cannot be listed.
    """
    walk = _Walk() if spool is None else _Walk(spool.files())
    (_walk_remote if remote.is_remote(root) else _walk)(root, walk)
    if walk.junk or walk.hidden:
        walk.notes.append(f"{root}: left out, hidden or kept by the system: {_name_junk(walk)}")
    folders = walk.images.counts()
    counts = {folder: count for folder, count in folders.items() if count}
    if walk.shards and not counts:
        return _read_shards(root, walk, labeled=labeled)
    if walk.tables and not counts:
        return _read_tables(root, walk, labeled=labeled, lazy=spool is not None)
    if others := walk.others + Counter(tar=len(walk.shards), parquet=len(walk.tables)):
        what = f"{plural(others.total(), 'file')} with other endings left out"
        walk.notes.append(f"{root}: {what}: {name_endings(others)}")
    split = split_of_folder(os.path.basename(root))
    places: dict[str, Place] = {}
    # Of what could not be read nobody knows whether it holds images.
    hollow = _hollow(folders, [*counts, *(os.path.relpath(path, root) for path, _ in walk.unread)])
    if labeled and counts:
        reading = read_places(root, counts, split)
        places = reading.places
        walk.notes += reading.notes
        if empty := _without_image(hollow, counts):
            walk.notes.append(f"WARNING: {root}: no photo in the folder{'s' * (len(empty) > 1)} {listing(empty, 10)}")
    records = (
        ImageRecord(path + name, root, label, own_split, size, mtime_ns, None, 0, ctime_ns, inode)
        for folder, files in walk.images
        for path, (label, own_split) in [(_inside(root, folder, ""), places.get(folder, (None, split)))]
        for name, (size, mtime_ns, ctime_ns, inode) in files
    )
    found = Found([], walk.notes, walk.unread, [_inside(root, folder) for folder in hollow])
    if spool is None:
        found.records = list(records)
    elif counts:
        found.later = records
    return found


def _inside(root: str, *names: str) -> str:
    path = os.path.join(root, *names)
    return path.replace(os.sep, "/") if remote.is_remote(root) else path


def _hollow(folders: Collection[str], counts: Collection[str]) -> list[str]:
    """Folders without an image in them or below them, but for those that lie in one of these."""
    filled = {""}
    for folder in counts:
        while folder not in filled:
            filled.add(folder)
            folder = os.path.dirname(folder)
    return sorted(folder for folder in folders if folder not in filled and os.path.dirname(folder) in filled)


def _without_image(hollow: Collection[str], counts: Collection[str]) -> list[str]:
    """Those that stand where others are class folders (or split folders), so that an empty class is seen at once."""
    depths = {folder.count(os.sep) for folder in counts if folder}
    return [folder for folder in hollow if folder.count(os.sep) <= min(depths, default=0)]


def _name_junk(walk: _Walk) -> str:
    names = [name if count == 1 else f"{name} ({count} times)" for name, count in sorted(Counter(walk.junk).items())]
    return listing([*names, *([plural(walk.hidden, "hidden photo")] if walk.hidden else [])], 8)


def _read_shards(root: str, walk: _Walk, *, labeled: bool) -> Found:
    """Read a folder that holds tar files and no images; folders' names give the splits that the shards' do not."""
    found = Found(notes=walk.notes, unread=walk.unread)
    if others := walk.others + Counter(parquet=len(walk.tables)):
        what = f"{plural(others.total(), 'file')} beside the shards left out"
        found.notes.append(f"{root}: {what}: {name_endings(others)}")
    own = split_of_folder(os.path.basename(root))
    by_path = {_inside(root, name): split_of_folder(os.path.dirname(name)) or own for name in sorted(walk.shards)}
    found.add(read_shards(by_path, root, labeled=labeled))
    return found


def _read_tables(root: str, walk: _Walk, *, labeled: bool, lazy: bool) -> Found:
    """Read a folder that holds Parquet files and no images."""
    found = read_tables([_inside(root, name) for name in sorted(walk.tables)], root, labeled=labeled, lazy=lazy)
    if walk.others:
        what = f"{plural(walk.others.total(), 'file')} beside the tables left out"
        found.notes.append(f"{root}: {what}: {name_endings(walk.others)}")
    found.notes[:0] = walk.notes
    found.unread += walk.unread
    return found


def _walk_remote(root: str, walk: _Walk) -> None:
    """List every object below a URL; a store has no empty folders, and no links."""
    walk.images.of("")
    junk = set[str]()
    for path, stamp in remote.find(root):
        *folders, name = path.split("/")
        if hidden := next((depth for depth, folder in enumerate(folders, 1) if is_junk(folder)), 0):
            junk.add("/".join(folders[:hidden]))
        elif is_junk(name):
            walk.hidden += is_image_name(name)
        elif is_image_name(name):
            walk.images.of(os.sep.join(folders)).append(File(name, stamp))
        else:
            walk.leave(os.sep.join((*folders, name)))
    walk.junk = [folder.rpartition("/")[2] for folder in junk]


def _walk(root: str, walk: _Walk) -> None:
    """List every file below a folder, each real folder once.

    Links to folders are followed after all real folders have been read, and only to folders not yet read:
    a loop of links ends, and an image keeps the name (and so the label) of its real place.
    """
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
            walk.unread.append((path, f"this folder cannot be read: {error.strerror}"))
            continue
        # Reversed, because the last one pending is read first: folders are read in the order of their names.
        pending += sorted(folders, reverse=True)
        links += sorted(folder_links)


def _list_folder(path: str, relative: str, walk: _Walk) -> tuple[list[str], list[str]]:
    """Add one folder's files to `walk`; give its subfolders and its links to folders."""
    folders: list[str] = []
    links: list[str] = []
    not_text = 0
    with os.scandir(path) as entries:
        images = walk.images.of(relative)
        for entry in entries:
            name = entry.name
            try:
                if not is_text(name):
                    not_text += 1
                elif is_junk(name):
                    _add_junk(entry, walk)
                elif entry.is_dir():
                    (links if entry.is_symlink() else folders).append(os.path.join(relative, name))
                elif is_image_name(name):
                    _add_image(entry, images, walk)
                else:
                    _add_other(entry, os.path.join(relative, name), walk)
            except OSError as error:  # a loop of links, or a disk that fails: the entries beside it are as they are
                lost = isinstance(error, FileNotFoundError) and entry.is_symlink()
                walk.unread.append((entry.path, "a link to nothing" if lost else error.strerror or str(error)))
    if not_text:
        walk.notes.append(f"{path}: {plural(not_text, 'name')} in it not valid UTF-8, left out; rename to use")
    return folders, links


def _add_junk(entry: os.DirEntry[str], walk: _Walk) -> None:
    if entry.is_dir(follow_symlinks=False):
        walk.junk.append(entry.name)
    else:
        walk.hidden += is_image_name(entry.name)


def _add_image(entry: os.DirEntry[str], images: list[File], walk: _Walk) -> None:
    status = entry.stat()
    # A pipe or a device named like an image would block the reader for ever.
    if stat.S_ISREG(status.st_mode):
        images.append(File(entry.name, Stamp.of(status)))
    else:
        walk.unread.append((entry.path, not_a_file(status.st_mode)))


def _add_other(entry: os.DirEntry[str], name: str, walk: _Walk) -> None:
    if entry.is_symlink():
        entry.stat()  # of a link to nowhere nobody knows whether it led to a folder of images: an error
    walk.leave(name)
