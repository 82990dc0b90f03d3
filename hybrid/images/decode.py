"""Encoded bytes to pixels: any image becomes upright 8-bit RGB, or an error that says why not."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from hybrid.errors import UnreadableImageError

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]
# Reads an RGB or gray JPEG, of which Pillow has read the header, at so many eighths of its size, as it is stored.
# None: it cannot, as where it finds fault with the file; Pillow, which is more patient, is to read the whole.
JpegReader = Callable[[bytes, Image.Image, int], Pixels | None]

# Only these parsers see foreign bytes: Pillow knows dozens more, some of which start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# By EXIF orientation: how the stored pixels (h, w, 3) become the upright ones.
_TO_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: rgb.transpose(1, 0, 2)[:, ::-1],
    7: lambda rgb: rgb[::-1, ::-1].transpose(1, 0, 2),
    8: lambda rgb: rgb.transpose(1, 0, 2)[::-1],
}


@dataclass(frozen=True, slots=True)
class Scaled:
    """An image's pixels, upright, perhaps at a part of its size.

    Attributes
    ----------
    rgb : (h, w, 3) uint8
        An array; a tensor if it was decoded on a device.
    extent : (float, float)
        How much of `rgb`, in its pixels from the top and from the left, the image fills: the last row and column of a
        JPEG whose sides cannot be divided stand for less than a whole pixel each.
    """

    rgb: Pixels | torch.Tensor
    extent: tuple[float, float]

    @classmethod
    def whole(cls, rgb: Pixels | torch.Tensor) -> Scaled:
        """Pixels that all stand for themselves."""
        return cls(rgb, (rgb.shape[0], rgb.shape[1]))

    def to_picture(self) -> Image.Image:
        """Give the pixels as a PIL image."""
        return Image.fromarray(self.rgb if isinstance(self.rgb, np.ndarray) else self.rgb.cpu().numpy())


def decode(data: bytes) -> Image.Image:
    """Decode an image at full size; the reference for every decoder.

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
        With a short reason, if the bytes are empty, cut off, damaged, not an image of these formats, or an image
        of so many pixels that it looks like an attack (Pillow's limit).
    """
    with _opened(data) as image:
        return Image.fromarray(_upright_rgb(image))


def decode_scaled(data: bytes, min_side: int | None, read_jpeg: JpegReader, eighths: Sequence[int]) -> Scaled:
    """Decode an image to an array, a JPEG at no more pixels than are needed; decoders are made of this.

    A JPEG's transform gives it at k / 8 of its size for less work than at full size. libjpeg-turbo is fast at halves
    and below; between them and the whole (5/8 to 7/8) it takes longer than for the whole, so these are not used.

    Parameters
    ----------
    data : bytes
    min_side : int or None
        The shorter side of the result is at least this long, if the image's own is. None: full size.
    read_jpeg : JpegReader
    eighths : sequence of int
        Sizes below 8 that it can read, ascending.

    Returns
    -------
    Scaled
        At full size the same pixels as `decode` gives; so are the errors.
    """
    with _opened(data) as image:
        # MPO: a JPEG with others behind it, as some phones write; the first is the image.
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            width, height = image.size
            turn = _TO_UPRIGHT.get(_orientation(image))
            fitting = (k for k in eighths if min_side is not None and -(-min(width, height) * k // 8) >= min_side)
            k = next(fitting, 8)
            if turn is not None and (width * k % 8 or height * k % 8):
                k = 8  # turned, the part of a pixel would stand at the wrong end
            rgb = read_jpeg(data, image, k)
            if rgb is not None and turn is not None:
                return Scaled.whole(np.ascontiguousarray(turn(rgb)))
            if rgb is not None:
                return Scaled(rgb, (height * k / 8, width * k / 8))
        return Scaled.whole(_upright_rgb(image))


def draft_jpeg(data: bytes, image: Image.Image, eighths: int) -> Pixels | None:
    """Read a JPEG by Pillow at 1, 2, 4 or 8 eighths of its size; a `JpegReader`."""
    if eighths < 8:
        size = image.width * eighths // 8, image.height * eighths // 8
        if 0 in size:
            return None  # less than a pixel, which `draft` cannot be asked for
        image.draft(None, size)
    return np.array(image.convert("RGB"))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture that somebody else opened into the form that `decode` gives.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode, loaded or not; it is not changed, but loaded. Of several frames the current one is taken.

    Raises
    ------
    UnreadableImageError
        With a short reason, if the picture cannot be loaded or has no pixels.
    """
    with _named_reasons():
        return Image.fromarray(_upright_rgb(image))


def _upright_rgb(image: Image.Image) -> Pixels:
    if 0 in image.size:
        raise UnreadableImageError(f"the image has no pixels ({image.width} x {image.height})")
    image.load()
    turn = _TO_UPRIGHT.get(_orientation(image))
    # A copy: Pillow lends its memory for reading only, which torch warns of.
    rgb = np.array(_to_rgb(image))
    return rgb if turn is None else np.ascontiguousarray(turn(rgb))


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
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_deep_gray_to_8_bit(image)).convert("RGB")
    if image.mode == "La":  # Pillow's only way from here to RGB
        image = image.convert("LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")


def _deep_gray_to_8_bit(image: Image.Image) -> Pixels:
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
