"""Sources of images: `scan` turns what a user points at into records, without opening an image."""

# Paths stay str from scandir to record: a Path for each of a million images is slow.
# ruff: noqa: PTH100, PTH110, PTH112

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid.errors import DataError
from hybrid.images.folders import read_folder
from hybrid.images.manifests import read_manifest
from hybrid.images.naming import IMAGE_ENDINGS_TEXT, Found, ending, is_image_name, is_text, plural
from hybrid.images.records import ImageRecord
from hybrid.images.shards import expand_shards, is_shard_pattern, read_shard, refuse_compressed

_KINDS = (
    f"an image ({IMAGE_ENDINGS_TEXT}), a folder of images or of class folders, a manifest (.csv, .parquet) "
    "or WebDataset shards (.tar)"
)


@dataclass(frozen=True)
class Scan:
    """The images that a list of sources holds.

    Attributes
    ----------
    records : tuple of ImageRecord
        Each image once, by source in the order given, then by path.
    notes : tuple of str
        What was left out, and what looks odd, for people to read.
    sources : tuple of str
        The sources as absolute paths (a pattern of shards as an absolute pattern), each once; every record's
        `source` is one of them.
    """

    records: tuple[ImageRecord, ...]
    notes: tuple[str, ...]
    sources: tuple[str, ...]


def scan(sources: Sequence[str | Path], *, labeled: bool = True) -> Scan:
    """List the images in sources, without opening them.

    Parameters
    ----------
    sources : sequence of str or Path
        Each one an image, a folder (class folders, a plain folder, split folders, or shards), a manifest
        (``.csv``, ``.parquet``), or WebDataset shards (``.tar``; braces and wildcards are expanded).
    labeled : bool
        False takes every image without label and subfolders as mere places.

    Returns
    -------
    Scan
        Records, notes and the sources' absolute paths. An image in several sources belongs to the first.

    Raises
    ------
    DataError
        If there is no source, or a source is missing, of an unknown kind, broken, or without an image.
    MissingExtraError
        If a Parquet manifest is read without pyarrow.
    """
    places = tuple(dict.fromkeys(os.path.abspath(source) for source in sources))
    if not places:
        raise DataError("No source of photos was given", expected=_KINDS)
    notes: list[str] = []
    by_path: dict[str, ImageRecord] = {}
    for place in places:
        records, notes_of_source = _read_source(place, labeled=labeled)
        notes += notes_of_source
        if not records:
            raise DataError(
                f"No photo was found in {place}",
                expected=f"files ending in {IMAGE_ENDINGS_TEXT}",
                got="; ".join(notes_of_source) or "none",
                fix="point at the folder that holds the photos; convert other formats to JPEG or PNG",
            )
        _add(records, by_path, place, notes)
    return Scan(tuple(by_path.values()), tuple(notes), places)


def _read_source(place: str, *, labeled: bool) -> Found:
    if os.path.isdir(place):
        return read_folder(place, labeled=labeled)
    refuse_compressed(place)
    if not os.path.exists(place):
        if is_shard_pattern(place):
            return _read_pattern(place, labeled=labeled)
        raise DataError(f"{place} does not exist", expected=_KINDS, fix="check the path")
    if ending(place) in ("csv", "parquet"):
        return read_manifest(place, labeled=labeled)
    if ending(place) == "tar":
        return read_shard(place, place, labeled=labeled)
    if is_image_name(place) and is_text(place):
        status = Path(place).stat()
        return [ImageRecord(place, place, None, None, status.st_size, status.st_mtime_ns)], []
    raise DataError(
        f"{place!r} is not a source of photos" if is_text(place) else f"The name {place!a} is not valid UTF-8",
        expected=_KINDS,
        got=f"a file ending in .{ending(place)}" if ending(place) else "a file without ending",
        fix="point at the photos, their folder or a manifest; rename the file if its ending is wrong",
    )


def _read_pattern(pattern: str, *, labeled: bool) -> Found:
    parts = [read_shard(shard, pattern, labeled=labeled) for shard in expand_shards(pattern)]
    return [record for records, _ in parts for record in records], [note for _, notes in parts for note in notes]


def _add(records: list[ImageRecord], by_path: dict[str, ImageRecord], place: str, notes: list[str]) -> None:
    """Add a source's records in the order of their paths; an image that is known already stays as it is."""
    repeated: list[ImageRecord] = []
    # The sort is stable: of one image listed twice in a manifest, the first row counts.
    for record in sorted(records, key=lambda record: record.path):
        if by_path.setdefault(record.path, record) is not record:
            repeated.append(record)
    if not repeated:
        return
    note = f"{place}: {plural(len(repeated), 'photo')} listed before, the first listing counts"
    differing = [record for record in repeated if record.label != by_path[record.path].label]
    if differing:
        path, label = differing[0].path, differing[0].label
        labels = f"{by_path[path].label!r}, not {label!r}"
        note += f"; {len(differing)} with another label (e.g. {path} stays {labels})"
    notes.append(note)
