"""Manifests as sources: a CSV or Parquet table of paths, or of the images themselves, with labels and splits."""

# Paths stay str from scandir to record: a Path for each of a million images is slow.
# ruff: noqa: PTH100, PTH109, PTH110, PTH111, PTH116, PTH117, PTH118, PTH120

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from hybrid.errors import DataError, UnreadableImageError, listing
from hybrid.images import parquet, remote
from hybrid.images.boxes import as_whole, parted
from hybrid.images.captures import NO_VALUE, Capture, as_month, as_name, as_time, time_of_month
from hybrid.images.naming import (
    LABEL_NAMES,
    PATH_NAMES,
    Found,
    as_label,
    ending,
    is_image_name,
    is_text,
    plural,
    split_in,
    split_of,
)
from hybrid.images.records import ImageRecord, Stamp
from hybrid.images.stream import ordered_map

MANIFEST_ENDINGS = ("csv", "tsv", "parquet")
_NAMES = {
    "path": PATH_NAMES,
    "label": LABEL_NAMES,
    "split": ("split",),
    "sequence": ("sequence", "sequence_id", "seq_id"),
    "region": ("region",),
    "time": ("time", "datetime"),
    "month": ("month",),
}
_DELIMITERS = ",;\t|"
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# Tables at URLs that are listed at once: each is some small requests, one after the other.
_AT_ONCE = 16
# A row group from which one image after the other is read in no time, but not one here and one there.
_LARGE_GROUP = 2**28
# Rows of which it is tried whether they lie elsewhere, where none of all lies at its path.
_TRIED = 1000


class _Row(NamedTuple):
    """A row as the file has it, and its number there."""

    number: int
    path: object
    label: object
    split: object
    sequence: object = None
    region: object = None
    time: object = None
    month: object = None


@dataclass
class _Table:
    """Rows of a manifest, and its columns by what they are read as.

    Attributes
    ----------
    images : Images or None
        Where the images themselves are, in place of their paths.
    classes : dict of str to list of str
        Names of classes by column, where the rows have numbers for them.
    stamp : Stamp
        Of the file, if it is Parquet.
    group : int
        Bytes of its largest row group.
    """

    columns: dict[str, str] = field(default_factory=dict)
    header: list[str] = field(default_factory=list)
    rows: Iterable[_Row] = ()
    images: parquet.Images | None = None
    classes: dict[str, list[str]] = field(default_factory=dict)
    stamp: Stamp = field(default_factory=Stamp)
    group: int = 0


# What a row says: its path as it stands there, label, split, and when and where it was taken.
_Parsed: TypeAlias = tuple[str, str | None, str | None, Capture]


@dataclass
class _Facts:
    """What all rows say together.

    Attributes
    ----------
    rows, labeled, unlabeled : int
        All, and where there are labels, those with one and without.
    spelled : Counter of str
        How rows say that they have none.
    floats : bool
        Whether all labels are whole numbers as floating point, as pandas writes those with a gap among them.
    odd : dict of str to Counter of str
        Values by column that are not what it holds.
    relative : list of str
        Paths, some of the first.
    fitting : bool
        Whether there is a file for any of them, from the manifest's folder.
    servers : dict of str to str
        An address on each.
    """

    rows: int = 0
    labeled: int = 0
    unlabeled: int = 0
    spelled: Counter[str] = field(default_factory=Counter)
    floats: bool = True
    odd: dict[str, Counter[str]] = field(default_factory=dict)
    relative: list[str] = field(default_factory=list)
    fitting: bool = False
    servers: dict[str, str] = field(default_factory=dict)

    def add(self, other: _Facts) -> None:
        """Take in what another table of images says."""
        self.rows += other.rows
        self.labeled += other.labeled
        self.unlabeled += other.unlabeled
        self.spelled += other.spelled
        self.floats = self.floats and other.floats
        for role, values in other.odd.items():
            self.odd.setdefault(role, Counter()).update(values)


class _Listed(NamedTuple):
    """A manifest that was read through: what it is, what all rows say together, and each of them."""

    table: _Table
    facts: _Facts
    rows: Iterable[_Parsed]


class WithoutImagesError(DataError):
    """A table holds no images."""


