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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hybrid.errors import DataError, UnreadableImageError, listing
from hybrid.images import remote
from hybrid.images.naming import (
    LABEL_NAMES,
    Found,
    as_label,
    clean_label,
    is_image_name,
    is_text,
    plural,
    split_in,
)
from hybrid.images.records import ImageRecord, Stamp
from hybrid.images.stream import ordered_map

COMPRESSED_ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
# In order of their right to name the class.
_LABEL_ENDINGS = ("cls", "json", "txt")
# WebDataset's rule: a sample's key ends at the first dot of the base name.
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
# Shards at URLs that are listed at once: a listing is one small request after the other.
_AT_ONCE = 16
# The metadata of one sample; a label is refused by its size before it is read.
_LARGEST_TEXT = 2**20


@dataclass
class _Shard:
    """What one shard holds.

    Attributes
    ----------
    images : list of TarInfo
    texts : dict of str to dict of str to str
        What may be a label, by the member's name without its ending, then by that ending.
    captions : dict of str to str
        What a ``.json`` calls a caption, by its name without ending.
    broken : dict of str to str
        Reasons by the names of labels that cannot be read, without ending.
    """

    images: list[tarfile.TarInfo] = field(default_factory=list)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    stamp: Stamp = field(default_factory=Stamp)
    not_text: int = 0


def read_shards(splits: Mapping[str, str | None], source: str, *, labeled: bool, address: str | None = None) -> Found:
    """Read the images of uncompressed tar shards, in order.

    Members with the same key form a sample: images, and a label in ``.cls``, ``.json`` (a field such as "label") or
    ``.txt``. The key is the name up to the ending, or up to the first dot of the base name, as WebDataset has it.
    Where the texts in ``.txt`` are captions, one for each image, they are no labels.

    Parameters
    ----------
    splits : mapping of str to (str or None)
        Absolute paths or URLs of the tar files; the split of each where its own file name does not say one.
    source : str
        What the user gave to reach these shards, kept in the records.
    labeled : bool
        Whether labels are read.
    address : str, optional
        Of a single shard, the URL with the credentials in it.

    Raises
    ------
    DataError
        If there is one shard, and it is compressed or broken. Of several, those are named in `Found.unread`.
    """
    found = Found()
    shards: dict[str, _Shard] = {}
    open_shard = partial(_shard_or_error, labeled=labeled, address=address)
    threads = _AT_ONCE if remote.is_remote(source) else 1
    for path, shard in zip(splits, ordered_map(open_shard, splits, threads, threads), strict=True):
        if isinstance(shard, _Shard):
            shards[path] = shard
        elif len(splits) == 1:
            raise shard
        else:
            found.unread.append((path, shard.what if shard.got is None else f"{shard.what}: {shard.got}"))
    captions = _are_captions(shards.values())
    if captions:
        count = sum("txt" in texts for shard in shards.values() for texts in shard.texts.values())
        found.notes.append(
            f"WARNING: {source}: {plural(count, '.txt file')} in it taken for captions, because each photo has another "
            'text, and not for labels; a class belongs into KEY.cls, or into KEY.json as {"label": "zebra"}'
        )
    for path, shard in shards.items():
        _add_records(path, shard, source, split_in(os.path.basename(path)) or splits[path], found, captions=captions)
    if address is not None and address != source:
        found.records = [remote.with_address(record, address) for record in found.records]
    if labeled and found.records and not any(record.label for record in found.records):
        found.notes.append(f"{source}: no labels in it (KEY.cls, KEY.txt, or a field label in KEY.json)")
    return found


def _shard_or_error(path: str, *, labeled: bool, address: str | None) -> _Shard | DataError:
    try:
        return _open_shard(path, address or path, labeled=labeled)
    except DataError as error:
        return error


def _open_shard(path: str, address: str, *, labeled: bool) -> _Shard:
    refuse_compressed(path)
    try:
        with ExitStack() as stack:
            file = stack.enter_context(remote.RemoteFile(address)) if remote.is_remote(path) else None
            tar = stack.enter_context(tarfile.open(path, "r:", file, encoding="utf-8"))
            shard = _read_members(tar, labeled=labeled)
            shard.stamp = file.stamp if file else Stamp.of(Path(path).stat())
            _check_end(tar)
    except UnreadableImageError as error:
        raise DataError(f"The shard {path} cannot be read", got=error.what, fix=error.fix) from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(
            f"The shard {path} is broken: {error}", expected="an uncompressed tar file", fix="write it again"
        ) from error
    except OSError as error:
        raise DataError(
            f"The shard {path} cannot be read",
            expected="an uncompressed tar file",
            got=error.strerror or str(error),
            fix="write it again, or check the disk and the permissions",
        ) from error
    return shard


