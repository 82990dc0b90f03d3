"""Encoded bytes to pixels: any image becomes an upright 8-bit RGB image, or an error that says why not."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from hybrid.errors import UnreadableImageError

Pixels = NDArray[np.uint8]
# Only these parsers see foreign bytes: Pillow knows dozens more, some of which start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_DEEP_MODES = ("I", "F")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_Turn = Callable[[Pixels], Pixels]
# The same turns for arrays (h, w, 3).
_ARRAY_UPRIGHT: dict[int, _Turn] = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: rgb.transpose(1, 0, 2)[:, ::-1],
    7: lambda rgb: rgb[::-1, ::-1].transpose(1, 0, 2),
    8: lambda rgb: rgb.transpose(1, 0, 2)[::-1],
}


def decode(data: bytes) -> Image.Image:
    """Decode an image.

    The EXIF orientation is applied, transparency is laid over white, gray of more than 8 bits is scaled to 8,
    and of several frames or pages the first is taken.

    Parameters
    ----------
    data : bytes
        An encoded JPEG, PNG, WebP, BMP, GIF or TIFF image.

    Returns
    -------
    PIL.Image.Image
        The pixels in mode RGB, in memory, without metadata.

    Raises
    ------
    UnreadableImageError
        With a short reason, if the bytes are empty, cut off, damaged, no image of these formats, or an image
        of so many pixels that it looks like an attack (Pillow's limit).
    """
    with _opened(data) as image:
        return _upright_rgb(image)


@dataclass(frozen=True, slots=True)
class Scaled:
    """An image's pixels, perhaps at a part of its size.

    Attributes
    ----------
    rgb : (h, w, 3) uint8
    extent : (float, float)
        How much of `rgb`, in its pixels from the top and from the left, the image fills: the last row and column of a
        JPEG whose sides cannot be divided stand for less than a whole pixel each.
    """

    rgb: Pixels
    extent: tuple[float, float]


# Reads an RGB or gray JPEG, of which Pillow has read the header, at so many eighths of its size, as it is stored.
# None: it finds fault with the file, and Pillow, which is more patient, or says what is wrong, shall read the whole.
JpegReader = Callable[[bytes, Image.Image, int], Pixels | None]


def decode_scaled(data: bytes, min_side: int | None, read_jpeg: JpegReader, eighths: Sequence[int]) -> Scaled:
    """Decode an image to an array, a JPEG at no more pixels than are needed; decoders are made of this.

    A JPEG's transform gives it at k / 8 of its size for less work than at full size. libjpeg-turbo is fast at halves
    and below; between them and the whole (5/8 to 7/8) it takes longer than for the whole, so these are not used.

    Parameters
    ----------
    data : bytes
        As for `decode`.
    min_side : int or None
        The shorter side of the result is at least this long, if the image's own is. None: full size.
    read_jpeg : callable
    eighths : sequence of int
        Sizes below 8 that it can read, ascending.

    Returns
    -------
    Scaled
        Upright RGB; at full size the same pixels as `decode` gives.

    Raises
    ------
    UnreadableImageError
        As `decode`.
    """
    with _opened(data) as image:
        rgb = None
        # MPO: a JPEG with others behind it, as some phones write; the first is the image.
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            width, height = image.size
            turn = _ARRAY_UPRIGHT.get(_orientation(image))
            fitting = (k for k in eighths if min_side is not None and -(-min(width, height) * k // 8) >= min_side)
            k = next(fitting, 8)
            if turn is not None and (width * k % 8 or height * k % 8):
                k = 8  # turned, the part of a pixel would stand at the wrong end
            rgb = read_jpeg(data, image, k)
        if rgb is None:
            # A copy: Pillow lends its memory for reading only, which torch warns of.
            return _whole(np.array(_upright_rgb(image)))
        return Scaled(rgb, (height * k / 8, width * k / 8)) if turn is None else _whole(np.ascontiguousarray(turn(rgb)))


def _whole(rgb: Pixels) -> Scaled:
    return Scaled(rgb, (rgb.shape[0], rgb.shape[1]))


def draft_jpeg(data: bytes, image: Image.Image, eighths: int) -> Pixels:
    """Read a JPEG by Pillow at 1, 2, 4 or 8 eighths of its size; a `JpegReader`."""
    width, height = image.size
    if eighths < 8:
        image.draft(None, (width * eighths // 8, height * eighths // 8))
    image.load()
    return np.array(image.convert("RGB"))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture that somebody else opened into the form that `decode` gives.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode, loaded or not; it is not changed, but loaded. Of several frames the current one is taken.

    Returns
    -------
    PIL.Image.Image
        A copy as `decode` would give it for the same picture in a file.

    Raises
    ------
    UnreadableImageError
        With a short reason, if the picture cannot be loaded or has no pixels.
    """
    with _named_reasons():
        return _upright_rgb(image)


def _upright_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise UnreadableImageError(f"the image has no pixels ({image.width} x {image.height})")
    image.load()
    upright = _UPRIGHT.get(_orientation(image))
    rgb = _to_rgb(image)
    if upright is not None:
        rgb = rgb.transpose(upright)
    # Metadata would let a later step turn the image a second time.
    rgb.info.clear()
    return rgb


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    if not data:
        raise UnreadableImageError("the file is empty")
    with _named_reasons(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        yield image


@contextmanager
def _named_reasons() -> Iterator[None]:
    """Turn whatever Pillow raises into an UnreadableImageError with a reason for people."""
    try:
        yield
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            "not an image, or damaged at its start (JPEG, PNG, WebP, BMP, GIF and TIFF are read)"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError("the image has too many pixels to be a photo") from error
    # Pillow's parsers raise nearly every built-in exception on damaged bytes, and one bad file must not end a
    # run over a million.
    except Exception as error:
        reason = str(error) or type(error).__name__
        cut_off = "truncated" in reason.lower()
        raise UnreadableImageError("the image is cut off" if cut_off else f"the image is damaged: {reason}") from error


def _orientation(image: Image.Image) -> int:
    """Give the EXIF orientation, 1 (upright) where there is none; TIFF is turned by Pillow while loading."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Metadata is often broken in images whose pixels are fine.
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES or image.mode.startswith("I;16"):
        return Image.fromarray(_deep_gray_to_8_bit(image)).convert("RGB")
    if image.mode == "La":  # Pillow has no way from here to RGB but this one
        image = image.convert("LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")


def _deep_gray_to_8_bit(image: Image.Image) -> NDArray[np.uint8]:
    """Scale gray of 12, 16 or 32 bits, or floating point, to 0..255 (Pillow's own conversion clips it).

    Whole numbers of up to 16 bits are scaled by their white; floating point is taken as 0..1, else as 0..255.
    Where the values leave these ranges no white is known: they are stretched from lowest to highest.
    """
    values = np.asarray(image).astype(np.float64)
    values[~np.isfinite(values)] = 0.0
    low, high = float(values.min()), float(values.max())
    bits, inverted = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow leaves deep gray as it was stored: 12 bits in the range of 16, 0 for white where so marked.
        bits = 12 if image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 16
        inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    whites = (1.0, 255.0) if image.mode == "F" else (2.0**bits - 1,)
    black, white = next(((0.0, white) for white in whites if low >= 0 and high <= white), (low, high))
    scaled = np.rint((values - black) * (255.0 / ((white - black) or 1.0)))
    return (255 - scaled if inverted else scaled).astype(np.uint8)
