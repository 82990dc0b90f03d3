"""Images as the store knows them: `ImageRow` and `StoredImage`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from hybrid.images.records import ImageRecord
from hybrid.index.database import damaged


class ImageRow(NamedTuple):
    """A row of the table ``photos``: an `ImageRecord` and the sha256, as cheap as the tuple that SQLite gives."""

    path: str
    source: str
    label: str | None
    split: str | None
    size: int
    mtime_ns: int
    container: str | None
    offset: int
    ctime_ns: int
    inode: int
    sha256: str

    @property
    def image(self) -> StoredImage:
        """The same as a `StoredImage`."""
        return StoredImage(ImageRecord(*self[:-1]), self.sha256)


_record_fields = attrgetter(*ImageRow._fields[:-1])
_NONE = type(None)
_TYPES = set(product([str], [str], [str, _NONE], [str, _NONE], [int], [int], [str, _NONE], [int], [int], [int], [str]))


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as the store knows it: its record and the sha256 of its bytes."""

    record: ImageRecord
    sha256: str

    @property
    def row(self) -> ImageRow:
        """The same as an `ImageRow`."""
        return ImageRow._make((*_record_fields(self.record), self.sha256))


def typed_row(values: Sequence[Any], path: Path) -> ImageRow:
    """Take a row of a store without digests; StoreError, naming the store's `path`, if it is none that was written."""
    if tuple(map(type, values)) not in _TYPES:
        raise damaged(path, f"the row of {values[0]!r} is not what was written")
    return ImageRow._make(values)
