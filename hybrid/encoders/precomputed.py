"""Embeddings from a file: images are matched by path, prompts by class name."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid.config import EncoderSettings
from hybrid.device import CPU_BATCH
from hybrid.encoders.base import FloatArray, expand_user, fingerprint, unit_norm
from hybrid.errors import EncoderError, HybridError, UnreadableImageError, first_line, listing
from hybrid.files import file_sha256
from hybrid.images.magic import kind_of
from hybrid.images.naming import plural
from hybrid.images.records import ImageRecord
from hybrid.images.remote import is_remote
from hybrid.labels.names import NameTable

if TYPE_CHECKING:
    from hybrid.images.preprocess import AnyImage

ARRAYS = ("path", "embedding", "text", "text_embedding", "logit_scale")
_WRITE_AGAIN = (
    "write it again: numpy.savez(FILE, path=..., embedding=..., text=..., text_embedding=..., logit_scale=...)"
)
SHAPES = "path (n,), embedding (n, dim), text (m,), text_embedding (m, dim) and one logit_scale"


def load(settings: EncoderSettings, device: str) -> PrecomputedEncoder:
    """Load the encoder of ``precomputed:FILE.npz``; there is nothing to compute, so the device does not matter."""
    return PrecomputedEncoder(expand_user(settings.model.partition(":")[2]))


class PrecomputedEncoder:
    """Look vectors up in an ``.npz`` file instead of computing them.

    An image is found by the longest tail of its absolute path that the file's ``path`` array holds, so
    ``/data/caltech101/test/cup/1.jpg`` finds ``test/cup/1.jpg``. Different images must not find the same.

    Parameters
    ----------
    file : Path
        ``.npz`` with the arrays ``path`` (n,) str, ``embedding`` (n, dim), ``text`` (m,) str,
        ``text_embedding`` (m, dim) and ``logit_scale`` (a scalar).

    Raises
    ------
    EncoderError
        If the file is missing, lacks an array, has arrays that do not fit together, or has a path twice.
    """

    uses_templates = False
    min_side: int | None = 1
    batch_size = CPU_BATCH

    def __init__(self, file: Path) -> None:
        arrays = _read(file)
        self.name = f"precomputed:{file}"
        self._file = file
        self._embedding = unit_norm(arrays["embedding"])
        self._row = _rows_by_path(file, arrays["path"].tolist())
        self._text_embedding = unit_norm(arrays["text_embedding"])
        self._texts = NameTable(_names(file, arrays["text"].tolist(), self._text_embedding))
        self.dim = int(self._embedding.shape[1])
        self.logit_scale = float(arrays["logit_scale"].item())
        digest = file_sha256(file)
        self.identity = self.fingerprint = fingerprint({"kind": "precomputed", "file": digest})
        source = f", computed by {arrays['model']}" if "model" in arrays else ""
        self.notes: tuple[str, ...] = (
            f"encoder: vectors from {file}{source}; {len(self._row)} photos, {len(arrays['text'])} names",
        )

    def can_encode(self, names: Sequence[str]) -> list[bool]:
        """Tell of each class name whether the file has a vector for it."""
        return [self._texts.find(name) is not None for name in names]

    def check(self, records: Collection[ImageRecord]) -> None:
        """Raise EncoderError that lists every image without a vector, or those that find one vector together."""
        finders: dict[int, dict[str, ImageRecord]] = {}
        missing = []
        for record in records:
            row = self._find(record.path)
            if row is None:
                missing.append(record.path)
            else:
                finders.setdefault(row, {})[record.path] = record
        if missing:
            raise EncoderError(
                f"{self._file} has no vector for {len(missing)} of {len(records)} photos",
                expected="a path in its array `path` that the photo's path ends with",
                got=listing(missing),
                fix="embed these photos too, or use an encoder that computes (--encoder tiny or an open_clip model)",
            )
        shared = {row: found for row, found in finders.items() if len(found) > 1 and not _are_copies(found.values())}
        if shared:
            paths = {row: path for path, row in self._row.items()}
            raise EncoderError(
                f"{self._file}: different photos find the same vector by the end of their path",
                expected=f"paths in its array `path` that tell {plural(len(shared), 'such group')} of photos apart",
                got=listing([f"{paths[row]!r} of {listing(list(found), 3)}" for row, found in shared.items()], 3),
                fix="write longer paths into the file, such as train/cup/1.jpg instead of cup/1.jpg",
            )

    def prepare(self, image: AnyImage | None, record: ImageRecord) -> FloatArray:
        """Find the image's vector, shape (dim,)."""
        row = self._find(record.path)
        if row is None:
            self.check([record])
        return np.asarray(self._embedding[row], dtype=np.float32)

    def encode_images(self, prepared: Sequence[Any]) -> FloatArray:
        """Stack the vectors, shape (n, dim)."""
        return np.stack(prepared) if len(prepared) else np.empty((0, self.dim), dtype=np.float32)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Find the vectors of class names, shape (n, dim); EncoderError lists the names it lacks."""
        missing = [text for text, known in zip(texts, self.can_encode(texts), strict=True) if not known]
        if missing:
            raise EncoderError(
                f"{self._file} has no text vector for {len(missing)} of {len(texts)} names",
                got=listing(missing),
                fix="leave these classes out (--classes, --prompts), or use an encoder that computes",
            )
        return self._text_embedding[np.array([self._texts.find(text) for text in texts], dtype=np.intp)]

    def _find(self, path: str) -> int | None:
        return next((self._row[tail] for tail in _tails(path) if tail in self._row), None)


def _rows_by_path(file: Path, paths: Sequence[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    repeated = []
    for row, path in enumerate(path if is_remote(path) else os.path.normpath(path) for path in paths):
        if rows.setdefault(path, row) != row:
            repeated.append(path)
    if repeated:
        raise EncoderError(
            f"{file} has {plural(len(repeated), 'path')} more than once in its array `path`",
            expected="one vector for each path",
            got=listing(list(dict.fromkeys(repeated))),
            fix="leave one of them, or write longer paths that tell the photos apart",
        )
    return rows


def _names(file: Path, names: Sequence[str], embedding: FloatArray) -> Sequence[str]:
    first: dict[str, int] = {}
    repeated = set()
    for row, name in enumerate(names):
        if not np.array_equal(embedding[first.setdefault(name, row)], embedding[row]):
            repeated.add(name)
    if repeated:
        raise EncoderError(
            f"{file} has names with several vectors",
            expected="one vector for each name",
            got=listing(sorted(repeated)),
            fix="leave one of them",
        )
    return names


def _are_copies(records: Collection[ImageRecord]) -> bool:
    """Whether images are the same, byte for byte."""
    if len({record.size for record in records}) > 1:
        return False
    try:
        return len({hashlib.sha256(record.read_bytes()).digest() for record in records}) == 1
    except (OSError, UnreadableImageError):
        return False


def _tails(path: str) -> Iterator[str]:
    """Every tail of a path, longest first."""
    yield path
    parts = PurePath(path).parts
    for start in range(1, len(parts)):
        yield "/".join(parts[start:])


def _read(file: Path) -> dict[str, Any]:
    what, expected = f"cannot read {file}", "an .npz of plain arrays"
    if not file.is_file():
        got = f"{file}, which is {'a folder' if file.is_dir() else 'not a file'}" if file.exists() else str(file)
        what = "the file of precomputed vectors does not exist"
        raise EncoderError(what, got=got, fix="correct the path behind precomputed:")
    try:
        with file.open("rb") as stream:
            start = stream.read(512)
        if not start.startswith(b"PK"):
            kind = (kind_of(start) or "something else") if start else "an empty file"
            raise EncoderError(what, expected=expected, got=kind, fix=_WRITE_AGAIN)
        with zipfile.ZipFile(file) as archive:
            needed = sum(_array_size(archive, f"{name}.npy") for name in (*ARRAYS, "model"))
            if needed > (memory := _memory()):
                got = (
                    f"arrays that take {needed / 2**30:,.0f} GiB; this machine has {memory / 2**30:,.0f} GiB of memory"
                )
                raise EncoderError(f"{what}: it claims more than the memory holds", got=got, fix=_WRITE_AGAIN)
        with np.load(file, allow_pickle=False) as arrays:
            arrays = {name: arrays[name] for name in (*ARRAYS, "model") if name in arrays.files}
    except HybridError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's reader of headers raise a dozen kinds for damaged bytes
        got = f"damaged, {first_line(error)}"
        raise EncoderError(what, expected=expected, got=got, fix=_WRITE_AGAIN) from error
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise EncoderError(
            f"{file} lacks arrays",
            expected=", ".join(ARRAYS),
            got="without " + ", ".join(missing),
            fix="write them with numpy.savez; docs/inputs.md has an example",
        )
    image, text = arrays["embedding"], arrays["text_embedding"]
    fits = image.ndim == text.ndim == 2 and image.shape[1] == text.shape[1] and arrays["logit_scale"].size == 1
    if not fits or arrays["path"].shape != image.shape[:1] or arrays["text"].shape != text.shape[:1]:
        shapes = ", ".join(f"{name} {arrays[name].shape}" for name in ARRAYS)
        raise EncoderError(
            f"the arrays of {file} do not fit together",
            expected=SHAPES,
            got=shapes,
            fix="write the file again, with arrays of these shapes",
        )
    for name in ("embedding", "text_embedding", "logit_scale"):
        _check_numbers(file, name, arrays[name])
    for name in ("path", "text"):
        if arrays[name].dtype.kind != "U":
            raise EncoderError(
                f"{file} holds an array {name} that is not of text", got=str(arrays[name].dtype), fix=_WRITE_AGAIN
            )
    if (scale := arrays["logit_scale"].item()) <= 0:
        raise EncoderError(f"{file} holds a logit_scale that is not positive", got=f"{scale:g}", fix=_WRITE_AGAIN)
    return arrays


def _array_size(archive: zipfile.ZipFile, name: str) -> int:
    """Bytes of one array by its header, before memory is asked for; ValueError if the file does not hold so many."""
    if name not in archive.namelist():
        return 0
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        size, held = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - stream.tell()
    if size != held and not dtype.hasobject:
        raise ValueError(f"the array {name} of {size:,} bytes has {held:,}")
    return size


def _memory() -> int:
    """Bytes of this machine's memory; where the system does not say, more than any has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**60


def _check_numbers(file: Path, name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind not in "fiu":
        raise EncoderError(
            f"{file} holds an array {name} that is not of numbers", got=str(array.dtype), fix=_WRITE_AGAIN
        )
    if not np.isfinite(array).all():
        raise EncoderError(f"{file} holds an array {name} with values that are not finite", fix=_WRITE_AGAIN)
    if array.ndim == 2 and not array.any(axis=1).all():
        raise EncoderError(
            f"{file} holds an array {name} with vectors of length zero, which have no direction", fix=_WRITE_AGAIN
        )