def _add_records(path: str, shard: _Shard, source: str, split: str | None, found: Found, *, captions: bool) -> None:
    """Give each image of a shard its label, and name those whose label cannot be read."""
    owners: set[str] = set()
    for member in shard.images:
        keys = _keys(member.name)
        owners.update(keys)
        place = f"{path}/{member.name.removeprefix('./')}"
        if reasons := [shard.broken[key] for key in keys if key in shard.broken]:
            found.unread.append((place, reasons[0]))
            continue
        texts = {kind: text for key in reversed(keys) for kind, text in shard.texts.get(key, {}).items()}
        label = _label(texts, captions=captions)
        own = shard.stamp._replace(size=member.size)._asdict()
        found.records.append(ImageRecord(place, source, label, split, container=path, offset=member.offset_data, **own))
    if shard.not_text:
        found.notes.append(f"{path}: {plural(shard.not_text, 'name')} in it not valid UTF-8, left out")
    if loose := [f"{name}.{next(iter(shard.texts[name]))}" for name in shard.texts if name not in owners]:
        found.notes.append(
            f"WARNING: {path}: {plural(len(loose), 'text')} in it not taken for a label, because no photo has the same "
            f"key: {listing(loose, 2)} (expected KEY.cls, KEY.txt or KEY.json beside KEY.jpg)"
        )


def _keys(name: str) -> tuple[str, str]:
    """The keys of a member: its name without its ending, and WebDataset's, up to the first dot of the base name."""
    match = _KEY.fullmatch(name)
    return name.rpartition(".")[0], match[1] if match else name


def _are_captions(shards: Iterable[_Shard]) -> bool:
    """Whether the ``.txt`` of these shards are captions: their ``.json`` say so, or it is a sentence for each image."""
    known = total = words = 0
    different = set()
    for shard in shards:
        for name, texts in shard.texts.items():
            if text := texts.get("txt"):
                total += 1
                known += clean_label(shard.captions.get(name)) == text
                words += len(text.split())
                different.add(text)
    # Classes come again, and have few words.
    if total <= 20 and 2 * known <= total:
        return total > 2 and len(different) == total and words >= 3 * total
    return 2 * known > total or len(different) > 0.8 * total or (len(different) > 0.5 * total and words > 5 * total)


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
    for end in expand_braces(rest):
        path = folder + end
        matches = _remote_matches(path) if remote.is_remote(path) else _matches(path, folder)
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


def _matches(path: str, folder: str) -> list[str]:
    return [path] if os.path.exists(path) else sorted(glob.glob(glob.escape(folder) + path[len(folder) :]))


def _remote_matches(url: str) -> list[str]:
    if "*" in url:
        return list(remote.glob(url))
    remote.begin([url])
    (entry,) = remote.entries([url])
    # What cannot be looked at may be there: to read it says why not.
    return [] if isinstance(entry, remote.AbsentError) else [url]


def is_shard_pattern(path: str) -> bool:
    """Tell whether a path is a pattern of shards: it ends in ``.tar`` and has braces or wildcards."""
    rest = _existing_part(path)[1]
    return rest.endswith(".tar") and (_BRACES.search(rest) is not None or glob.has_magic(rest))


def _existing_part(path: str) -> tuple[str, str]:
    """Cut a path after its last folder that exists: braces and brackets up to there are plain names."""
    if remote.is_remote(path):
        return "", path
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder, path[len(folder) :]


def expand_braces(pattern: str) -> Iterator[str]:
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


def _read_members(tar: tarfile.TarFile, *, labeled: bool) -> _Shard:
    shard = _Shard()
    for member in tar:
        # A sparse member's bytes do not lie in one piece, so that no offset and size could name them.
        if _KEY.fullmatch(member.name) is None or not member.isreg() or member.sparse is not None:
            continue
        name, _, kind = member.name.rpartition(".")
        if is_image_name(member.name):
            if is_text(member.name):
                shard.images.append(member)
            else:
                shard.not_text += 1
        elif labeled and kind.lower() in _LABEL_ENDINGS:
            try:
                _read_text(tar, member, kind.lower(), shard)
            except DataError as error:
                shard.broken[name] = error.what
    return shard


def _read_text(tar: tarfile.TarFile, member: tarfile.TarInfo, kind: str, shard: _Shard) -> None:
    """Add what may be a label to `shard`; DataError where it cannot be read."""
    name = member.name.rpartition(".")[0]
    if member.size > _LARGEST_TEXT:
        raise DataError(
            f"its label {member.name} is too large: {member.size / 2**20:,.0f} MiB",
            fix="write the label as a short text",
        )
    file = tar.extractfile(member)
    try:
        text = file.read().decode("utf-8-sig") if file else ""
        content = json.loads(text) if kind == "json" else None
    except RecursionError as error:
        raise DataError(f"its label {member.name} is nested too deep", fix="write the label as a short text") from error
    except ValueError as error:
        raise DataError(
            f"its label {member.name} is not UTF-8 or not JSON: {error}",
            fix="write this file of the shard again, as UTF-8",
        ) from error
    if isinstance(content, dict):
        shard.captions[name] = str(content.get("caption") or "").strip()
        value = next((content[key] for key in LABEL_NAMES if content.get(key) is not None), None)
        text = as_label(value, member.name) or ""
    elif kind == "json":
        text = ""
    if label := clean_label(text):
        shard.texts.setdefault(name, {})[kind] = label


def _label(texts: dict[str, str], *, captions: bool) -> str | None:
    """Choose a label: ``.cls`` before ``.json`` before ``.txt``, but a name before a class number."""
    given = [texts[kind] for kind in _LABEL_ENDINGS if kind in texts and not (captions and kind == "txt")]
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
