"""Image records as columns of Parquet, written whole or not at all, and held against checksums when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from hybrid.cluster.places import AnyPath, opened
from hybrid.errors import MissingExtraError, StoreError, first_line, named_file_errors
from hybrid.images.records import ImageRecord

# A field that joins `ImageRecord` becomes a column by its type.
RECORD = tuple((field.name, str(field.type)) for field in fields(ImageRecord))
RECORD_NAMES = tuple(name for name, _ in RECORD)
# Under which a file of this project keeps what it says of itself, as JSON.
METADATA = b"hybrid"
# Rows that are read or written at once: 4 MiB of 512 numbers in half precision.
CHUNK = 4096
# What repeats from row to row.
_DICTIONARY = ("source", "label", "split", "container")


def record_values(record: ImageRecord) -> tuple[Any, ...]:
    """The fields of a record, in the order of `RECORD_NAMES`."""
    values: tuple[Any, ...] = _values(record)
    return values


_values = attrgetter(*RECORD_NAMES)


def import_pyarrow(feature: str = "embedding in shards") -> Any:
    """Import pyarrow with what reads Parquet; MissingExtraError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(feature, "pyarrow", "parquet") from error
    return pyarrow


def record_schema() -> Any:
    """The columns of image records."""
    pa = import_pyarrow()
    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    return pa.schema(
        [pa.field(name, types[kind.removesuffix(" | None")], kind.endswith(" | None")) for name, kind in RECORD]
    )


def record_columns(records: Sequence[ImageRecord]) -> list[Any]:
    """Image records as arrays, one for each field of `record_schema`."""
    pa = import_pyarrow()
    columns = zip(*map(_values, records), strict=True) if records else ((),) * len(RECORD)
    return [pa.array(values, field.type) for values, field in zip(columns, record_schema(), strict=True)]


def to_records(batch: Any) -> list[ImageRecord]:
    """The image records of a RecordBatch that has their columns."""
    columns = [batch.column(name).to_pylist() for name in RECORD_NAMES]
    return [ImageRecord(*values) for values in zip(*columns, strict=True)]


@contextmanager
def writing_parquet(file: Path, schema: Any) -> Iterator[Any]:
    """Give a `pyarrow.parquet.ParquetWriter` for a file; every page of what it writes has a checksum.

    Parameters
    ----------
    file : Path
        Written in this place: the part that `atomic_write` gives.
    schema : pyarrow.Schema
        A column ``vector`` is stored as it is: numbers in half precision do not compress.
    """
    pa = import_pyarrow()
    compression = dict.fromkeys(schema.names, "ZSTD")
    if "vector" in compression:
        del compression["vector"]
        compression["vector.list.element"] = "NONE"
    dictionary = [name for name in _DICTIONARY if name in schema.names]
    with pa.parquet.ParquetWriter(
        file, schema, compression=compression, use_dictionary=dictionary, write_page_checksum=True
    ) as writer:
        yield writer


@contextmanager
def reading_parquet(file: AnyPath, schema: Any, what: str, fix: str) -> Iterator[Any]:
    """Open a file of this project as a `pyarrow.parquet.ParquetFile`, and name what is wrong with it.

    Parameters
    ----------
    file : Path or ObjectPath
    schema : callable
        From the file's own schema, metadata included, the one that it must have.
    what, fix : str
        For errors: what the file is, and what to do where it is damaged.

    Raises
    ------
    StoreError
        If it is missing, cut off, has other columns, or holds a page that does not fit its checksum.
    """
    pa = import_pyarrow()
    if not file.is_file():
        raise StoreError(f"{what} is missing", expected=f"a file {file}", got="none", fix=fix)
    try:
        with (
            named_file_errors(f"{what} cannot be read", str(file)),
            opened(file) as stream,
        ):
            try:
                with pa.parquet.ParquetFile(stream, page_checksum_verification=True) as table:
                    _check_columns(table.schema_arrow, schema(table.schema_arrow), file, what, fix)
                    yield table
            except OSError as error:
                if error.errno is None:  # Arrow's word for a page that does not fit its checksum, not the system's
                    raise _damaged(file, what, error, fix) from error
                raise
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _damaged(file, what, error, fix) from error


def _check_columns(found: Any, expected: Any, file: AnyPath, what: str, fix: str) -> None:
    if not found.equals(expected):
        raise StoreError(
            f"{what} has other columns than were written: {file}",
            expected=", ".join(f"{field.name} {field.type}" for field in expected),
            got=", ".join(f"{field.name} {field.type}" for field in found),
            fix=fix,
        )


def _damaged(file: AnyPath, what: str, error: Exception, fix: str) -> StoreError:
    return StoreError(f"{what} is cut off or damaged: {file}", got=first_line(error), fix=fix)
