"""Gray and color of more than 8 bits, brought to 8: each depth has its own white."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

Pixels = NDArray[np.uint8]

# Cameras, scanners and microscopes write 10, 12 or 14 bits into files of 16 without saying so.
_WHITES = (255, 1023, 4095, 16383, 65535)
_MAX_SAMPLE_VALUE = 281
# Rows of a large image that are computed at once.
_ROWS = 1024


def is_deep_gray(image: Image.Image) -> bool:
    """Whether an image is gray of more than 8 bits, or of floating point."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def deep_gray_to_8_bit(image: Image.Image) -> Pixels:
    """Scale gray of 10 to 32 bits, or floating point, to 0..255, shape (h, w); Pillow's own conversion clips it.

    White is what the file says (TIFF). Else it is that of the smallest usual depth, of 8, 10, 12, 14 and 16 bits, that
    holds all values. Floating point is taken as 0..1, else as 0..255. Where the values leave these ranges no white is
    known: they are stretched from lowest to highest.
    """
    values: NDArray[Any] = np.asarray(image)
    whites: tuple[float, ...] = _WHITES
    if values.dtype.kind == "f":
        values, whites = np.where(np.isfinite(values), values, 0), (1.0, 255.0)
    low, high = float(values.min()), float(values.max())
    told, inverted = _told_by_tiff(image)
    if told is not None:
        whites = (told, *whites)
    black, white = next(((0.0, white) for white in whites if low >= 0 and high <= white), (low, high))
    if black == 0 and white <= _WHITES[-1] and values.dtype.kind != "f":
        levels = np.rint(np.arange(int(high) + 1) * (255.0 / white)).astype(np.uint8)
        return np.take(255 - levels if inverted else levels, values)
    gray = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):
        part = values[top : top + _ROWS].astype(np.float64)
        scaled = np.rint((part - black) * (255.0 / ((white - black) or 1.0)))
        gray[top : top + _ROWS] = 255 - scaled if inverted else scaled
    return gray


def _told_by_tiff(image: Image.Image) -> tuple[float | None, bool]:
    """Give the white that a TIFF says, and whether its 0 is white: Pillow leaves deep gray as it was stored."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None, False
    tags = image.tag_v2
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
        return 4095.0, inverted
    highest = tags.get(_MAX_SAMPLE_VALUE)
    first = highest[0] if isinstance(highest, tuple) and highest else highest
    return float(first) if isinstance(first, int) and first > 0 and image.mode != "F" else None, inverted


def is_deep_color(image: Image.Image) -> bool:
    """Whether an opened image, not loaded yet, has 16 bits a color, of which Pillow reads the upper 8."""
    if not isinstance(image, ImageFile.ImageFile) or image.mode not in ("RGB", "RGBA"):
        return False
    return ";16" in str(image.tile[:1])


def swap_bytes(image: ImageFile.ImageFile) -> None:
    """Make Pillow read the lower 8 bits of a deep color image that is not loaded yet."""
    other = {"L": "B", "B": "L", "N": "L" if sys.byteorder == "big" else "B"}
    image.tile = [tile._replace(args=_swapped(tile.args, other)) for tile in image.tile]


def _swapped(args: Any, other: dict[str, str]) -> Any:
    mode, *rest = (args,) if isinstance(args, str) else args
    mode = mode[:-1] + other.get(mode[-1], mode[-1])
    return mode if isinstance(args, str) else (mode, *rest)


def deep_color_to_8_bit(upper: Image.Image, lower: Image.Image) -> Image.Image:
    """Scale colors of 10, 12 or 14 bits in 16 to 8 by their white, as `deep_gray_to_8_bit` does; transparency stays."""
    values = np.asarray(upper)[..., :3].astype(np.uint16) << 8 | np.asarray(lower)[..., :3]
    white = next(white for white in _WHITES if values.max() <= white)
    scaled = Image.fromarray(np.take(np.rint(np.arange(65536) * (255.0 / white)).clip(0, 255).astype(np.uint8), values))
    if upper.mode == "RGBA":
        scaled.putalpha(upper.getchannel("A"))
    scaled.info = upper.info
    return scaled