def read_manifest(manifest: str, *, labeled: bool, address: str | None = None, lazy: bool = False) -> Found:
    """Read the images that a manifest lists, in its order.

    Parameters
    ----------
    manifest : str
        Absolute path of a ``.csv``, ``.tsv`` or ``.parquet`` file. Its column ``path`` (or ``file_name``, ``image`` and
        the like) is relative to the manifest's folder or, where nothing lies there, to the working directory, or
        absolute, or a URL; the columns ``label`` (or ``class``, ``species`` and the like), ``split``, ``sequence``,
        ``region`` and ``time`` or ``month`` are optional, empty or NaN means none. A CSV file is UTF-8 or UTF-16, with
        commas, semicolons, tabs or bars. It may also be the URL of such a file; then it names what lies on its own
        server or in its own bucket. A Parquet file may hold the images themselves, see `hybrid.images.parquet`.
    labeled : bool
        Whether the column of labels counts.
    address : str, optional
        The URL with the credentials in it.
    lazy : bool
        Give the images as `Found.later`, for which the file is read once more.

    Raises
    ------
    DataError
        If the file is not what its ending says, has no column of paths, or a row is wrong.
    MissingExtraError
        If a Parquet manifest is read without pyarrow.
    """
    listed = _list(manifest, address, labeled=labeled, lazy=lazy)
    table, facts, rows = listed
    if table.images is not None:
        return _found_inside({manifest: listed}, manifest, address, labeled=labeled, lazy=lazy)
    notes = _note_columns(table, manifest, labeled=labeled)
    base, change, moved = _way(facts, os.path.dirname(manifest))
    notes += [f"{manifest}: {note}" for note in (_missing_labels(facts), moved, *_odd_values(facts, table)) if note]
    remote.begin(facts.servers.values())
    how = {"whole_numbers": facts.floats and facts.labeled > 0, "some_remote": bool(facts.servers)}
    records = _records(rows, manifest, base, change, **how)
    return Found([], notes, later=records if facts.rows else None) if lazy else Found(list(records), notes)


def read_tables(tables: Sequence[str], source: str, *, labeled: bool, lazy: bool = False, lists: bool = True) -> Found:
    """Read the images that lie in Parquet tables, such as the files of a dataset; tables without images are left out.

    Parameters
    ----------
    tables : sequence of str
        Absolute paths or URLs.
    source : str
        What the user gave to reach them, kept in the records.
    labeled, lazy : bool
        As `read_manifest` takes them.
    lists : bool
        Whether there may be tables without images.

    Raises
    ------
    WithoutImagesError
        If there is such a table, and there may be none.
    DataError
        If none can be read; of several, those that cannot be are named in `Found.unread`.
    MissingExtraError
        If pyarrow is not installed.
    """
    listed: dict[str, _Listed] = {}
    errors, without = dict[str, DataError](), list[str]()
    threads = _AT_ONCE if remote.is_remote(source) else 1
    read = partial(_listed_or_error, labeled=labeled, lazy=lazy)
    for place, one in zip(tables, ordered_map(read, tables, threads, threads), strict=True):
        if isinstance(one, _Listed):
            listed[place] = one
        elif isinstance(one, WithoutImagesError):
            if not lists:
                raise one
            without.append(place)
        else:
            errors[place] = one
    if errors and len(errors) == len(tables):
        raise errors[tables[0]]
    found = _found_inside(listed, source, labeled=labeled, lazy=lazy) if listed else Found()
    if without:
        found.notes.append(f"{source}: {plural(len(without), 'table')} without photos left out: {listing(without, 3)}")
    found.unread += (
        (place, one.what if one.got is None else f"{one.what}: {one.got}") for place, one in errors.items()
    )
    return found


def read_part(part: parquet.Part, source: str, *, labeled: bool) -> Found:
    """Read one column of the images in a table, or one image of it; parameters and errors as for `read_tables`."""
    listed = _list(part.table, None, labeled=labeled, lazy=False, column=part.column)
    found = _found_inside({part.table: listed}, source, labeled=labeled, lazy=False)
    if part.row is not None:
        found = Found([record for record in found.records if record.offset == part.row])
    if not found.records:
        there = f"rows 0 to {listed.facts.rows - 1}"
        raise DataError(f"{source} does not exist", expected=there, fix="check the table and the row")
    return found


