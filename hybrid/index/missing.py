"""Images of the index that its sources do not show now: gone for good, or only out of sight."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.errors import DataError, listing
from hybrid.images.boxes import parted
from hybrid.images.naming import plural
from hybrid.images.remote import is_remote
from hybrid.images.sources import MissingSourceError, Scan
from hybrid.index.store import EmbeddingStore, ImageRow, is_added

# A source that loses fewer images than this may lose most of them without a question.
_FEW = 3
_PRUNE = "hybrid build-index ... --prune (in Python: prune=True)"


@dataclass
class Missing:
    """What is to become of images that the sources of a scan do not show.

    Attributes
    ----------
    gone : list of str
        Paths to forget.
    kept : int
        Images that stay, because what they lie in could not be read or listed.
    unread : list of (path, reason)
        Sources and folders with images that stay, beside those that the scan names.
    hollow : dict of str to list of ImageRow
        Folders that were listed and have become empty, and the images that they held. They go, too, if they were
        moved: if their contents are there under other paths.
    orphans : dict of str to int
        Sources that were not scanned and do not exist any more, with how many images of theirs stay.
    """

    gone: list[str] = field(default_factory=list)
    kept: int = 0
    unread: list[tuple[str, str]] = field(default_factory=list)
    hollow: dict[str, list[ImageRow]] = field(default_factory=dict)
    orphans: dict[str, int] = field(default_factory=dict)


def find_missing(
    scan: Scan, known: Mapping[str, ImageRow], *, replace: bool, prune: bool, may_shrink: bool = False
) -> Missing:
    """Tell what was deleted from what cannot be seen, before anything is read or written.

    A file that is not in a folder that was listed is gone. Of what could not be listed, nothing is known, so its images
    stay. A source that has become empty, or has lost most of its images, is most likely a disk that is away.

    Parameters
    ----------
    scan : Scan
        Made with `keep_empty`.
    known : mapping of path to ImageRow
        All of the index.
    replace : bool
        Forget all images of other sources.
    prune : bool
        Forget images of folders and sources that have become empty or do not exist any more, too.
    may_shrink : bool
        Do not ask, where a source has lost most of its images.

    Raises
    ------
    DataError
        If a source has become empty or lost most of its images, and neither `prune` nor `may_shrink` is given; or it
        holds no image and never did.
    """
    present = {record.path for record in scan.records}
    named, totals = set(scan.sources), Counter[str]()
    absent: list[ImageRow] = []
    others: dict[str, list[ImageRow]] = {}
    for path, row in known.items():
        if is_added(row.source):
            continue
        if row.source not in named:
            others.setdefault(row.source, []).append(row)
            continue
        totals[row.source] += 1
        if path not in present:
            absent.append(row)
    missing = Missing()
    empty = _check_empty(scan, totals, missing, prune=prune)
    _sort_out(scan, absent, empty, missing, prune=prune)
    if not (prune or may_shrink):
        _check_loss(scan, known, totals, missing.gone)
    for source, rows in others.items():
        if replace:
            missing.gone += [row.path for row in rows]
        elif _is_absent(source) and (orphans := [row for row in rows if _is_absent(_file_of(row))]):
            if prune:
                missing.gone += [row.path for row in orphans]
            else:
                missing.orphans[source] = len(orphans)
    return missing


def settle_hollow(missing: Missing, store: EmbeddingStore, present: Collection[str]) -> None:
    """Of what emptied folders held, let go what is in the store under another path that was scanned."""
    if not missing.hollow:
        return
    hashes = {row.sha256 for rows in missing.hollow.values() for row in rows}
    moved = {image.sha256 for image in store.images_with(hashes) if image.record.path in present}
    for folder, rows in missing.hollow.items():
        missing.gone += [row.path for row in rows if row.sha256 in moved]
        if stay := sum(row.sha256 not in moved for row in rows):
            missing.kept += stay
            held = "its photo stays" if stay == 1 else f"its {stay} photos stay"
            missing.unread.append((folder, f"this folder is empty now; {held} in the index (--prune forgets them)"))


def _check_empty(scan: Scan, totals: Mapping[str, int], missing: Missing, *, prune: bool) -> set[str]:
    """Give the sources without an image whose images are to be forgotten; raise or name the others."""
    forgotten: set[str] = set()
    for place, error in scan.empty:
        count, is_missing = totals.get(place, 0), isinstance(error, MissingSourceError)
        if count and prune:
            forgotten.add(place)
        elif is_missing and scan.records:
            stay = f"; its {plural(count, 'photo')} stay in the index (--prune forgets them)" if count else ""
            missing.unread.append((place, f"does not exist{stay}"))
        elif count:
            what = "does not exist any more" if is_missing else "holds no photo any more"
            raise DataError(
                f"The source {place} {what}; the index has {plural(count, 'photo')} of it",
                expected="the photos that were there before",
                got="; ".join(scan.notes) or None,
                fix=f"mount or restore it; if its photos are to be forgotten: {_PRUNE}",
            )
        else:
            raise error
    return forgotten


def _sort_out(scan: Scan, absent: Iterable[ImageRow], empty: Collection[str], missing: Missing, *, prune: bool) -> None:
    """Part images that are gone from those that lie in places that could not be read or have become empty."""
    unread = {path for path, _ in (*scan.unread, *missing.unread)}
    hollow = set() if prune else set(scan.hollow)
    for row in absent:
        if row.source in empty:
            missing.gone.append(row.path)
        elif row.source in unread or _within(parted(row.path)[0], unread):
            missing.kept += 1
        elif folder := _within(row.path, hollow):
            missing.hollow.setdefault(folder, []).append(row)
        else:
            missing.gone.append(row.path)


def _within(path: str, places: Collection[str]) -> str | None:
    """Give the one of some places that a path is or lies below."""
    if not places:
        return None
    while path not in places:
        parent = os.path.dirname(path)  # noqa: PTH120
        if parent == path:
            return None
        path = parent
    return path


def _check_loss(scan: Scan, known: Mapping[str, ImageRow], totals: Mapping[str, int], gone: Iterable[str]) -> None:
    lost: dict[str, list[str]] = {}
    for path in gone:
        lost.setdefault(known[path].source, []).append(path)
    for source, paths in lost.items():
        if len(paths) < _FEW or 2 * len(paths) <= totals[source]:
            continue
        now = sum(record.source == source for record in scan.records)
        # Renamed folders and new names for all files are no loss.
        if 2 * now < totals[source]:
            raise DataError(
                f"The source {source} has lost most of its photos since the index was built",
                expected=f"most of {plural(totals[source], 'photo')}",
                got=f"{plural(now, 'photo')}; not there any more: {listing(sorted(paths), 3)}",
                fix=f"mount or restore what is missing; if the photos are meant to be gone: {_PRUNE}",
            )


def _file_of(row: ImageRow) -> str:
    return row.container or parted(row.path)[0]


def _is_absent(path: str) -> bool:
    """Whether nothing has this path; what may not be looked at may be there, and so may what lies at a URL."""
    if is_remote(path):
        return False
    try:
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False
