"""Encoded bytes to pixels: any image becomes upright 8-bit RGB, or an error that says why not."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from hybrid.errors import ConfigError, UnreadableImageError
from hybrid.images.color import CODE_POINTS, Conversion, conversion_by, conversion_of
from hybrid.images.gray import deep_color_to_8_bit, deep_gray_to_8_bit, is_deep_color, is_deep_gray, swap_bytes
from hybrid.images.jpeg_header import JpegHeader, read_header
from hybrid.images.limits import LARGE, max_pixels, one_at_a_time, too_many_pixels
from hybrid.images.magic import kind_of

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]


class Size(Protocol):
    """How large an image is, as it is stored."""

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102


# Reads an RGB or gray JPEG, whose header is known, at so many eighths of its size, as it is stored.
# None: it cannot, as where it finds fault with the file; Pillow, which is more patient, is to read the whole.
JpegReader = Callable[[bytes, Size, int], Pixels | None]

# Only these parsers see foreign bytes: Pillow knows dozens more, some of which start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_FORMATS_TEXT = "JPEG, PNG, WebP, BMP, GIF, TIFF, HEIC and AVIF are read"
# Brands of files made of boxes (ISO 14496-12); the common ones, mif1 and msf1, stand beside one of these or for HEIC.
_AVIF = frozenset({b"avif", b"avis"})
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
# What a file that lacks its last bytes is continued with: where two of these give the same pixels, no pixel is missing.
# The restart markers in them are for JPEGs that have such: libjpeg skips all else where it waits for one.
_TAILS = tuple(
    b"".join(hashlib.sha256(seed).digest().replace(b"\xff", b"\x7f") + bytes([0xFF, 0xD0 + mark]) for mark in marks)
    for seed, marks in ((b"a", (0, 1, 2, 3, 4, 5, 6, 7)), (b"b", (4, 5, 6, 7, 0, 1, 2, 3)))
)
_UPPER_OF_14_BITS = 63  # the upper byte of 16383
_SCAN, _MOST_SCANS = b"\xff\xda", 100
_END_OF_JPEG = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
# Of formats that are read: by the first bytes.
_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_TEXT_LIMIT = "MAX_TEXT_"  # of Pillow's, in its words
_CUT_OFF = "the image is cut off"
_LACKS_ITS_END = "its last bytes are missing, all pixels are there"
# By EXIF orientation: whether rows and columns change places, and which of them then stand in reverse; 1: as stored.
TURNS: Mapping[int, tuple[bool, tuple[int, ...]]] = MappingProxyType(
    {
        2: (False, (1,)),
        3: (False, (0, 1)),
        4: (False, (0,)),
        5: (True, ()),
        6: (True, (1,)),
        7: (True, (0, 1)),
        8: (True, (0,)),
    }
)


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
    note : str
        For people: what is odd about the file, though its pixels could be read; else empty.
    """

    rgb: Pixels | torch.Tensor
    extent: tuple[float, float]
    note: str = ""

    @classmethod
    def whole(cls, rgb: Pixels | torch.Tensor, note: str = "") -> Scaled:
        """Pixels that all stand for themselves."""
        return cls(rgb, (rgb.shape[0], rgb.shape[1]), note)

    def to_picture(self) -> Image.Image:
        """Give the pixels as a PIL image."""
        return Image.fromarray(self.rgb if isinstance(self.rgb, np.ndarray) else self.rgb.cpu().numpy())


def decode(data: bytes) -> Image.Image:
    """Decode an image at full size; the reference for every decoder.

    The EXIF orientation is applied, colors are converted to sRGB by the image's profile, transparency is laid over
    white, gray of more than 8 bits is scaled to 8, and of several frames or pages the first is taken.

    Parameters
    ----------
    data : bytes
        An encoded JPEG, PNG, WebP, BMP, GIF, TIFF, HEIC or AVIF image.

    Returns
    -------
    PIL.Image.Image
        The pixels in mode RGB, in memory, without metadata.

    Raises
    ------
    UnreadableImageError
        With a short reason, if the bytes are empty, cut off, damaged, not an image of these formats, or an image
        of too many pixels (`hybrid.images.limits`).
    """
    return decode_scaled(data, None, lambda *_: None, ()).to_picture()


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
    try:
        return _decode_scaled(data, min_side, read_jpeg, eighths)
    except UnreadableImageError as error:
        mended, note = None, _LACKS_ITS_END
        if error.what == _CUT_OFF:
            mended = _with_an_end(data)
        elif _TEXT_LIMIT in error.what:
            mended, note = _without_texts(data), "its metadata are too large and left out, a color profile too"
        if mended is None:
            raise
        return replace(_decode_scaled(mended, min_side, read_jpeg, eighths), note=note)


