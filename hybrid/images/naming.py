"""What the name of a file or folder says: is it an image, which split, and how a label is spelled."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from hybrid.images.records import ImageRecord

Found = tuple[list[ImageRecord], list[str]]
"""What one source yields: its records, and notes on what was left out or looks odd."""

IMAGE_ENDINGS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "heic", "heif", "avif")
IMAGE_ENDINGS_TEXT = " ".join(f".{name}" for name in IMAGE_ENDINGS)
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def ending(name: str) -> str:
    """Give the text after the last dot of a file name in lower case, ``""`` where there is none."""
    # Not by PurePath, which takes longer than all else that is done for an unchanged image.
    return os.path.splitext(name)[1][1:].lower()  # noqa: PTH122


def is_image_name(name: str) -> bool:
    """Tell whether a file name has one of the endings that are read as images."""
    return ending(name) in IMAGE_ENDINGS


def split_of(name: str) -> str | None:
    """Give the split that a whole name stands for (``"Valid"`` -> ``"val"``), None where it is not a split."""
    return _SPLITS.get(name.strip().lower())


def split_in(name: str) -> str | None:
    """Give the split named by a word within a file name (``cifar10-train-000.tar`` -> ``"train"``).

    None where no word is a split, or where two different ones are (``train-val-000.tar``).
    """
    splits = {split for word in re.split(r"[^a-z0-9]+", name.lower()) if (split := split_of(word))}
    return splits.pop() if len(splits) == 1 else None


def clean_label(text: str | None) -> str | None:
    """Give a label as it is kept: without surrounding whitespace, in Unicode NFC, None where it is empty.

    NFC, because one system writes an umlaut as one character and the next as two: both are one class.
    """
    return unicodedata.normalize("NFC", text.strip()) or None if text else None


def is_text(name: str) -> bool:
    """Tell whether a name is valid Unicode; on Linux a name need not be, and tables cannot hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def count_endings(names: Iterable[str]) -> str:
    """Count names by their ending, the most frequent first: ``"10 .txt, 2 .json, 1 without ending"``."""
    counts = Counter(ending(name) for name in names)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} .{end}" if end else f"{count} without ending" for end, count in ranked)


def plural(count: int, thing: str) -> str:
    """Write a count with its noun: ``"1 image"``, ``"2 images"``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