def _listed_or_error(place: str, *, labeled: bool, lazy: bool) -> _Listed | DataError:
    try:
        return _list(place, None, labeled=labeled, lazy=lazy, paths=False)
    except DataError as error:
        return error


def _list(
    place: str, address: str | None, *, labeled: bool, lazy: bool, paths: bool = True, column: str | None = None
) -> _Listed:
    """Read a manifest through; it may be one of `paths`, or its images are in this column."""
    table = _read_table(place, address, keep=not lazy, paths=paths, column=column)
    facts = _Facts()
    rows = _parsed(table, place, facts, labeled=labeled)
    if lazy:
        deque(rows, maxlen=0)
        return _Listed(table, facts, _parsed(table, place, _Facts(), labeled=labeled))
    listed = _Listed(table, facts, list(rows))
    table.rows = ()
    return listed


def _found_inside(
    tables: Mapping[str, _Listed], source: str, address: str | None = None, *, labeled: bool, lazy: bool
) -> Found:
    """Give the images that lie in tables; `address` is that of a single table, with its credentials."""
    facts, columns, notes = _Facts(), dict[str, str](), dict[str, None]()
    for table, own, _ in tables.values():
        facts.add(own)
        columns |= table.columns
        notes |= dict.fromkeys(_note_columns(table, source, labeled=labeled))
    group = max(listed.table.group for listed in tables.values())
    large = (
        f"row groups of up to {group / 2**20:,.0f} MiB: a head that is trained on pixels reads them again and again; "
    )
    large += "write the table with row_group_size=100 before that"
    odd = (_missing_labels(facts), *_odd_values(facts, _Table(columns)), large if group > _LARGE_GROUP else "")
    whole_numbers = facts.floats and facts.labeled > 0
    records = (
        record if address is None else remote.with_address(record, address)
        for place, listed in tables.items()
        for record in _records_inside(listed, place, source, whole_numbers=whole_numbers)
    )
    said = [*notes, *(f"{source}: {note}" for note in odd if note)]
    return Found([], said, later=records if facts.rows else None) if lazy else Found(list(records), said)


def _records_inside(listed: _Listed, table: str, source: str, *, whole_numbers: bool) -> Iterator[ImageRecord]:
    *_, folder, name = ("", *remote.file_name(table).replace(os.sep, "/").split("/"))
    named = split_in(name) or split_in(folder)
    stamp = listed.table.stamp._replace(size=0)._asdict()  # that of an image is not known before it is read
    for row, (path, label, split, capture) in enumerate(listed.rows):
        label = label[:-2] if label and whole_numbers else label
        own = capture._asdict()
        yield ImageRecord(f"{table}/{path}", source, label, split or named, container=table, offset=row, **stamp, **own)


def _parsed(table: _Table, manifest: str, facts: _Facts, *, labeled: bool) -> Iterator[_Parsed]:
    """Read what each row says, and count up the facts."""
    place = f"{manifest}, {'row' if ending(remote.file_name(manifest)) == 'parquet' else 'line'}"
    folder, with_labels = os.path.dirname(manifest), labeled and "label" in table.columns
    captured, nothing = not table.columns.keys().isdisjoint(("sequence", "region", "time", "month")), Capture()
    for row in table.rows:
        path = str(row.path) if table.images else _listed_path(row, place, manifest)
        label = _label(row, place, facts) if with_labels else None
        split = _split(row, place)
        facts.rows += 1
        if remote.is_remote(path):
            facts.servers.setdefault(remote.origin_of(path), parted(path)[0])
        elif not (facts.fitting or table.images or os.path.isabs(path)):
            facts.relative += [path] if len(facts.relative) < _TRIED else []
            facts.fitting = _exists(os.path.join(folder, path))
        yield path, label, split, _capture(row, facts) if captured else nothing


