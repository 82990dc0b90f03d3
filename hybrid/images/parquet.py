"""Tables in Parquet: which of their columns hold images and class names, and one image out of such a column.

An image in a table is named ``TABLE.parquet/COLUMN/ROW``: its `container` is the table, its `offset` the row, from 0.
"""

# Paths stay str, as they are in records.
# ruff: noqa: PTH116

from __future__ import annotations

import io
import json
import os
import re
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, NamedTuple

from hybrid.errors import DataError, MissingExtraError, UnreadableImageError, first_line
from hybrid.images import remote
from hybrid.images.limits import check_bytes
from hybrid.images.naming import PATH_NAMES
from hybrid.images.records import ImageRecord, Stamp

# Names of columns of images, the likeliest first; others count where a table has one column of bytes and no paths.
_IMAGE_NAMES = ("image", "img", "photo", "picture", "image_bytes", "img_bytes", "bytes", "jpg", "jpeg", "png", "webp")
# A table at a URL of up to so many bytes is read by one request.
_SMALL = 2**22
# Bytes of a column chunk that are read at once, so that a table of one huge row group is not in memory.
_BUFFER = 2**20
# Bytes of images that are taken from a table at once, and rows at most.
_BLOCK_BYTES, _BLOCK_ROWS = 2**22, 1024
# Images that were passed and that nobody asked for yet: as many as threads may be apart, more if they are small, and
# fewer if they are large.
_KEPT_ROWS, _KEPT_BYTES, _MOST_BYTES = 256, 2**26, 2**30
# Tables that are open at once.
_OPEN = 4
_LOCK = threading.Lock()
_PART = re.compile(r"(.*?\.parquet(?:\?[^/]*)?)/(.+?)(?:/(\d{8,}))?", re.DOTALL | re.IGNORECASE)


class Images(NamedTuple):
    """Where the images of a table are.

    Attributes
    ----------
    column : str
    others : tuple of str
        Columns that hold images, too.
    """

    column: str
    others: tuple[str, ...] = ()