def _decode_scaled(data: bytes, min_side: int | None, read_jpeg: JpegReader, eighths: Sequence[int]) -> Scaled:
    if (header := ordinary_header(data)) is not None:
        with _named_reasons(data):
            conversion = conversion_by(header.profile, "L" if header.is_gray else "RGB") if header.profile else None
            jpeg = _Jpeg(header, header.is_progressive, header.orientation, conversion)
            if (scaled := _scaled(data, jpeg, min_side, read_jpeg, eighths)) is not None:
                return scaled
    with _opened(data) as image:
        is_progressive = "progressive" in image.info
        if is_progressive:
            _check_scans(data)
        # MPO: a JPEG with others behind it, as some phones write; the first is the image.
        if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
            return _whole(_lighter(data, image), min_side, _missing_end(data, image))
        if header is None:
            jpeg = _Jpeg(image, is_progressive, _orientation(image), conversion_of(image))
            if (scaled := _scaled(data, jpeg, min_side, read_jpeg, eighths)) is not None:
                return scaled
        return _whole(image, min_side)


@dataclass(frozen=True, slots=True)
class _Jpeg:
    """What is known of an RGB or gray JPEG before it is decoded."""

    size: Size
    is_progressive: bool
    orientation: int
    conversion: Conversion | None


def ordinary_header(data: bytes | memoryview) -> JpegHeader | None:
    """Read the header of a JPEG if it is an ordinary one, of a size that Pillow says nothing about; else None."""
    max_pixels()  # sets Pillow's limit
    header, limit = read_header(data), Image.MAX_IMAGE_PIXELS
    return None if header and limit is not None and header.width * header.height > limit else header


