"""Manifests as sources: a CSV or Parquet table of paths, with labels and splits."""

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from hybrid.errors import DataError, MissingExtraError, UnreadableImageError, listing
from hybrid.images import remote
from hybrid.images.boxes import as_whole, parted
from hybrid.images.captures import NO_VALUE, Capture, as_month, as_name, as_time, time_of_month
from hybrid.images.naming import LABEL_NAMES, Found, as_label, ending, is_image_name, is_text, split_of
from hybrid.images.records import ImageRecord, Stamp

MANIFEST_ENDINGS = ("csv", "tsv", "parquet")
_PATH_NAMES = (
    "path",
    "filepath",
    "file_path",
    "image_path",
    "img_path",
    "filename",
    "file_name",
    "file",
    "image",
    "img",
    "photo",
    "url",
    "image_url",
)
_NAMES = {
    "path": _PATH_NAMES,
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
    """Rows of a manifest, and its columns by what they are read as."""

    columns: dict[str, str] = field(default_factory=dict)
    header: list[str] = field(default_factory=list)
    rows: Iterable[_Row] = ()


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
        server or in its own bucket.
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
    table = _read_table(manifest, address, keep=not lazy)
    notes = _note_columns(table, manifest, labeled=labeled)
    facts = _Facts()
    rows: Iterable[_Parsed] = _parsed(table, manifest, facts, labeled=labeled)
    if lazy:
        deque(rows, maxlen=0)
        rows = _parsed(table, manifest, _Facts(), labeled=labeled)
    else:
        rows = list(rows)
    base, change, moved = _way(facts, os.path.dirname(manifest))
    notes += [f"{manifest}: {note}" for note in (_missing_labels(facts), moved, *_odd_values(facts, table)) if note]
    remote.begin(facts.servers.values())
    how = {"whole_numbers": facts.floats and facts.labeled > 0, "some_remote": bool(facts.servers)}
    records = _records(rows, manifest, base, change, **how)
    return Found([], notes, later=records if facts.rows else None) if lazy else Found(list(records), notes)


def _parsed(table: _Table, manifest: str, facts: _Facts, *, labeled: bool) -> Iterator[_Parsed]:
    """Read what each row says, and count up the facts."""
    place = f"{manifest}, {'row' if ending(remote.file_name(manifest)) == 'parquet' else 'line'}"
    folder, with_labels = os.path.dirname(manifest), labeled and "label" in table.columns
    captured, nothing = not table.columns.keys().isdisjoint(("sequence", "region", "time", "month")), Capture()
    for row in table.rows:
        path = _listed_path(row, place, manifest)
        label = _label(row, place, facts) if with_labels else None
        split = _split(row, place)
        facts.rows += 1
        if remote.is_remote(path):
            facts.servers.setdefault(remote.origin_of(path), parted(path)[0])
        elif not facts.fitting and not os.path.isabs(path):
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
    entries = remote.entries(parted(path)[0] for path, *_ in ahead if remote.is_remote(path))
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
    if remote.is_remote(path):
        entry = next(entries)
        stamp = Stamp() if isinstance(entry, UnreadableImageError) else entry.stamp
        own = ImageRecord(remote.name_of(path), manifest, label, split, **stamp._asdict(), **capture._asdict())
        return remote.with_address(own, path)
    stamp = Stamp()
    with suppress(OSError):
        stamp, path = Stamp.of(os.stat(path)), as_whole(path)
    file, box = parted(path)
    if box is not None:
        with suppress(OSError):
            stamp = Stamp.of(os.stat(file))
    return ImageRecord(path, manifest, label, split, **stamp._asdict(), **capture._asdict())


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


def _pick_columns(names: Iterable[str | None], manifest: str) -> tuple[dict[str, str], list[str]]:
    """Find the columns that are read, whose names may differ in case and whitespace; give all names too."""
    header = [name or "" for name in names]
    plain = [name.strip().lower() for name in header]
    picked: dict[str, str] = {}
    for role, known in _NAMES.items():
        name = next((name for name in known if name in plain), None)
        if name is None:
            continue
        if plain.count(name) > 1:
            raise DataError(f"The manifest {manifest} has two columns {name!r}", fix="remove one of them")
        picked[role] = header[plain.index(name)]
    if "path" not in picked:
        no_header = any(is_image_name(name.strip()) for name in header)
        why = ": its first row is data already" if no_header else ""
        raise DataError(
            f"The manifest {manifest} has no column 'path'{why}",
            expected="a header row with path, and optionally label and split, separated by commas",
            got=f"the columns {listing([repr(name) for name in header])}" if header else "an empty file",
            fix="write a first row like: path,label",
        )
    return picked, header


def _note_columns(table: _Table, manifest: str, *, labeled: bool) -> list[str]:
    """Say which columns are read, where their names leave a doubt."""
    columns = {role: name.strip() for role, name in table.columns.items()}
    notes = []
    if columns["path"].lower() != "path":
        notes.append(f"{manifest}: paths from the column {columns['path']!r}")
    if not labeled:
        return notes
    others = [name.strip() for name in table.header if name.strip().lower() in LABEL_NAMES]
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


def _read_table(manifest: str, address: str | None, *, keep: bool) -> _Table:
    """Read a manifest, or only its header and how to read the rows."""
    table = _Table()
    read = _read_parquet if ending(remote.file_name(manifest)) == "parquet" else _read_csv
    rows = partial(read, manifest, address, table)
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
            table.columns, table.header = _pick_columns(next(reader, []), manifest)
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


def _read_parquet(manifest: str, address: str | None, table: _Table) -> Iterator[_Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Parquet manifests", "pyarrow", "parquet") from error
    try:
        # Of a file on disk pyarrow reads what it needs.
        source = _open(manifest, address) if remote.is_remote(manifest) else manifest
        with pyarrow.parquet.ParquetFile(source) as file:
            table.columns, table.header = _pick_columns(file.schema_arrow.names, manifest)
            batches = file.iter_batches(columns=list(table.columns.values()))
            names = [table.columns.get(role, "") for role in _NAMES]
            rows = ([row.get(name) for name in names] for batch in batches for row in batch.to_pylist())
            for number, values in enumerate(rows, 1):
                yield _Row(number, *values)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"The manifest {manifest} is not a readable Parquet file: {error}", fix="write it again, or give it as CSV"
        ) from error
