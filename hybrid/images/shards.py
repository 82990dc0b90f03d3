"""WebDataset tar shards as sources; images are read in place by their offset, nothing is unpacked."""

# Paths stay str from scandir to record: a Path for each of a million images is slow.
# ruff: noqa: PTH110, PTH112, PTH119, PTH120, PTH207

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.errors import DataError, listing
from hybrid.images.naming import Found, clean_label, is_image_name, is_text, plural, split_in
from hybrid.images.records import ImageRecord

COMPRESSED_ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
# In order of their right to name the class.
_LABEL_ENDINGS = ("cls", "json", "txt")
# WebDataset's rule: a sample's key ends at the first dot of the base name.
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


@dataclass
class _Sample:
    """The members of a shard that share a key."""

    images: list[tarfile.TarInfo] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


def read_shard(shard: str, source: str, *, labeled: bool, split: str | None = None) -> Found:
    """Read the images of one uncompressed tar shard, in its order.

    Parameters
    ----------
    shard : str
        Absolute path of the tar file. Members with the same key (their name up to the first dot of the base
        name) form a sample: images, and a label in ``.cls``, ``.json`` (its field "label") or ``.txt``.
    source : str
        What the user gave to reach this shard, kept in the records.
    labeled : bool
        Whether labels are read.
    split : str or None
        The split where the shard's own file name does not say one.

    Raises
    ------
    DataError
        If the shard is compressed or broken, or a label in it cannot be read.
    """
    refuse_compressed(shard)
    notes: list[str] = []
    try:
        mtime_ns = Path(shard).stat().st_mtime_ns
        with tarfile.open(shard, "r:", encoding="utf-8") as tar:
            samples = _read_samples(tar, shard, notes, labeled=labeled)
            _check_end(tar)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(
            f"The shard {shard} is broken: {error}", expected="an uncompressed tar file", fix="write it again"
        ) from error
    except OSError as error:
        raise DataError(f"The shard {shard} cannot be read: {error.strerror}") from error
    split = split_in(os.path.basename(shard)) or split
    records = []
    for sample in samples:
        label = _label(sample.texts)
        for member in sample.images:
            path = f"{shard}/{member.name.removeprefix('./')}"
            records.append(ImageRecord(path, source, label, split, member.size, mtime_ns, shard, member.offset_data))
    return records, notes


def refuse_compressed(path: str) -> None:
    """Raise a DataError for a compressed tar: its images have no offset at which they could be read."""
    if path.lower().endswith(COMPRESSED_ENDINGS):
        raise DataError(
            f"The shard {path} is compressed",
            expected="an uncompressed .tar, in which photos are read in place (JPEGs hardly shrink anyway)",
            fix=f"gunzip '{path}'  (or bunzip2, unxz, unzstd), then give the .tar",
        )


def expand_shards(pattern: str) -> list[str]:
    """Give the shards that a pattern stands for, in its order, wildcards sorted.

    Parameters
    ----------
    pattern : str
        A path with braces (``train-{000..003}.tar``, ``{a,b}.tar``) or wildcards (``train-*.tar``).

    Raises
    ------
    DataError
        If a shard named by braces is missing, or a wildcard matches nothing.
    """
    shards, missing = [], []
    folder, rest = _existing_part(pattern)
    for end in _expand_braces(rest):
        path = folder + end
        matches = [path] if os.path.exists(path) else sorted(glob.glob(glob.escape(folder) + end))
        shards += matches
        if not matches:
            missing.append(path)
    if missing:
        raise DataError(
            f"The pattern {pattern} names shards that do not exist",
            expected="a file for each of them",
            got=f"nothing at {listing(missing, limit=5)}",
            fix="correct the range or the folder",
        )
    return list(dict.fromkeys(shards))


def is_shard_pattern(path: str) -> bool:
    """Tell whether a path is a pattern of shards: it ends in ``.tar`` and has braces or wildcards."""
    rest = _existing_part(path)[1]
    return rest.endswith(".tar") and (_BRACES.search(rest) is not None or glob.has_magic(rest))


def _existing_part(path: str) -> tuple[str, str]:
    """Cut a path after its last folder that exists: braces and brackets up to there are plain names."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder, path[len(folder) :]


def _expand_braces(pattern: str) -> Iterator[str]:
    """Write out every ``{000..003}`` and ``{a,b}``; a leading zero keeps the width, as in a shell."""
    pieces: list[list[str]] = []
    end = 0
    for match in _BRACES.finditer(pattern):
        pieces.append([pattern[end : match.start()]])
        first, last, words = match.groups()
        if words is not None:
            pieces.append(words.split(","))
        else:
            width = len(first) if first.startswith("0") or last.startswith("0") else 0
            pieces.append([str(number).zfill(width) for number in range(int(first), int(last) + 1)])
        end = match.end()
    pieces.append([pattern[end:]])
    return ("".join(parts) for parts in itertools.product(*pieces))


def _read_samples(tar: tarfile.TarFile, shard: str, notes: list[str], *, labeled: bool) -> list[_Sample]:
    samples: defaultdict[str, _Sample] = defaultdict(_Sample)
    not_text = 0
    for member in tar:
        match = _KEY.fullmatch(member.name)
        # A sparse member's bytes do not lie in one piece, so that no offset and size could name them.
        if match is None or not member.isreg() or member.sparse is not None:
            continue
        key, kind = match[1], match[2].lower()
        if is_image_name(member.name):
            if is_text(member.name):
                samples[key].images.append(member)
            else:
                not_text += 1
        elif labeled and kind in _LABEL_ENDINGS and (text := _read_label(tar, member, kind, shard)):
            samples[key].texts[kind] = text
    if not_text:
        notes.append(f"{shard}: {plural(not_text, 'name')} in it not valid UTF-8, left out")
    return list(samples.values())


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, kind: str, shard: str) -> str | None:
    file = tar.extractfile(member)
    try:
        text = file.read().decode("utf-8-sig") if file else ""
        if kind != "json":
            return clean_label(text)
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"The label {shard}/{member.name} is not UTF-8 or not JSON: {error}") from error
    label = content.get("label") if isinstance(content, dict) else None
    if label is not None and not isinstance(label, str | int):
        raise DataError(
            f"The label in {shard}/{member.name} is not a name",
            expected='a text, as in {"label": "zebra"}',
            got=json.dumps(label)[:80],
        )
    return None if label is None else clean_label(str(label))


def _label(texts: dict[str, str]) -> str | None:
    """Choose a label: ``.cls`` before ``.json`` before ``.txt``, but a name before a class number."""
    given = [texts[kind] for kind in _LABEL_ENDINGS if kind in texts]
    names = [text for text in given if not re.fullmatch(r"-?\d+", text)]
    return next(iter(names + given), None)


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise a ReadError where the listing stopped before the archive's end.

    tarfile takes a damaged header in the middle for the end, and would silently drop the images after it.
    """
    if tar.fileobj is None:
        return
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"damaged or cut off at byte {tar.offset}")