def import_parquet() -> Any:
    """Import pyarrow with what reads Parquet; MissingExtraError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Parquet files", "pyarrow", "parquet") from error
    return pyarrow


@contextmanager
def opened(place: str, address: str | None = None) -> Iterator[tuple[Any, Stamp]]:
    """Open a table as a `pyarrow.parquet.ParquetFile`, and give what the system says of the file.

    Raises
    ------
    DataError
        If it cannot be read, also while it is used.
    MissingExtraError
        If pyarrow is not installed.
    """
    pa = import_parquet()
    try:
        source, stamp = _source(place, address)
        with _parquet_file(pa, source) as file:
            yield file, stamp
    except UnreadableImageError as error:
        raise DataError(f"The table {place} cannot be read", got=error.what, fix=error.fix) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"The table {place} is not a readable Parquet file: {first_line(error)}",
            fix="write or download it again; a list of paths may be a CSV file, too",
        ) from error


def _source(place: str, address: str | None) -> tuple[Any, Stamp]:
    if not remote.is_remote(place):
        return place, Stamp.of(os.stat(place))
    stamp = remote.entry(address or place).stamp
    if stamp.size <= _SMALL:  # or it is not known
        return io.BytesIO(remote.read(address or place)), stamp
    return remote.RemoteFile(address or place), stamp


def _parquet_file(pa: Any, source: Any) -> Any:
    # Read ahead, a row group would be in memory.
    return pa.parquet.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)


# Columns


def images_in(schema: Any, asked: str | None = None) -> Images | None:
    """Find the column of images, or take the one that is asked for: a struct that has bytes, or bytes.

    None if there is none, as in a list of paths.
    """
    types, features = import_parquet().types, _features(schema)
    plausible = [
        field for field in schema if features.get(field.name, {}).get("_type", "Image") == "Image" and field.name
    ]
    structs = [field.name for field in plausible if types.is_struct(field.type) and _bytes_of(field.type) is not None]
    binary = [field.name for field in plausible if _is_binary(field.type)]
    if asked is not None:
        return Images(asked) if asked in (*structs, *binary) else None
    declared = [name for name in (*structs, *binary) if name in features]
    named = [name for name in binary if name.lower() in _IMAGE_NAMES]
    paths = any(_is_string(field.type) and field.name.strip().lower() in PATH_NAMES for field in schema)
    found = declared or structs or named or ([] if paths or len(binary) != 1 else binary)
    found.sort(key=lambda name: _IMAGE_NAMES.index(name.lower()) if name.lower() in _IMAGE_NAMES else len(_IMAGE_NAMES))
    return Images(found[0], tuple(found[1:])) if found else None


def largest_group(file: Any) -> int:
    """Bytes of the largest row group of a `ParquetFile`, uncompressed."""
    sizes = (file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
    return max(sizes, default=0)


def class_names_in(schema: Any) -> dict[str, list[str]]:
    """Names of classes by column, of columns whose numbers stand for them, as `datasets` writes them."""
    classes = {name: own.get("names") for name, own in _features(schema).items() if own.get("_type") == "ClassLabel"}
    return {
        name: list(map(str, names))
        for name, names in classes.items()
        if name in schema.names and isinstance(names, list)
    }


def flat_names(schema: Any) -> list[str]:
    """Names of the columns that hold one value in each row, and no bytes."""
    types = import_parquet().types
    return [field.name for field in schema if not (types.is_nested(field.type) or _is_binary(field.type))]


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What `datasets` says of the columns, by name."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = info["info"]["features"]
        return {name: own for name, own in features.items() if isinstance(own, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _bytes_of(struct: Any) -> Any:
    index = struct.get_field_index("bytes")
    field = struct.field(index) if index >= 0 else None
    return field if field is not None and _is_binary(field.type) else None


def _is_binary(kind: Any) -> bool:
    types = import_parquet().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_string(kind: Any) -> bool:
    types = import_parquet().types
    return bool(types.is_string(kind) or types.is_large_string(kind))


# Images


def member(column: str, row: int) -> str:
    """Give what stands behind a table's path in the name of an image; names sort as rows do."""
    return f"{column}/{row:08d}"


class Part(NamedTuple):
    """What a name says that leads into a table; a row of None stands for all of the column."""

    table: str
    column: str
    row: int | None


def parted(name: str) -> Part | None:
    """Take the name of an image in a table apart, or of a column of images; None if it is no such name."""
    match = _PART.fullmatch(name)
    return Part(match[1], match[2], int(match[3]) if match[3] else None) if match else None


def read_row(record: ImageRecord, address: str | None = None) -> bytes:
    """Read the encoded image of a record whose container is a table; `address` is its URL with credentials.

    Raises
    ------
    OSError, UnreadableImageError
        Why it cannot be read.
    MissingExtraError
        If pyarrow is not installed.
    """
    place, column = record.container or "", record.file[len(record.container or "") + 1 :].rpartition("/")[0]
    version: tuple[int, ...] = (record.inode,)
    if not remote.is_remote(place):
        status = os.stat(place)
        version = status.st_mtime_ns, status.st_ino, status.st_size
    with _LOCK:  # of two threads that come at once, each would have a table of its own
        table = _table(os.getpid(), address or place, column, version)
    data = table.read(record.offset)
    check_bytes(len(data))
    return data


@lru_cache(maxsize=_OPEN)
def _table(process: int, address: str, column: str, version: tuple[int, ...]) -> _Table:
    return _Table(address, column)


class _Block(NamedTuple):
    """Images of rows that follow each other; `left` are those that nobody has asked for yet."""

    start: int
    values: Any
    left: set[int]


