"""Photos of the store by content: the index holds one vector for all copies of a photo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hybrid.images.records import ImageRecord
from hybrid.index.store import StoredPhoto


def by_content(photos: Iterable[StoredPhoto]) -> dict[str, list[ImageRecord]]:
    """Group photos by the sha256 of their bytes, both in the order in which they come."""
    grouped: dict[str, list[ImageRecord]] = {}
    for photo in photos:
        grouped.setdefault(photo.sha256, []).append(photo.record)
    return grouped


def joined_label(records: Sequence[ImageRecord]) -> str | None:
    """The label of copies of one photo: several are joined by " / "; None where none has any."""
    labels = {record.label for record in records if record.label is not None}
    return " / ".join(sorted(labels)) or None