def _records(
    rows: Iterable[_Parsed],
    manifest: str,
    base: str,
    change: Callable[[str], str],
    *,
    whole_numbers: bool,
    some_remote: bool,
) -> Iterator[ImageRecord]:
    def resolved() -> Iterator[_Parsed]:
        for path, label, split, capture in rows:
            place = path if remote.is_remote(path) else os.path.abspath(os.path.join(base, change(path)))
            yield place, label[:-2] if label and whole_numbers else label, split, capture

    named, ahead = itertools.tee(resolved()) if some_remote else (resolved(), iter(()))
    entries = remote.entries(_lies_in(path)[0] for path, *_ in ahead if remote.is_remote(path))
    for path, label, split, capture in named:
        yield _record(entries, path, manifest, label, split, capture)


def _record(
    entries: Iterator[remote.Entry | UnreadableImageError],
    path: str,
    manifest: str,
    label: str | None,
    split: str | None,
    capture: Capture,
) -> ImageRecord:
    # A listed file that is missing stays a record: one hole in a manifest of thousands must not stop the run, and
    # reading it later fails, which lists it among the unreadable files with the reason.
    (file, row), stamp = _lies_in(path), Stamp()
    if remote.is_remote(path):
        entry = next(entries)
        stamp = Stamp() if isinstance(entry, UnreadableImageError) else entry.stamp
        if row is None:
            own = ImageRecord(remote.name_of(path), manifest, label, split, **stamp._asdict(), **capture._asdict())
            return remote.with_address(own, path)
    else:
        try:
            stamp, path, row = Stamp.of(os.stat(path)), as_whole(path), None
        except OSError:
            with suppress(OSError):
                stamp = Stamp.of(os.stat(file))
    own = ImageRecord(path, manifest, label, split, **stamp._asdict(), **capture._asdict())
    return own if row is None else replace(own, size=0, container=file, offset=row)


def _lies_in(path: str) -> tuple[str, int | None]:
    """Give what is to be there, a whole photo or the table that holds it, and its row there."""
    file = parted(path)[0]
    part = parquet.parted(file) if file[-8:].isdigit() else None
    return (file, None) if part is None else (part.table, part.row)


def _capture(row: _Row, facts: _Facts) -> Capture:
    """Say when and where an image was taken, and count values that are no time or month."""
    time, month = as_time(row.time), as_month(row.month)
    if isinstance(row.region, str) and row.region.strip() in NO_VALUE:
        facts.odd.setdefault("region", Counter())[row.region.strip()] += 1
    for role, value, read in (("time", row.time, time), ("month", row.month, month)):
        if read is None and (name := as_name(value)) is not None:
            facts.odd.setdefault(role, Counter())[name] += 1
    time = time_of_month(month) if time is None and month is not None else time
    return Capture(as_name(row.sequence), as_name(row.region), time)


def _odd_values(facts: _Facts, table: _Table) -> list[str]:
    kinds = {
        "time": "are not a time (2025-07-14 06:12:30)",
        "month": "are not a month (1 to 12)",
        # NA is Namibia's code, too.
        "region": "say that there is none",
    }
    return [
        f"WARNING: {values.total()} of {facts.rows} values in the column {table.columns[role].strip()!r} {kinds[role]} "
        f"and are left out: {listing(list(values), 3)}"
        for role, values in sorted(facts.odd.items(), key=lambda item: list(kinds).index(item[0]))
    ]


def _listed_path(row: _Row, place: str, manifest: str) -> str:
    """Give the path of a row as it stands there, absolute if it is one; a URL from a manifest at one."""
    text = row.path if isinstance(row.path, str) else "" if row.path is None else repr(row.path)
    if not text.strip() or not is_text(text) or "\0" in text or not isinstance(row.path, str):
        raise DataError(
            f"{place} {row.number}: this row has no usable path",
            expected="a path in every row",
            got=repr(text)[:80],
            fix="write the path of its photo there, or remove the row",
        )
    if remote.is_remote(manifest):
        return _path_from_afar(text, f"{place} {row.number}", manifest)
    if "://" in text:
        url = text.strip()
        scheme = remote.scheme_of(url)
        if scheme == "file":
            return unquote(urlsplit(url).path)
        if scheme not in remote.IN_MANIFESTS:
            known = ", ".join(f"{name}://" for name in remote.IN_MANIFESTS)
            fix = "download the photos first, and list the files"
            raise DataError(
                f"{place} {row.number}: such addresses are not read from a manifest",
                expected=f"a file, or {known}",
                got=remote.redacted(text),
                fix=fix,
            )
        return url
    return os.path.expanduser(text) if text.startswith("~") else text


