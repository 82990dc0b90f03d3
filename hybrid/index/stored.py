"""Images as the store knows them: `ImageRow` and `StoredImage`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from hybrid.images.records import ImageRecord
from hybrid.index.database import damaged
from hybrid.index.given import GivenLabel
from hybrid.labels.names import NONE


class ImageRow(NamedTuple):
    """A row of the table ``photos``: an `ImageRecord` and the sha256, as cheap as the tuple that SQLite gives.

    When and where the image was taken stands in another table; `EmbeddingStore.captures` has it.
    """

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

    def given(self, given: GivenLabel | None) -> ImageRow:
        """The row with the label that a person gave, if any: what no reader of classes may see is no label."""
        if given is None:
            return self
        split = "train" if _trains_only(given, self.label, self.split) else self.split
        return self._replace(label=None if given.label == NONE else given.label, split=split)


_record_fields = attrgetter(*ImageRow._fields[:-1])
_NONE = type(None)
_TYPES = set(product([str], [str], [str, _NONE], [str, _NONE], [int], [int], [str, _NONE], [int], [int], [int], [str]))


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as the store knows it.

    Attributes
    ----------
    record : ImageRecord
        With the label in force.
    sha256 : str
        Of its bytes.
    given : GivenLabel or None
        The label that a person gave, which is in force.
    said : (label, split) or None
        What the source says, where a person gave the label.
    """

    record: ImageRecord
    sha256: str
    given: GivenLabel | None = field(default=None, compare=False)
    said: tuple[str | None, str | None] | None = field(default=None, compare=False)

    @property
    def sequence(self) -> str | None:
        """See `hybrid.images.captures.Capture`."""
        return self.record.sequence

    @property
    def row(self) -> ImageRow:
        """The same as an `ImageRow`, which does not say when and where the image was taken."""
        return ImageRow._make((*_record_fields(self.record), self.sha256))

    @property
    def source_label(self) -> str | None:
        """What the source says."""
        return self.record.label if self.said is None else self.said[0]

    @property
    def trains_only(self) -> bool:
        """Whether the image may train and support, and never be held out.

        It had no label and a person looked at it because it was doubtful: images like it are no sample of all.
        """
        return self.given is not None and _trains_only(self.given, self.source_label, self.record.split)

    @property
    def is_negative(self) -> bool:
        """Whether a person said that it shows none of the classes."""
        return self.given is not None and self.given.label == NONE

    def labeled(self, given: GivenLabel) -> StoredImage:
        """The same with a label that a person gives, in the place of one before."""
        before = self.as_its_source_says().row
        after = before.given(given)
        record = replace(self.record, label=after.label, split=after.split)
        return StoredImage(record, self.sha256, given, (before.label, before.split))

    def as_its_source_says(self) -> StoredImage:
        """The same without the label that a person gave."""
        if self.given is None:
            return self
        label, split = self.said or (self.record.label, self.record.split)
        return StoredImage(replace(self.record, label=label, split=split), self.sha256)


def _trains_only(given: GivenLabel, source_label: str | None, split: str | None) -> bool:
    return given.is_chosen and source_label is None and split != "test"


def typed_row(values: Sequence[Any], path: Path) -> ImageRow:
    """Take a row of a store without digests; StoreError, naming the store's `path`, if it is none that was written."""
    if tuple(map(type, values)) not in _TYPES:
        raise damaged(path, f"the row of {values[0]!r} is not what was written")
    return ImageRow._make(values)