def _scaled(
    data: bytes, jpeg: _Jpeg, min_side: int | None, read_jpeg: JpegReader, eighths: Sequence[int]
) -> Scaled | None:
    """Decode a JPEG by a reader, at no more pixels than are needed; None if the reader cannot."""
    width, height = jpeg.size.width, jpeg.size.height
    if jpeg.is_progressive:
        _check_scans(data)
    turn = TURNS.get(jpeg.orientation)
    fitting = (k for k in eighths if min_side is not None and -(-min(width, height) * k // 8) >= min_side)
    k = next(fitting, 8)
    if turn is not None and (width * k % 8 or height * k % 8):
        k = 8  # turned, the part of a pixel would stand at the wrong end
    # A part of a baseline JPEG takes little memory.
    with one_at_a_time(width * height if k == 8 or jpeg.is_progressive else 0):
        rgb = read_jpeg(data, jpeg.size, k)
    if rgb is None:
        return None
    note = ""
    if jpeg.conversion is not None:
        rgb, note = jpeg.conversion.apply_to_array(rgb), jpeg.conversion.note
    if turn is not None:
        return Scaled.whole(_turned(rgb, turn), note)
    return Scaled(rgb, (height * k / 8, width * k / 8), note)


def draft_jpeg(data: bytes, size: Size, eighths: int) -> Pixels | None:
    """Read a JPEG by Pillow at 1, 2, 4 or 8 eighths of its size; a `JpegReader`."""
    part = size.width * eighths // 8, size.height * eighths // 8
    if 0 in part:
        return None  # less than a pixel, which `draft` cannot be asked for
    with _open(data) as image:
        if eighths < 8:
            image.draft(None, part)
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
    rgb = _whole(image, None).rgb
    return rgb if isinstance(rgb, np.ndarray) else rgb.numpy()


def _whole(image: Image.Image, min_side: int | None, note: str = "") -> Scaled:
    """Decode all pixels; a large image is made smaller at once, by whole numbers, if `min_side` allows it."""
    if 0 in image.size:
        raise UnreadableImageError(f"the image has no pixels ({image.width} x {image.height})")
    with one_at_a_time(image.width * image.height):
        image.load()
        turn, conversion = TURNS.get(_orientation(image)), conversion_of(image)
        if image.width * image.height <= LARGE or min_side is None:
            # A copy: Pillow lends its memory for reading only, which torch warns of.
            rgb = np.array(_to_rgb(image, conversion))
        else:
            rgb = _reduced(image, conversion, max(1, min(image.size) // min_side))
    note = note or (conversion.note if conversion else "")
    return Scaled.whole(rgb if turn is None else _turned(rgb, turn), note)


def _turned(rgb: Pixels, turn: tuple[bool, tuple[int, ...]]) -> Pixels:
    transposed, flipped = turn
    return np.ascontiguousarray(np.flip(rgb.transpose(1, 0, 2) if transposed else rgb, flipped))


def _reduced(image: Image.Image, conversion: Conversion | None, factor: int) -> Pixels:
    """Give means of `factor` x `factor` pixels, computed in strips: whole copies would take gigabytes."""
    if is_deep_gray(image):
        gray = Image.fromarray(deep_gray_to_8_bit(image))
        image, gray.info = gray, image.info
    rows = factor * max(1, 2**24 // (image.width * factor))
    strips = (image.crop((0, top, image.width, min(image.height, top + rows))) for top in range(0, image.height, rows))
    return np.concatenate([np.asarray(_to_rgb(strip, conversion).reduce(factor)) for strip in strips])


@contextmanager
def _opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    if not data:
        raise UnreadableImageError("the file is empty")
    max_pixels()
    with _named_reasons(data), _open(data) as image:
        yield image


def _open(data: bytes) -> ImageFile.ImageFile:
    if data[4:8] != b"ftyp":
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        # Pillow does not read this chunk, which stands before the pixels; it counts more than a profile.
        if image.format == "PNG" and (at := data.find(b"\0\0\0\x04cICP", 33, 65536)) > 0:
            image.info[CODE_POINTS] = data[at + 8], data[at + 9], True
        return image
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(int.from_bytes(data[:4]), 256), 4))}
    if brands & _AVIF:
        _require_avif()
        image = Image.open(io.BytesIO(data), formats=("AVIF",))
    elif brands & _HEIC:
        _require_heif()
        image = Image.open(io.BytesIO(data), formats=("HEIF",))
    else:
        raise UnidentifiedImageError
    if (at := data.find(b"colrnclx", 0, 65536)) > 0:
        primaries, transfer = (int.from_bytes(data[start : start + 2]) for start in (at + 8, at + 10))
        image.info[CODE_POINTS] = primaries, transfer, False
    return image


def _require_avif() -> None:
    from PIL import features

    # Older versions do not even know the name.
    if "avif" not in features.modules or not features.check("avif"):
        raise UnreadableImageError("an AVIF image, which Pillow reads from 11.3 on: pip install -U pillow")


def _require_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise UnreadableImageError(
            "a HEIC image, as phones write it: pip install 'hybrid-classifier[heif]' (or convert it to JPEG)"
        ) from error
    register_heif_opener()


@contextmanager
def _named_reasons(data: bytes = b"") -> Iterator[None]:
    """Turn whatever Pillow raises into an UnreadableImageError with a reason for people."""
    try:
        yield
    except (UnreadableImageError, ConfigError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_unknown(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(too_many_pixels(str(error))) from error
    except MemoryError as error:
        raise UnreadableImageError("the memory does not suffice to decode the image") from error
    # Pillow's parsers raise nearly every built-in exception on damaged bytes, and one bad file must not end a
    # run over a million.
    except Exception as error:
        reason = str(error) or type(error).__name__
        if _is_cut_off(reason, data):
            raise UnreadableImageError(_CUT_OFF) from error
        raise UnreadableImageError(f"the image is damaged: {' '.join(reason.split())[:150]}") from error


def _unknown(data: bytes) -> str:
    """Say what bytes are that no parser knows."""
    known = next((name for start, name in _BEGINNINGS.items() if data.startswith(start)), None)
    if data[4:8] == b"ftyp" and data[8:12] in _AVIF | _HEIC:
        known = "AVIF" if data[8:12] in _AVIF else "HEIC"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        known = "WebP"
    if known is not None:
        return f"the {known} image is damaged at its start, or cut off before its pixels"
    kind = kind_of(data)
    return f"not an image but {kind}" if kind else f"not an image, or damaged at its start ({_FORMATS_TEXT})"


def _is_cut_off(reason: str, data: bytes) -> bool:
    words = reason.lower()
    if data[:4] == b"RIFF" and 8 + int.from_bytes(data[4:8], "little") > len(data):
        return True
    return "truncated" in words or "unexpected end of file" in words


def _with_an_end(data: bytes) -> bytes | None:
    """Complete a file that lacks its last bytes, if all of its pixels are there; else None."""
    is_jpeg = data.startswith(b"\xff\xd8")
    if is_jpeg and not _has_all_scans(data):
        return None
    # The first half of a marker would make one with the byte that follows.
    start, end = (data.rstrip(b"\xff"), _END_OF_JPEG) if is_jpeg else (data, b"")
    tried = [start + tail + end for tail in _TAILS]
    try:
        first, second = map(_pixels, tried)
    except UnreadableImageError:
        return None
    if not np.array_equal(first, second):
        return None
    return start + end if is_jpeg else tried[0]


def _without_texts(data: bytes) -> bytes:
    """Leave out the chunks of a PNG that hold text or a profile, of which Pillow refuses large ones."""
    kept, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _pixels(data: bytes) -> Pixels:
    with _opened(data) as image:
        return _upright_rgb(image)


def _lighter(data: bytes, image: Image.Image) -> Image.Image:
    """Give colors of 10 to 14 bits in a file of 16 their white; any other image as it is."""
    if not is_deep_color(image) or image.width * image.height > LARGE:
        return image
    image.load()
    if np.asarray(image)[..., :3].max() > _UPPER_OF_14_BITS:
        return image
    with _open(data) as lower:
        swap_bytes(lower)
        lower.load()
        return deep_color_to_8_bit(image, lower)


def _check_scans(data: bytes) -> None:
    """Refuse a progressive JPEG that passes over its pixels so often that it would take hours."""
    if (scans := data.count(_SCAN)) > _MOST_SCANS:
        raise UnreadableImageError(f"the image is refused: a JPEG of {scans} scans, where a photo has about ten")


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans that a JPEG begins hold every bit of every coefficient: a progressive one may lack the last."""
    at, components, finished = 2, 0, set[tuple[int, int]]()
    while (found := _MARKER.search(data, at)) is not None:
        marker, body = data[found.start() + 1], found.end() + 2
        at = found.end() + max(2, int.from_bytes(data[found.end() : body]))
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            components = data[body + 5] if body + 5 < len(data) else 0
        elif marker == 0xDA and at <= len(data):
            parts = data[body]
            first, last, bits = data[body + 1 + 2 * parts : body + 4 + 2 * parts]
            if bits & 15 == 0:
                ids = (data[body + 1 + 2 * part] for part in range(parts))
                finished |= {(component, k) for component in ids for k in range(first, last + 1)}
    return components > 0 and len(finished) == 64 * components


def _missing_end(data: bytes, image: Image.Image) -> str:
    """Say if a PNG, which Pillow reads without its end, lacks it."""
    return _LACKS_ITS_END if image.format == "PNG" and data.rfind(b"IEND") < 0 else ""


def _orientation(image: Image.Image) -> int:
    """Give the EXIF orientation, 1 (upright) where there is none; TIFF is turned by Pillow while loading."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Metadata is often broken in images whose pixels are fine.
        return 1


def _to_rgb(image: Image.Image, conversion: Conversion | None = None) -> Image.Image:
    if is_deep_gray(image):
        image = Image.fromarray(deep_gray_to_8_bit(image))
    elif image.mode == "La":  # Pillow's only way from here to RGB
        image = image.convert("LA")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if conversion is not None:
        image = conversion.apply(image)
    if alpha is None:
        return image.convert("RGB")
    image.putalpha(alpha)
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")
