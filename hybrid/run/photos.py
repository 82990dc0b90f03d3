"""Images that came without a file, kept in the run by their content, so that later trainings can read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hybrid.files import atomic_write
from hybrid.images.inputs import MemoryRecord
from hybrid.images.records import BytesRecord, ImageRecord, Stamp
from hybrid.index.store import StoredImage

# Where each format says what it is, how it begins there, and what its files are called.
_ENDINGS = (
    (0, (b"\xff\xd8",), "jpg"),
    (0, (b"\x89PNG",), "png"),
    (0, (b"BM",), "bmp"),
    (0, (b"GIF8",), "gif"),
    (0, (b"II*\0", b"MM\0*"), "tif"),
    (8, (b"WEBP",), "webp"),
    (8, (b"avif", b"avis"), "avif"),
    (8, (b"heic", b"heix", b"mif1"), "heic"),
)


def has_no_file(record: ImageRecord) -> bool:
    """Whether an image lies in memory alone."""
    return isinstance(record, BytesRecord | MemoryRecord)


def keep(image: StoredImage, folder: Path) -> StoredImage:
    """Write the bytes of an image to ``SHA256.EXT`` in `folder`, as they are, and give the image as that file."""
    data = image.record.read_bytes()
    ending = next((end for at, starts, end in _ENDINGS if data[at:].startswith(starts)), "img")
    file = folder.absolute() / f"{image.sha256}.{ending}"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_bytes(data)
    old, stamp = image.record, Stamp.of(file.stat())._asdict()
    return replace(image, record=ImageRecord(str(file), old.source, old.label, old.split, **stamp))