def _path_from_afar(text: str, row: str, manifest: str) -> str:
    """Give the URL that a manifest at a URL names.

    Whoever writes such a manifest must not choose what this machine asks for elsewhere, or which of its files it opens.
    """
    origin = remote.origin_of(manifest)
    if "://" in text:
        url = text.strip()
        if remote.name_of(url).startswith(origin):
            return url
    elif not text.startswith(("/", "~", "\\")):
        return remote.joined(remote.file_name(manifest).rpartition("/")[0], text)
    raise DataError(
        f"{row}: a manifest at a URL names photos of its own place only",
        expected=f"a path relative to the manifest, or {origin}...",
        got=remote.redacted(text),
        fix="download the manifest and give it as a file, if you trust it: there it may name other places",
    )


def _split(row: _Row, place: str) -> str | None:
    named = "" if row.split is None or row.split in NO_VALUE else str(row.split)
    split = split_of(named)
    if named.strip() and split is None and not _is_nan(row.split):
        expected = "train, val (valid, validation, dev), test, or empty"
        raise DataError(
            f"{place} {row.number}: unknown split",
            expected=expected,
            got=named,
            fix="write one of these there, or leave it empty",
        )
    return split


def _label(row: _Row, place: str, facts: _Facts) -> str | None:
    value = row.label
    if _is_nan(value) or (isinstance(value, str) and value.strip() in NO_VALUE):
        facts.spelled[str(value).strip()] += 1
        value = None
    label = as_label(value, f"{place} {row.number}")
    if label is not None:
        facts.labeled += 1
        facts.floats = facts.floats and re.fullmatch(r"-?\d+\.0", label) is not None
    else:
        facts.unlabeled += 1
    return label


def _missing_labels(facts: _Facts) -> str:
    """Say where some rows have no label, if there are labels at all."""
    how = f" ({', '.join(f'{count} times {text}' for text, count in facts.spelled.items())})" if facts.spelled else ""
    return f"{facts.unlabeled} of {facts.rows} rows without a label{how}" if facts.unlabeled else ""


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _way(facts: _Facts, folder: str) -> tuple[str, Callable[[str], str], str]:
    """From which folder paths are relative, what is to be changed in them, and what to say where that is not plain.

    All of them in one way: of a manifest some of whose files are gone, none must be taken from elsewhere.
    """
    way: tuple[str, Callable[[str], str], str] = (folder, _as_it_is, "")
    if facts.fitting or not facts.relative:
        return way
    here = os.getcwd()
    ways: tuple[tuple[str, Callable[[str], str], str], ...] = (
        (here, _as_it_is, f"paths are relative to the working directory, {here}"),
        (folder, str.strip, "paths read without the spaces around them"),
        (folder, _from_windows, "paths read with / for \\"),
        (here, _from_windows, f"paths read with / for \\, relative to the working directory, {here}"),
    )
    fitting = (w for w in ways if any(_exists(os.path.join(w[0], w[1](p))) for p in facts.relative))
    return next(fitting, way)


def _exists(path: str) -> bool:
    """Whether there is a file of this name, or one that this names a part of."""
    return os.path.exists(path) or ((parts := parted(path))[1] is not None and os.path.exists(parts[0]))


def _as_it_is(path: str) -> str:
    return path


def _from_windows(path: str) -> str:
    return path.replace("\\", "/")


