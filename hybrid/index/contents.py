"""Images of the store by content: the index holds one vector for all copies of an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hybrid.images.records import ImageRecord
from hybrid.index.store import StoredImage


def by_content(images: Iterable[StoredImage]) -> dict[str, list[ImageRecord]]:
    """Group images by the sha256 of their bytes, both in the order in which they come."""
    grouped: dict[str, list[ImageRecord]] = {}
    for image in images:
        grouped.setdefault(image.sha256, []).append(image.record)
    return grouped


def joined_label(records: Sequence[ImageRecord]) -> str | None:
    """The label of copies of one image: several are joined by " / "; None where none has any."""
    labels = {record.label for record in records if record.label is not None}
    return " / ".join(sorted(labels)) or None
