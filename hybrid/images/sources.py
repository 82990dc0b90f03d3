"""Sources of images: `scan` turns what a user points at into records, without opening an image."""

# Paths stay str from scandir to record: a Path for each of a million images is slow.
# ruff: noqa: PTH100, PTH111, PTH112, PTH207

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from hybrid.errors import DataError, UnreadableImageError
from hybrid.garbage import collected_seldom
from hybrid.images import parquet, remote
from hybrid.images.boxes import parted
from hybrid.images.folders import read_folder
from hybrid.images.hub_datasets import read_converted
from hybrid.images.manifests import MANIFEST_ENDINGS, WithoutImagesError, read_manifest, read_part, read_tables
from hybrid.images.naming import (
    IMAGE_ENDINGS_TEXT,
    Found,
    count_endings,
    ending,
    is_image_name,
    is_junk,
    is_text,
    plural,
)
from hybrid.images.records import ImageRecord, Stamp, not_a_file
from hybrid.images.shards import expand_braces, expand_shards, is_shard_pattern, read_shards, refuse_compressed
from hybrid.images.spool import Spool

_KINDS = (
    f"an image ({IMAGE_ENDINGS_TEXT}), a folder of images or of class folders, a manifest (.csv, .tsv, .parquet), "
    "a Parquet table of photos, or WebDataset shards (.tar)"
)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]+)://|(data|pipe):")
_PAGE_OF_THE_HUB = re.compile(r"https?://huggingface\.co/datasets/([^/?#]+/[^/?#]+)")
# A URL that went through pathlib.
_WITHOUT_SLASH = re.compile(r"(s3|gs|gcs|https?|hf|memory):/[^/]")


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
        The sources as absolute paths or URLs (a pattern as such a pattern), each once; every record's `source` is one
        of them.
    unread : tuple of (path, reason)
        Sources, and files, folders and shards in them, that could not be read: of what lies there, nothing is known.
    hollow : tuple of str
        Absolute paths of folders in the sources that were listed and hold no image.
    empty : tuple of (source, error)
        Sources that were read and hold no image, or do not exist, and the error that says so; see `scan`.
    """

    records: tuple[ImageRecord, ...]
    notes: tuple[str, ...]
    sources: tuple[str, ...]
    unread: tuple[tuple[str, str], ...] = ()
    hollow: tuple[str, ...] = ()
    empty: tuple[tuple[str, DataError], ...] = ()

    def without_empty(self) -> Scan:
        """Name sources that are missing in `unread`, if others hold images; raise the error of any other in `empty`."""
        for _, error in self.empty:
            if not (self.records and isinstance(error, MissingSourceError)):
                raise error
        missing = tuple((place, "does not exist") for place, _ in self.empty)
        return replace(self, unread=(*self.unread, *missing), empty=())


class MissingSourceError(DataError):
    """A source does not exist."""


class _EmptyError(DataError):
    """A source holds no image."""


@collected_seldom()
def scan(
    sources: Sequence[str | Path], *, labeled: bool = True, each_row: bool = False, keep_empty: bool = False
) -> Scan:
    """List the images in sources, without opening them.

    Parameters
    ----------
    sources : sequence of str or Path
        Each one an image, a folder (class folders, a plain folder, split folders, or shards), a manifest
        (``.csv``, ``.tsv``, ``.parquet``), a table that holds images (``.parquet``), or WebDataset shards (``.tar``);
        also as a pattern with braces and wildcards, with ``~``, or as a URL (``file://``, ``s3://``, ``gs://``,
        ``https://``, ``hf://`` and others).
    labeled : bool
        False takes every image without label and subfolders as mere places.
    each_row : bool
        Keep an image as often as it is named, and a manifest's rows in their order, so that each gets its answer.
    keep_empty : bool
        Give sources without an image in `Scan.empty`, for who knows what they held before; else they are an error.

    Returns
    -------
    Scan
        Records, notes and the sources' absolute paths. An image in several sources belongs to the first.

    Raises
    ------
    DataError
        If there is no source; or a source is of an unknown kind, missing or broken, unless another one gives images:
        then it is named in `unread`; or without an image.
    MissingExtraError
        If Parquet is read without pyarrow, or a URL without the package for its kind.
    """
    addresses = _addresses(sources)
    places = tuple(addresses)
    named = [remote.name_of(_absolute(os.fspath(source))) for source in sources] if each_row else places
    reading = _Reading(addresses, labeled=labeled)
    by_path: dict[str, ImageRecord] = {}
    for place, found in reading.each(named):
        if not each_row:
            found.records = _new(found.records, by_path, place, found.notes)
        elif ending(remote.file_name(place)) not in MANIFEST_ENDINGS:
            found.records.sort(key=attrgetter("path"))
    total = reading.total
    unread = reading.unread(some=bool(total.records))
    empty = tuple(reading.empty)
    result = Scan(tuple(total.records), tuple(total.notes), places, unread, tuple(total.hollow), empty)
    return result if keep_empty else result.without_empty()


@dataclass(frozen=True)
class Listing:
    """What `scan` gives, with the images on disk; see `Scan` for the others."""

    records: Spool
    notes: tuple[str, ...]
    sources: tuple[str, ...]
    unread: tuple[tuple[str, str], ...]


def scan_to_disk(sources: Sequence[str | Path], *, labeled: bool = True) -> Listing:
    """List as many images as the disk has room for; parameters, order, notes and errors as for `scan`.

    Manifests, and folders on disk and on S3, are read piece by piece. Patterns and shards are in memory while they are
    read, each for itself. A photo whose address holds credentials is an error, because they are not written anywhere.
    """
    addresses = _addresses(sources)
    spool = Spool()
    reading = _Reading(addresses, labeled=labeled, spool=spool)
    for place, found in reading.each(addresses):
        note = spool.add(place, _bare(found.records if found.later is None else found.later))
        found.records, found.notes = [], [*found.notes, *([note] if note else [])]
    notes, unread = tuple(reading.total.notes), reading.unread(some=bool(spool))
    if not spool:
        Scan((), notes, tuple(addresses), unread, (), tuple(reading.empty)).without_empty()
    missing = tuple((place, "does not exist") for place, _ in reading.empty)
    return Listing(spool, notes, tuple(addresses), (*unread, *missing))


class _Reading:
    """Sources that are read one after the other, and what came of them together.

    Attributes
    ----------
    total : Found
    empty : list of (source, error)
        See `Scan`.
    """

    def __init__(self, addresses: Mapping[str, str], *, labeled: bool, spool: Spool | None = None) -> None:
        self._addresses, self._labeled, self._spool = addresses, labeled, spool
        self.total, self.empty = Found(), list[tuple[str, DataError]]()
        self._errors: list[DataError] = []

    def each(self, places: Iterable[str]) -> Iterator[tuple[str, Found]]:
        """Read sources; what the caller changes in what was found counts."""
        for place in places:
            try:
                found = _read_source(place, self._addresses[place], labeled=self._labeled, spool=self._spool)
            except (_EmptyError, MissingSourceError) as error:
                self.empty.append((place, error))
            except DataError as error:
                self._errors.append(error)
                reason = f"{error.what} ({error.got[:300]})" if error.got else error.what
                self.total.unread.append((place, reason))
            else:
                yield place, found
                self.total.add(found)

    def unread(self, *, some: bool) -> tuple[tuple[str, str], ...]:
        """What could not be read, if others gave `some` images; else the first error is raised."""
        if self._errors and not some:
            raise self._errors[0]
        return tuple(dict.fromkeys(self.total.unread))


def _bare(records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    for record in records:
        if isinstance(record, remote.SignedRecord):
            raise DataError(
                "the address of a photo holds credentials, which a plan does not keep",
                got=record.path,
                fix="give them to the machines that embed: ~/.netrc, or what the store reads from the environment",
            )
        yield record


def _addresses(sources: Sequence[str | Path]) -> dict[str, str]:
    """Each source once, by the name that it is kept under."""
    absolute = [_absolute(os.fspath(source)) for source in sources]
    if not absolute:
        raise DataError(
            "No source of photos was given", expected=_KINDS, fix="name one: a folder of class folders, for instance"
        )
    return {remote.name_of(address): address for address in absolute}


def _absolute(source: str) -> str:
    """Give a source as an absolute path, or as a URL."""
    url = _URL.match(source)
    if url and url[0].lower() == "file://":
        parts = urlsplit(source)
        if parts.netloc not in ("", "localhost"):
            raise DataError(
                f"{source} names another machine", expected="file:///PATH", fix="mount it, and give the path"
            )
        return os.path.abspath(unquote(parts.path))
    if url and url[1] is None:
        raise DataError(
            f"{url[0]} is not read", expected="a file, or a URL such as s3://", fix="save the photo as a file first"
        )
    if url:
        return remote.normal(source)
    if _WITHOUT_SLASH.match(source) and not os.path.lexists(source):
        raise DataError(
            f"{source} is a URL that lost a slash, as in a Path of Python", expected="//", fix="give it as a str"
        )
    # A file that is really called ~ comes first, as anything that exists does.
    return os.path.abspath(source if os.path.lexists(source) else os.path.expanduser(source))


def _read_source(place: str, address: str, *, labeled: bool, spool: Spool | None = None) -> Found:
    """Read one source; the address is the place with its credentials.

    Raises
    ------
    DataError
        If it cannot be read, does not exist (`MissingSourceError`), or holds no image (`_EmptyError`).
    """
    found = (
        _read_url(place, address, labeled=labeled, spool=spool)
        if remote.is_remote(place)
        else _read_place(place, labeled=labeled, spool=spool)
    )
    if not found.records and found.later is None:
        reasons = [f"{path}: {reason}" for path, reason in found.unread]
        kind = DataError if reasons else _EmptyError
        raise kind(
            f"No photo was found in {place}",
            expected=f"files ending in {IMAGE_ENDINGS_TEXT}",
            got="; ".join([*reasons[:5], *found.notes]) or "none",
            fix="point at the folder that holds the photos; convert other formats to JPEG or PNG",
        )
    return found


def _read_place(place: str, *, labeled: bool, spool: Spool | None = None) -> Found:
    if remote.is_remote(place):
        return _read_url(place, place, labeled=labeled)
    try:
        status = os.stat(place)  # noqa: PTH116
    except FileNotFoundError as error:
        return _read_absent(place, error, labeled=labeled)
    except (OSError, ValueError) as error:
        if (part := parquet.parted(place)) and Path(part.table).is_file():
            return read_part(part, place, labeled=labeled)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{place!r} cannot be read: {reason}", fix="check the path and its permissions") from error
    if stat.S_ISDIR(status.st_mode):
        return read_folder(place, labeled=labeled, spool=spool)
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{place} is {not_a_file(status.st_mode)}", expected=_KINDS, fix="save it as a file first")
    refuse_compressed(place)
    if ending(place) in MANIFEST_ENDINGS:
        return read_manifest(place, labeled=labeled, lazy=spool is not None)
    if ending(place) == "tar":
        return read_shards({place: None}, place, labeled=labeled)
    if is_image_name(place) and is_text(place):
        return Found([ImageRecord(place, place, None, None, **Stamp.of(status)._asdict())])
    raise DataError(
        f"{place!r} is not a source of photos" if is_text(place) else f"The name {place!a} is not valid UTF-8",
        expected=_KINDS,
        got=f"a file ending in .{ending(place)}" if ending(place) else "a file without ending",
        fix="point at the photos, their folder or a manifest; rename the file if its ending is wrong",
    )


def _read_url(place: str, address: str, *, labeled: bool, spool: Spool | None = None) -> Found:
    """Read what lies at a URL, or what the URL matches as a pattern."""
    whole = parted(address)[0]
    file = remote.file_name(parted(place)[0])
    try:
        remote.refresh(whole)
        entry = remote.entry(whole)
        if entry.is_folder:
            found = read_folder(place, labeled=labeled, spool=spool)
            is_empty = not found.records and found.later is None
            return read_converted(place, found, labeled=labeled, lazy=spool is not None) if is_empty else found
        refuse_compressed(file)
        if ending(file) in MANIFEST_ENDINGS:
            return read_manifest(place, labeled=labeled, address=address, lazy=spool is not None)
        if ending(file) == "tar":
            return read_shards({place: None}, place, labeled=labeled, address=address)
        if is_image_name(file) or entry.kind.startswith("image/"):
            own = ImageRecord(place, place, None, None, **entry.stamp._asdict())
            return Found([remote.with_address(own, address)])
        if not is_shard_pattern(place) and "*" in place:
            return _read_pattern(place, labeled=labeled)
    except remote.AbsentError as error:
        if part := parquet.parted(place):
            return read_part(part, place, labeled=labeled)
        if is_shard_pattern(place):
            return read_shards(dict.fromkeys(expand_shards(place)), place, labeled=labeled)
        if "*" in place or "{" in place:
            return _read_pattern(place, labeled=labeled)
        what = f"{place} {error.what}"
        raise MissingSourceError(what, expected=_KINDS, fix=error.fix) from None
    except UnreadableImageError as error:
        raise DataError(f"{place} cannot be read", got=error.what, fix=error.fix) from None
    raise DataError(
        f"{place} is not a source of photos",
        expected=_KINDS,
        got=entry.kind or f"an object ending in .{ending(file)}",
        fix=_other_source(place),
    )


def _other_source(url: str) -> str:
    """What to give in place of a URL at which no photos are."""
    if page := _PAGE_OF_THE_HUB.match(url):
        return f"this is a page about a dataset; give hf://datasets/{page[1]}"
    if remote.scheme_of(url) in remote.WEB:
        return (
            "servers on the web list no folders: list the photos' addresses in a manifest (path,label), or give shards"
        )
    return "point at the photos, their folder or a manifest"


def _read_absent(place: str, error: OSError, *, labeled: bool) -> Found:
    """Read what does not exist by this name: a pattern, if it is one."""
    if os.path.islink(place):  # noqa: PTH114
        raise DataError(f"{place} is a link to nothing", fix="mount or restore what it leads to") from error
    file, box = parted(place)
    if box is not None and is_image_name(file) and Path(file).is_file():
        photo = _read_place(file, labeled=labeled)
        return Found([replace(record, path=place, source=place) for record in photo.records])
    if is_shard_pattern(place):
        return read_shards(dict.fromkeys(expand_shards(place)), place, labeled=labeled)
    if glob.has_magic(place) or "{" in place:
        return _read_pattern(place, labeled=labeled)
    refuse_compressed(place)
    raise MissingSourceError(f"{place} does not exist", expected=_KINDS, fix="check the path")


def _read_pattern(pattern: str, *, labeled: bool) -> Found:
    """Read what a pattern matches; all of it has the pattern as its source."""
    matches = _matches(pattern)
    if not matches:
        raise MissingSourceError(
            f"{pattern} does not exist, and as a pattern it matches nothing",
            expected=_KINDS,
            fix="check the path",
        )
    files = [match for match, is_folder in matches.items() if is_folder is not True]
    if {ending(remote.file_name(file)) for file in files} == {"parquet"} and len(files) == len(matches):
        with suppress(WithoutImagesError):
            return read_tables(files, pattern, labeled=labeled, lists=False)
    total, others = Found(), list[str]()
    # What ** matches, it matches again below each folder.
    folders = {match for match, is_folder in matches.items() if is_folder is True and "**" not in pattern}
    for match, known in matches.items():
        file = remote.file_name(match)
        if match in folders or is_image_name(file) or ending(file) in (*MANIFEST_ENDINGS, "tar"):
            try:
                found = _read_match(match, known, labeled=labeled)
            except DataError as error:
                total.unread.append((match, error.what))
                continue
            found.records = [replace(record, source=pattern) for record in found.records]
            total.add(found)
        elif not is_junk(os.path.basename(match)) and known is not True:  # noqa: PTH119
            others.append(match)
    if others:
        what = f"{plural(len(others), 'file')} with other endings left out"
        total.notes.append(f"{pattern}: {what}: {count_endings(others)}")
    return total


# Whether it is a folder; or an object's stamp, or why there is none.
_Match: TypeAlias = bool | Stamp | UnreadableImageError


def _matches(pattern: str) -> dict[str, _Match]:
    """Give what a pattern matches, and what is known of each."""
    parts = list(expand_braces(pattern))
    if not remote.is_remote(pattern):
        return {match: os.path.isdir(match) for part in parts for match in sorted(glob.glob(part, recursive=True))}
    found = {part: remote.glob(part) for part in parts if "*" in part}
    named = [part for part in parts if part not in found]
    remote.begin(named)
    found |= {part: {part: entry} for part, entry in zip(named, remote.entries(named), strict=True)}
    return {match: _known(entry) for part in parts for match, entry in found[part].items()}


def _known(entry: remote.Entry | UnreadableImageError) -> _Match:
    if isinstance(entry, UnreadableImageError):
        return entry
    return True if entry.is_folder else entry.stamp


def _read_match(match: str, known: _Match, *, labeled: bool) -> Found:
    if isinstance(known, UnreadableImageError):
        raise known
    if isinstance(known, Stamp) and is_image_name(remote.file_name(match)):
        return Found([ImageRecord(match, match, None, None, **known._asdict())])
    return _read_place(match, labeled=labeled)


def _new(
    records: list[ImageRecord], by_path: dict[str, ImageRecord], place: str, notes: list[str]
) -> list[ImageRecord]:
    """Give the records that are not in `by_path` yet, by their paths, and add them there."""
    new: list[ImageRecord] = []
    repeated: list[ImageRecord] = []
    # The sort is stable: of one image listed twice in a manifest, the first row counts.
    for record in sorted(records, key=attrgetter("path")):
        (new if by_path.setdefault(record.path, record) is record else repeated).append(record)
    if not repeated:
        return new
    note = f"{place}: {plural(len(repeated), 'photo')} listed before, the first listing counts"
    differing = [record for record in repeated if record.label != by_path[record.path].label]
    if differing:
        path, label = differing[0].path, differing[0].label
        labels = f"{by_path[path].label!r}, not {label!r}"
        note += f"; {len(differing)} with another label (e.g. {path} stays {labels})"
    notes.append(note)
    return new