def _pick_columns(names: Iterable[str | None], manifest: str, table: _Table) -> None:
    """Find the columns that are read, whose names may differ in case and whitespace."""
    header = table.header = [name or "" for name in names]
    plain = [name.strip().lower() for name in header]
    picked = table.columns = {}
    for role, known in _NAMES.items():
        name = next((name for name in known if name in plain), None)
        if name is None:
            continue
        if plain.count(name) > 1:
            raise DataError(f"The manifest {manifest} has two columns {name!r}", fix="remove one of them")
        picked[role] = header[plain.index(name)]
    if "label" not in picked and table.classes:
        picked["label"] = next(iter(table.classes))
    if table.images is not None:
        picked["path"] = table.images.column
    elif "path" not in picked:
        no_header = any(is_image_name(name.strip()) for name in header)
        why = ": its first row is data already" if no_header else ""
        raise DataError(
            f"The manifest {manifest} has no column 'path'{why}",
            expected="a header row with path, and optionally label and split, separated by commas",
            got=f"the columns {listing([repr(name) for name in header])}" if header else "an empty file",
            fix="write a first row like: path,label; Parquet may hold photos as a column 'image' of bytes, or of a "
            "struct with bytes",
        )


def _note_columns(table: _Table, manifest: str, *, labeled: bool) -> list[str]:
    """Say which columns are read, where their names leave a doubt."""
    columns = {role: name.strip() for role, name in table.columns.items()}
    notes = []
    if table.images is not None and (table.images.others or columns["path"].lower() != "image"):
        instead = f", not from {listing([repr(name) for name in table.images.others])}" if table.images.others else ""
        notes.append(f"{manifest}: photos from the column {columns['path']!r}{instead}")
    elif table.images is None and columns["path"].lower() != "path":
        notes.append(f"{manifest}: paths from the column {columns['path']!r}")
    if not labeled:
        return notes
    others = [name.strip() for name in table.header if name.strip().lower() in LABEL_NAMES or name in table.classes]
    if "label" not in columns:
        header = listing([repr(name.strip()) for name in table.header if name.strip()])
        notes.append(
            f"{manifest}: no column of labels ({', '.join(LABEL_NAMES)}), so no photo has one; it has {header}"
        )
    elif columns["label"].lower() != "label" or len(others) > 1:
        unused = [repr(name) for name in others if name != columns["label"]]
        notes.append(
            f"{manifest}: labels from the column {columns['label']!r}"
            + (f", not from {' or '.join(unused)}" if unused else "")
        )
    return notes


def _open(manifest: str, address: str | None) -> BinaryIO:
    """Open a manifest; DataError where it cannot be read from its URL."""
    if not remote.is_remote(manifest):
        return Path(manifest).open("rb")
    try:
        return io.BytesIO(remote.read(address or manifest))
    except UnreadableImageError as error:
        raise DataError(f"The manifest {manifest} cannot be read", got=error.what, fix=error.fix) from None


def _open_text(manifest: str, address: str | None) -> io.TextIOWrapper:
    data = _open(manifest, address)
    encoding = _encoding(data.read(4))
    data.seek(0)
    return io.TextIOWrapper(data, encoding=encoding, newline="")