class _Table:
    """The images in a column, for threads that ask for rows in about their order.

    Of what is asked for in that order every row group is read once, whatever its size.
    """

    def __init__(self, address: str, column: str) -> None:
        self._address, self._column = address, column
        self._lock = threading.Lock()
        self._file: Any = None
        self._starts: list[int] = []
        self._batches: Iterator[Any] | None = None
        self._group = self._next = 0
        self._blocks: list[_Block] = []
        # By row group, the first row that cannot be read, and why.
        self._broken: dict[int, tuple[int, str]] = {}

    def read(self, row: int) -> bytes:
        """Give the image of a row; errors as of `read_row`."""
        with self._lock:
            block = self._block(row)
            block.left.discard(row)
            if not block.left:
                self._blocks.remove(block)
        data: bytes | None = block.values[row - block.start].as_py()
        if not data:
            what = "is empty" if data is not None else "holds no bytes of a photo (a null, or only the path of a file)"
            raise UnreadableImageError(f"its row {what}", fix="write the table again with the photos in it")
        return data

    def _block(self, row: int) -> _Block:
        for block in self._blocks:
            if 0 <= row - block.start < len(block.values):
                return block
        if self._file is None:
            self._open()
        if row >= self._starts[-1]:
            raise UnreadableImageError(f"its table has {self._starts[-1]} rows now, and no row {row + 1}")
        group = bisect_right(self._starts, row) - 1
        if group in self._broken and row >= self._broken[group][0]:
            raise UnreadableImageError(self._broken[group][1])
        near = self._batches is not None and 0 <= row - self._next <= _KEPT_ROWS
        while near and self._batches is not None and self._next < self._starts[group]:
            with suppress(UnreadableImageError):  # threads that are behind will ask for these
                self._take()
        if not near or self._batches is None:
            self._begin(group)
        while self._next <= row:
            self._take()
        return self._blocks[-1]

    def _begin(self, group: int) -> None:
        self._batches, self._group, self._next = self._of_group(group), group, self._starts[group]

    def _take(self) -> None:
        """Take the next block, of the row group or of the one behind it."""
        pa = import_parquet()
        while self._next == self._starts[self._group + 1]:
            self._begin(self._group + 1)
        try:
            batch = next(self._batches or iter(()))
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._batches = None
            if isinstance(error, OSError) and error.errno is not None:  # the system's word, not Arrow's
                raise
            reason = f"its table is damaged here: {first_line(error) or 'rows are missing'}"
            self._broken[self._group] = self._next, reason
            raise UnreadableImageError(reason, fix="write or download the table again") from error
        except UnreadableImageError:
            self._batches = None
            raise
        values = batch.column(0)
        if pa.types.is_struct(values.type):
            values = values.flatten()[0]
        self._blocks.append(_Block(self._next, values, set(range(self._next, self._next + len(values)))))
        self._next += len(values)
        self._forget()

    def _forget(self) -> None:
        rows, size = (
            sum(len(block.left) for block in self._blocks),
            sum(block.values.nbytes for block in self._blocks),
        )
        while len(self._blocks) > 1 and size > _KEPT_BYTES and (rows > _KEPT_ROWS or size > _MOST_BYTES):
            oldest = self._blocks.pop(0)
            rows, size = rows - len(oldest.left), size - oldest.values.nbytes

    def _of_group(self, group: int) -> Iterator[Any]:
        about = self._file.metadata.row_group(group)
        rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES * about.num_rows // max(1, about.total_byte_size)))
        batches: Iterator[Any] = self._file.iter_batches(
            rows, row_groups=[group], columns=[self._leaf], use_threads=False
        )
        return batches

    def _open(self) -> None:
        pa = import_parquet()
        try:
            file = _parquet_file(pa, _source(self._address, None)[0])
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's word, not Arrow's
                raise
            raise UnreadableImageError(f"its table is damaged: {first_line(error)}") from error
        index = file.schema_arrow.get_field_index(self._column)
        if index < 0:
            raise UnreadableImageError(f"its table has no column {self._column!r} any more")
        self._leaf = (
            f"{self._column}.bytes" if pa.types.is_struct(file.schema_arrow.field(index).type) else self._column
        )
        self._starts = [0]
        for group in range(file.num_row_groups):
            self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)
        self._file = file
