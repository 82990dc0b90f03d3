"""Images that are to show a class: read, compared with the index, given their label, embedded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import DataError, listing
from hybrid.heads.training.dataset import HELD_BACK
from hybrid.images.inputs import MemoryRecord
from hybrid.images.naming import plural
from hybrid.images.pipeline import ReadImage, read_each
from hybrid.images.records import BytesRecord, ImageRecord
from hybrid.index.build import embedded_batches
from hybrid.index.given import GivenLabel, now, user
from hybrid.index.store import StoredImage, added_source, path_by_content
from hybrid.labels.names import NONE, class_key
from hybrid.run.classes.pending import PendingIndex

Unreadable = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class JoiningImages:
    """Images as they will join the index, each path once; those that cannot be read; what to tell of them."""

    images: tuple[StoredImage, ...]
    unreadable: Unreadable
    notes: tuple[str, ...]


def check_images(index: PendingIndex, name: str, records: Sequence[ImageRecord], workers: int | None) -> JoiningImages:
    """Give images the label `name`, as they may join `index`.

    An image that the index already holds under this label stays as it is there; one that it holds without a label
    stays its source's.

    Raises
    ------
    DataError
        If the index has another label for an image, by its path or by its bytes.
    """
    reads = list(read_each(records, None, workers=workers))
    unreadable = {read.record.path: read.reason for read in reads if read.reason}
    readable = [(read, _labeled(read, name)) for read in reads if not read.reason]
    by_path = {image.record.path: image for image in index.images_at([joined.path for _, joined in readable])}
    by_content: dict[str, list[StoredImage]] = {}
    for image in index.images_with([read.sha256 for read, _ in readable]):
        by_content.setdefault(image.sha256, []).append(image)
    joining: dict[str, StoredImage] = {}
    foreign: list[str] = []
    tests: set[str] = set()
    copies: set[str] = set()
    for read, joined in readable:
        there = by_path.get(joined.path)
        same = there if there is not None and there.sha256 == read.sha256 else None
        twins = by_content.get(read.sha256, [])
        foreign += _foreign(read.record.path, name, there, twins)
        if there is not None and there.record.label is not None:
            was = there.record
            joined = dataclasses.replace(joined, source=was.source, label=was.label, split=was.split)
        elif same is not None:
            # A label beside what its source says, so that the image is as before when the class leaves.
            same = same.labeled(GivenLabel(0, read.sha256, name, None, user(), now(), "add-class"))
            joined = same.record
        # A label that a person gave stays beside what the source says.
        joining[joined.path] = dataclasses.replace(same or StoredImage(joined, read.sha256), record=joined)
        if joined.split in HELD_BACK:
            tests.add(joined.path)
        elif any(twin.record.split in HELD_BACK for twin in twins):
            copies.add(joined.path)
    if foreign:
        raise DataError(
            f"{plural(len(foreign), 'photo')} cannot show {name}: the index has another label",
            got=listing(foreign, 3),
            fix="leave them out, or correct the label there first "
            f"(hybrid label PHOTO --as {name!r}, hybrid build-index, hybrid remove-class OTHER)",
        )
    notes = []
    if tests:
        notes.append(f"{len(tests)} of the photos are in the index's split test: they stay there and show nothing")
    if copies:
        text = "also in the index's split test, byte for byte: figures of that split will flatter"
        notes.append(f"{len(copies)} of the photos are {text}")
    return JoiningImages(tuple(joining.values()), tuple(unreadable.items()), tuple(notes))


def embed_images(
    encoder: Encoder, images: Sequence[StoredImage], batch_size: int | None, workers: int | None
) -> tuple[dict[str, FloatArray], Unreadable]:
    """Embed the contents of images, each once.

    Returns
    -------
    vectors : dict of content hash to (dim,) float32
    unreadable : tuple of (path, reason)
    """
    records = list({image.sha256: image.record for image in reversed(images)}.values())[::-1]
    vectors: dict[str, FloatArray] = {}
    unreadable: list[tuple[str, str]] = []
    for batch in embedded_batches(records, encoder, (), batch_size, workers=workers):
        vectors |= batch.contents
        unreadable += batch.unreadable
    return vectors, tuple(unreadable)


def _labeled(read: ReadImage, name: str) -> ImageRecord:
    """The image under its class's label; one in memory gets a name by its content, so that it is there once."""
    record = dataclasses.replace(read.record, source=added_source(name), label=name, split=None)
    if isinstance(record, MemoryRecord | BytesRecord):
        return dataclasses.replace(record, path=path_by_content(name, read.sha256), size=read.size)
    return record


def _foreign(path: str, name: str, there: StoredImage | None, twins: Sequence[StoredImage]) -> list[str]:
    """Say which other class the index has for an image, if any."""
    for image in (*([there] if there else []), *twins):
        label = NONE if image.is_negative else image.record.label
        if label is not None and class_key(label) != class_key(name):
            same = "" if image is there else f"the bytes of {image.record.path}, "
            return [f"{path} has {same}label {label!r}"]
    return []