def _encoding(start: bytes) -> str:
    """Tell the encoding of a text file by its first four bytes: UTF-8 unless they show another Unicode one."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    if start[1::2] == b"\0\0":
        return "utf-16-le"
    if start[::2] == b"\0\0":
        return "utf-16-be"
    # Spreadsheets write a byte order mark, which would become part of the first column's name.
    return "utf-8-sig"


def _delimiter(line: str) -> str:
    """Tell what separates the columns of a header: what makes a name of it that is known, else what parts it most."""

    def parts(delimiter: str) -> tuple[int, int]:
        names = {name.strip().strip('"').lower() for name in line.split(delimiter)}
        return sum(not names.isdisjoint(known) for known in _NAMES.values()), len(names)

    return max(_DELIMITERS, key=parts)


class _Reread(Iterable[_Row]):
    """Rows that are read anew each time."""

    def __init__(self, read: Callable[[], Iterator[_Row]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[_Row]:
        return self._read()


def _read_table(manifest: str, address: str | None, *, keep: bool, paths: bool, column: str | None) -> _Table:
    """Read a manifest, or only its header and how to read the rows."""
    table = _Table()
    rows = (
        partial(_read_parquet, manifest, address, table, paths=paths, column=column)
        if ending(remote.file_name(manifest)) == "parquet"
        else partial(_read_csv, manifest, address, table)
    )
    if keep:
        table.rows = list(rows())
    else:
        table.rows = _Reread(rows)
        next(rows(), None)
    return table


def _read_csv(manifest: str, address: str | None, table: _Table) -> Iterator[_Row]:
    try:
        with _open_text(manifest, address) as file:
            first, before = file.readline(), 0
            if first.strip().lower() in [f"sep={delimiter}" for delimiter in _DELIMITERS]:  # a line for spreadsheets
                first, before = file.readline(), 1
            reader = csv.reader(itertools.chain([first], file), delimiter=_delimiter(first), strict=True)
            _pick_columns(next(reader, []), manifest, table)
            yield from _csv_rows(reader, lambda: reader.line_num + before, table, manifest)
    except UnicodeError as error:
        byte = f"the byte 0x{error.object[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise DataError(
            f"The manifest {manifest} is not UTF-8",
            got=byte,
            fix="save it as 'CSV UTF-8', or: iconv -f latin1 -t utf-8 OLD.csv > NEW.csv",
        ) from error
    except csv.Error as error:
        raise DataError(
            f"The manifest {manifest} is not a valid CSV file: {error}",
            fix="write it again as CSV: a text with a line break, a comma or a quote stands in double quotes",
        ) from error
    except OSError as error:
        raise DataError(
            f"The manifest {manifest} cannot be read: {error.strerror}", fix="check the path and its permission"
        ) from error


def _csv_rows(rows: Iterable[list[str]], line: Callable[[], int], table: _Table, manifest: str) -> Iterator[_Row]:
    width = len(table.header)
    places = [table.header.index(table.columns[r]) if r in table.columns else width for r in _NAMES]
    lacking = [""] * (width + 1)
    for row in rows:
        if not any(row):
            continue
        if any(row[width:]):
            raise DataError(
                f"{manifest}, line {line()}: more fields than the header has columns",
                got=listing(row),
                fix='put double quotes around a value that holds a comma: "a, b.jpg",cat',
            )
        values = row[:width] + lacking[len(row) :]
        yield _Row(line(), *(values[place] for place in places))


def _read_parquet(
    manifest: str, address: str | None, table: _Table, *, paths: bool, column: str | None
) -> Iterator[_Row]:
    with parquet.opened(manifest, address) as (file, table.stamp):
        schema = file.schema_arrow
        table.images, table.classes = parquet.images_in(schema, column), parquet.class_names_in(schema)
        if table.images is None and column is not None:
            raise DataError(
                f"{manifest} has no photos in a column {column!r}",
                expected="bytes, or structs with bytes",
                got=listing([f"{field.name} ({field.type})" for field in schema], 10),
                fix="name another column, or none",
            )
        if table.images is None and not paths:
            raise WithoutImagesError(f"{manifest} holds no photos")
        _pick_columns(parquet.flat_names(schema) if table.images else schema.names, manifest, table)
        table.header = schema.names
        names = [table.columns.get(role, "") for role in _NAMES]
        table.group = parquet.largest_group(file)
        classes = table.classes.get(table.columns.get("label", ""))
        for number, row in enumerate(_parquet_rows(file, table), 1):
            path, label, *others = (row.get(name) for name in names)
            if table.images:
                path = parquet.member(table.images.column, number - 1)
            if classes is not None:
                label = _class_name(label, classes, f"{manifest}, row {number}")
            yield _Row(number, path, label, *others)


def _parquet_rows(file: Any, table: _Table) -> Iterator[dict[str, object]]:
    """Read the columns that are picked, but for images."""
    read = [name for role, name in table.columns.items() if role != "path" or table.images is None]
    if not read:
        yield from itertools.repeat({}, file.metadata.num_rows)
    else:
        for batch in file.iter_batches(columns=read):
            yield from batch.to_pylist()


def _class_name(number: object, classes: list[str], row: str) -> str | None:
    """Give the class that a number stands for; -1 says that there is none."""
    if number is None or number == -1:
        return None
    if not isinstance(number, int) or not 0 <= number < len(classes):
        raise DataError(
            f"{row}: the label is not the number of a class",
            expected=f"0 to {len(classes) - 1}, for the {plural(len(classes), 'name')} that the file has for them",
            got=repr(number)[:80],
            fix="write the table again",
        )
    return classes[number]
