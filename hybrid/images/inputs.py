"""Images of any kind, as a user hands them over in Python, to records that the rest of the library reads."""

from __future__ import annotations

import io
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybrid.errors import DataError
from hybrid.images.decode import upright_rgb
from hybrid.images.records import ImageRecord
from hybrid.images.sources import scan

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    One: TypeAlias = str | Path | Image.Image | NDArray[Any] | torch.Tensor | ImageRecord

Images: TypeAlias = "One | Iterable[One]"
"""A path (image, folder, manifest, shards), PIL image, numpy array, torch tensor or record; or an iterable of them."""

KINDS = "a path, a PIL image, a numpy array, a torch tensor, or a list of these"
MEMORY = "(memory)"
_CHANNELS = (1, 3, 4)
# Resampling may leave 0..1 by rounding errors; a quarter of a gray level is lost again by rounding to 8 bits.
_SLACK = 1e-3
# Pillow loads a picture at its first use, and one picture may stand in a list twice: no two threads may load it.
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class MemoryRecord(ImageRecord):
    """An image that lies in memory; its `path` is a name for people, such as ``image 3``.

    Attributes
    ----------
    picture : PIL.Image.Image or array
        An array has the shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), uint8 or float in 0..1.
    """

    picture: Image.Image | NDArray[Any] = field(kw_only=True, repr=False, compare=False)

    def read_bytes(self) -> bytes:
        """Encode the upright 8-bit RGB pixels without loss (BMP).

        The same pixels give the same bytes, so their hash tells pictures apart, and whatever takes a file's bytes
        takes these.

        Raises
        ------
        UnreadableImageError
            If the PIL image cannot be loaded.
        """
        if isinstance(self.picture, Image.Image):
            with _LOADING:
                rgb = upright_rgb(self.picture)
        else:
            rgb = upright_rgb(Image.fromarray(_to_uint8(self.picture)))
        encoded = io.BytesIO()
        rgb.save(encoded, "BMP")
        return encoded.getvalue()


def to_records(images: Images) -> list[ImageRecord]:
    """Turn images of any kind into records, without decoding one.

    Parameters
    ----------
    images : path, PIL image, array, tensor, ImageRecord, or an iterable of these
        * ``str`` or ``Path``: an image; or a folder, shards or a pattern, which stand for all their images in the order
          of their paths, or a manifest, in that of its rows. Labels are left out.
        * PIL image: any mode; turned upright as its EXIF data say. Of several frames the current one is taken.
        * numpy array: (h, w), (h, w, c) or (n, h, w, c). Channels stand last, whatever the sizes: (3, 500, 3) is an
          image of 3 rows. uint8, or float in 0..1.
        * torch tensor: (c, h, w) or (n, c, h, w), on any device. Channels stand first. uint8, or float in 0..1.

        c is 1 (gray), 3 (RGB) or 4 (RGBA, laid over white). Floats are rounded to 8 bits.

    Returns
    -------
    list of ImageRecord
        One for each image, in order; the same image given twice is there twice. Those in memory are `MemoryRecord`,
        named ``image I`` by their place I in this list, from 0.

    Raises
    ------
    DataError
        If a path does not exist or has no images, an array has another shape, type or range, or something is not
        an image at all.
    """
    records: list[ImageRecord] = []
    for item in _items(images):
        records += _records_of(item, len(records))
    return records


def _items(images: Images) -> Iterable[Any]:
    if isinstance(images, np.ndarray):
        # A vector of paths, as a table's column gives it.
        return images.tolist() if images.ndim == 1 and images.dtype.kind in "OUT" else [images]
    single = isinstance(images, str | os.PathLike | Image.Image | ImageRecord) or _is_tensor(images)
    # Bytes would be taken for a list of numbers; sets and mappings have no order of rows.
    if single or not isinstance(images, Iterable) or isinstance(images, bytes | bytearray | memoryview | Mapping | Set):
        return [images]
    return images


