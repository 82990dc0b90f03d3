"""Manifests as sources: a CSV or Parquet table with the columns path, label and split."""

# Paths stay str from scandir to record: a Path for each of a million images is slow.
# ruff: noqa: PTH100, PTH116, PTH118, PTH120

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from hybrid.errors import DataError, MissingExtraError, listing
from hybrid.images.naming import Found, clean_label, is_text, split_of
from hybrid.images.records import ImageRecord

_COLUMNS = ("path", "label", "split")
_Row = Mapping[str, object]


def read_manifest(manifest: str, *, labeled: bool) -> Found:
    """Read the images that a manifest lists, in its order, without notes.

    Parameters
    ----------
    manifest : str
        Absolute path of a ``.csv`` or ``.parquet`` file. Its column ``path`` is relative to the manifest's
        folder, or absolute; the columns ``label`` and ``split`` are optional, empty means none.
    labeled : bool
        Whether the column ``label`` counts.

    Raises
    ------
    DataError
        If the file is not what its ending says, lacks the column ``path``, or a row is wrong.
    MissingExtraError
        If a Parquet manifest is read without pyarrow.
    """
    is_csv = manifest.lower().endswith(".csv")
    numbered = _csv_rows(manifest) if is_csv else _parquet_rows(manifest)
    folder = os.path.dirname(manifest)
    return [_record(row, f"{manifest}, {where}", folder, manifest, labeled) for where, row in numbered], []


def _record(row: _Row, where: str, folder: str, manifest: str, labeled: bool) -> ImageRecord:
    listed = _text(row.get("path"))
    if not listed.strip() or not is_text(listed) or "\0" in listed:
        raise DataError(f"{where}: this row has no usable path", expected="a path in every row", got=repr(listed))
    named_split = _text(row.get("split"))
    split = split_of(named_split)
    if named_split.strip() and split is None:
        expected = "train, val (valid, validation), test, or empty"
        raise DataError(f"{where}: unknown split", expected=expected, got=named_split)
    path = os.path.abspath(os.path.join(folder, listed))
    # A listed file that is missing stays a record: one hole in a manifest of thousands must not stop the run, and
    # reading it later fails, which lists it among the unreadable files with the reason.
    size, mtime_ns = 0, 0
    with suppress(OSError):
        status = os.stat(path)
        size, mtime_ns = status.st_size, status.st_mtime_ns
    label = clean_label(_text(row.get("label"))) if labeled else None
    return ImageRecord(path, manifest, label, split, size, mtime_ns)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _pick_columns(names: Iterable[str | None], manifest: str) -> dict[str, str]:
    """Map the columns that are read to their names in the file, which may differ in case and whitespace."""
    header = [name or "" for name in names]
    picked: dict[str, str] = {}
    for name in header:
        column = name.strip().lower()
        if column in picked:
            raise DataError(f"The manifest {manifest} has two columns {column!r}", fix="remove one of them")
        if column in _COLUMNS:
            picked[column] = name
    if "path" not in picked:
        raise DataError(
            f"The manifest {manifest} has no column 'path'",
            expected="a header row with path, and optionally label and split, separated by commas",
            got=f"the columns {listing([repr(name) for name in header])}" if header else "an empty file",
            fix="write a first row like: path,label",
        )
    return picked


def _csv_rows(manifest: str) -> Iterator[tuple[str, _Row]]:
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
        with Path(manifest).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            picked = _pick_columns(reader.fieldnames or (), manifest)
            for row in reader:
                # DictReader puts surplus fields under the key None.
                if None in row:
                    raise DataError(
                        f"{manifest}, line {reader.line_num}: more fields than the header has columns",
                        got=listing([str(value) for value in row.values()]),
                        fix='put double quotes around a value that holds a comma: "a, b.jpg",cat',
                    )
                yield f"line {reader.line_num}", {key: row[name] for key, name in picked.items()}
    except UnicodeDecodeError as error:
        raise DataError(
            f"The manifest {manifest} is not UTF-8",
            got=f"the byte 0x{error.object[error.start]:02x}",
            fix="save it as 'CSV UTF-8', or: iconv -f latin1 -t utf-8 OLD.csv > NEW.csv",
        ) from error
    except csv.Error as error:
        raise DataError(f"The manifest {manifest} is not a valid CSV file: {error}") from error
    except OSError as error:
        raise DataError(f"The manifest {manifest} cannot be read: {error.strerror}") from error


def _parquet_rows(manifest: str) -> Iterator[tuple[str, _Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Parquet manifests", "pyarrow", "parquet") from error
    try:
        with pyarrow.parquet.ParquetFile(manifest) as file:
            picked = _pick_columns(file.schema_arrow.names, manifest)
            batches = file.iter_batches(columns=list(picked.values()))
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"row {number}", {key: row[name] for key, name in picked.items()}
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"The manifest {manifest} is not a readable Parquet file: {error}") from error
