"""What the name of a file or folder says: is it an image, which split, and how a label is spelled."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hybrid.errors import DataError
from hybrid.images.records import ImageRecord


@dataclass
class Found:
    """What one source yields.

    Attributes
    ----------
    records : list of ImageRecord
    notes : list of str
        What was left out or looks odd, for people.
    unread : list of (path, reason)
        Files, folders and shards that could not be read or listed: of what lies there, nothing is known.
    hollow : list of str
        Absolute paths of folders that were listed and hold no image.
    later : iterator of ImageRecord or None
        The images, if they are too many to be in `records`.
    """

    records: list[ImageRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)
    hollow: list[str] = field(default_factory=list)
    later: Iterator[ImageRecord] | None = None

    def add(self, other: Found) -> None:
        """Take in what another part of the source yields."""
        self.records += other.records
        self.notes += other.notes
        self.unread += other.unread
        self.hollow += other.hollow


IMAGE_ENDINGS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "heic", "heif", "avif")
IMAGE_ENDINGS_TEXT = " ".join(f".{name}" for name in IMAGE_ENDINGS)
_SPLIT_NAMES = {
    "train": ("train", "training", "trn", "trainset", "traindata"),
    "val": ("val", "valid", "validation", "dev", "devel", "valset", "devset"),
    # Data to score a finished model with, as Hugging Face's datasets reads these names: they never train.
    "test": ("test", "testing", "tst", "eval", "evaluation", "testset", "testdata"),
}
_SPLITS = {name: split for split, names in _SPLIT_NAMES.items() for name in names}
LABEL_NAMES = ("label", "labels", "class", "class_name", "classname", "category", "species", "target")
"""Columns of a table, and fields of a sample's JSON, that hold the label; the first that there is counts."""
PATH_NAMES = (
    "path",
    "filepath",
    "file_path",
    "image_path",
    "img_path",
    "filename",
    "file_name",
    "file",
    "image",
    "img",
    "photo",
    "url",
    "image_url",
)
"""Columns of a table that hold paths of images; the first that there is counts."""
_UNLABELED = {"unlabeled", "unlabelled", "unsorted", "unannotated", "unsup"}
# Words that may stand beside the one that says the split: training_set, seg_test, val2017, "Test images".
_BESIDE_SPLIT = {
    "set",
    "data",
    "dataset",
    "split",
    "image",
    "images",
    "img",
    "imgs",
    "photo",
    "photos",
    "pictures",
    "seg",
}
_JUNK = {
    "@eadir",
    "@recycle",
    "@tmp",
    "#recycle",
    "#snapshot",
    "__macosx",
    "__pycache__",
    "$recycle.bin",
    "recycler",
    "lost+found",
    "system volume information",
    "found.000",
    "thumbs.db",
    "desktop.ini",
}


def ending(name: str) -> str:
    """Give the text after the last dot of a file name in lower case, ``""`` where there is none."""
    # Nor by PurePath, which takes longer than all else that is done for an unchanged image.
    if "/" in name or os.sep in name or name.startswith("."):
        return os.path.splitext(name)[1][1:].lower()  # noqa: PTH122
    return name.rpartition(".")[2].lower() if "." in name else ""


def is_image_name(name: str) -> bool:
    """Tell whether a file name has one of the endings that are read as images."""
    return ending(name) in IMAGE_ENDINGS


def split_of(name: str) -> str | None:
    """Give the split that a whole name stands for (``"Valid"`` -> ``"val"``), None where it is not a split."""
    return _SPLITS.get(name.strip().lower())


def split_of_folder(name: str) -> str | None:
    """Give the split that a folder is named after, as `split_of`; ``training_set`` and ``val2017`` are, too."""
    words = [word for word in _words(name) if word not in _BESIDE_SPLIT]
    return _SPLITS.get(words[0]) if len(words) == 1 else None


def is_unlabeled_folder(name: str) -> bool:
    """Tell whether a folder's name says that its images have no label."""
    words = [word for word in _words(name) if word not in _BESIDE_SPLIT]
    return len(words) == 1 and words[0] in _UNLABELED


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.lower())


def is_junk(name: str) -> bool:
    """Tell whether a file or folder is hidden, or one that a system keeps for itself (``@eaDir``, ``Thumbs.db``)."""
    return name.startswith(".") or name.lower() in _JUNK


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


def as_label(value: object, where: str) -> str | None:
    """Give the label that a value of a table or of JSON stands for: whole numbers without ``.0``, None if it is empty.

    Raises
    ------
    DataError
        If it is no name: a list, a mapping, bytes that are not UTF-8, or not a number.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            value = [value]
    if (isinstance(value, Mapping | Sequence) and not isinstance(value, str)) or _is_nan(value):
        raise DataError(
            f"the label in {where} is not a name",
            expected='a text, as in {"label": "zebra"}',
            got=repr(value)[:80],
            fix="write the class's name there, or leave the key out",
        )
    return None if value is None else clean_label(str(value))


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def is_text(name: str) -> bool:
    """Tell whether a name is valid Unicode; on Linux a name need not be, and tables cannot hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def count_endings(names: Iterable[str]) -> str:
    """Count names by their ending, the most frequent first: ``"10 .txt, 2 .json, 1 without ending"``."""
    return name_endings(Counter(ending(name) for name in names))


def name_endings(counts: Mapping[str, int]) -> str:
    """Write counts of endings, as `count_endings` does."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} .{end}" if end else f"{count} without ending" for end, count in ranked)


def plural(count: int, thing: str) -> str:
    """Write a count with its noun: ``"1 image"``, ``"2 images"``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