def _records_of(item: Any, place: int) -> Iterable[ImageRecord]:
    """Records of one item, which stands at `place` of the list."""
    if isinstance(item, ImageRecord):
        return [item]
    if isinstance(item, str | os.PathLike):
        source = scan([os.fspath(item)], labeled=False, each_row=True)
        for note in (*source.notes, *(f"not read: {path}: {reason}" for path, reason in source.unread)):
            warnings.warn(note, stacklevel=3)
        return source.records
    if isinstance(item, Image.Image):
        return [_in_memory(item, place)]
    if isinstance(item, np.ndarray):
        _check_shape(item.shape, place, "an array", channels=-1)
        images = item if item.ndim == 4 else item[None]
    elif _is_tensor(item):
        _check_shape(tuple(item.shape), place, "a tensor", channels=-3)
        images = np.moveaxis(_to_numpy(item), -3, -1)
        images = images if images.ndim == 4 else images[None]
    else:
        raise DataError(
            f"image {place} cannot be read as a photo",
            expected=KINDS,
            got=type(item).__name__,
            fix="open encoded bytes with PIL.Image.open(io.BytesIO(data)), turn nested lists into one list or an array",
        )
    _check_values(images, place)
    return (_in_memory(image, place + row) for row, image in enumerate(images))


def _in_memory(picture: Image.Image | NDArray[Any], place: int) -> MemoryRecord:
    return MemoryRecord(f"image {place}", MEMORY, None, None, 0, 0, picture=picture)


def _is_tensor(item: object) -> bool:
    # Who holds a tensor has imported torch; for anybody else its start would cost seconds.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(item, torch.Tensor)


def _to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    import torch

    tensor = tensor.detach().cpu()
    # numpy has no bfloat16.
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _check_shape(shape: tuple[int, ...], place: int, what: str, *, channels: int) -> None:
    """Raise a DataError unless the axis `channels` (-1 or -3) holds channels and there are pixels."""
    last = channels == -1
    other = -3 if last else -1
    gray = last and len(shape) == 2
    if not (gray or (len(shape) in (3, 4) and shape[channels] in _CHANNELS)):
        kinds = "(h, w), (h, w, c) or (n, h, w, c)" if last else "(c, h, w) or (n, c, h, w)"
        turned = len(shape) in (3, 4) and shape[other] in _CHANNELS
        move = f"move the channels: {'np' if last else 'torch'}.moveaxis(images, {other}, {channels})"
        raise DataError(
            f"image {place} is {what} of a shape that no photo has",
            expected=f"{kinds}, c = 1 (gray), 3 (RGB) or 4 (RGBA)",
            got=str(shape),
            fix=move if turned else "give arrays of such a shape",
        )
    if 0 in (shape if gray else shape[-3:]):
        raise DataError(
            f"image {place} has no pixels",
            got=f"{what} of shape {shape}",
            fix="give an image with pixels: height x width x 3, for instance",
        )


def _check_values(images: NDArray[Any], place: int) -> None:
    if images.dtype == np.uint8:
        return
    expected = "uint8 from 0 to 255, or floating point from 0 to 1"
    if images.dtype.kind != "f":
        raise DataError(
            f"image {place} has values of a type that is not read",
            expected=expected,
            got=str(images.dtype),
            fix="for values from 0 to 255: convert to uint8; for others: divide by the value of white",
        )
    for row, image in enumerate(images):
        low, high = float(image.min()), float(image.max())
        # Not "low < 0 or high > 1": both are false for NaN.
        if not (low >= -_SLACK and high <= 1 + _SLACK):
            raise DataError(
                f"image {place + row} has values outside the range of a photo",
                expected=expected,
                got=f"{images.dtype} from {low:g} to {high:g}",
                fix="divide by 255 if white is 255; leave normalization by mean and deviation to the classifier",
            )


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return array
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
