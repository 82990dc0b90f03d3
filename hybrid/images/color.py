"""What the numbers of an image mean: color profiles and what stands in their place, converted to sRGB.

Nearly all images are sRGB and say nothing, or have an sRGB profile. Which profiles are that is found out once for each
by converting a few colors, so that such an image costs no more than a look into a cache.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

if TYPE_CHECKING:
    from PIL import ImageCms

Pixels = NDArray[np.uint8]
Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]

# Where a reader of bytes leaves what Pillow does not keep: (primaries, transfer) of ITU-T H.273, as PNG, AVIF and HEIC
# give them.
CODE_POINTS = "hybrid_code_points"
# A larger profile is not kept in memory; those of printing presses have up to 3 MB.
_LARGEST_PROFILE = 8 * 2**20
# Gray levels that rounding within a profile may cost.
_SAME = 2
_D65 = (0.3127, 0.3290)
_SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# xy of red, green and blue, then of white, by code point; 1 is sRGB's.
_PRIMARIES: dict[int, tuple[float, ...]] = {
    1: (*_SRGB_PRIMARIES, *_D65),
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),
}
# White of an image in standard range, in nits, where a transfer function counts in them (ITU-R BT.2408).
_WHITE_NITS = 203.0


@dataclass(frozen=True, slots=True)
class Conversion:
    """From the numbers of an image to sRGB.

    Attributes
    ----------
    mode : {"RGB", "L", "CMYK"}
        What it takes.
    transform : ImageCmsTransform or None
        None: they stay as they are.
    note : str
        For people: why a profile was not applied; else empty.
    """

    mode: str
    transform: ImageCms.ImageCmsTransform | None
    note: str = ""

    def apply(self, image: Image.Image) -> Image.Image:
        """Convert an image without transparency to RGB."""
        if self.transform is None:
            return image.convert("RGB")
        converted: Image.Image | None = self.transform.apply(image.convert(self.mode))
        return image.convert("RGB") if converted is None else converted

    def apply_to_array(self, rgb: Pixels) -> Pixels:
        """Convert pixels (h, w, 3) that stand for gray or RGB."""
        return rgb if self.transform is None else np.array(self.apply(Image.fromarray(rgb)))


_NOT_APPLIED = "was not applied"


def conversion_of(image: Image.Image) -> Conversion | None:
    """Find how an opened image comes to sRGB; None for the ordinary one, which is sRGB or does not say.

    A profile counts, and what stands in its place: code points (PNG, AVIF, HEIC), gamma and chromaticities (PNG), and
    the mark of cameras that photograph in Adobe RGB (EXIF).
    """
    profile = _profile_of(image)
    if profile is None or image.mode in ("1", "LAB"):
        return None
    return conversion_by(profile, "CMYK" if image.mode == "CMYK" else "L" if _is_gray(image.mode) else "RGB")


def conversion_by(profile: bytes, kind: str) -> Conversion | None:
    """Find how pixels with an ICC profile come to sRGB; None where they are in sRGB.

    Parameters
    ----------
    profile : bytes
    kind : {"RGB", "L", "CMYK"}
        Of the pixels.
    """
    if len(profile) > _LARGEST_PROFILE:
        return Conversion(kind, None, f"its color profile of {len(profile) / 2**20:.0f} MiB {_NOT_APPLIED}")
    found = _conversion(profile, kind)
    return found if found.transform or found.note else None


def _is_gray(mode: str) -> bool:
    return mode in ("L", "LA", "La", "I", "F") or mode.startswith("I;16")


def _profile_of(image: Image.Image) -> bytes | None:
    """Give the ICC profile that an image has, or one that says the same as its other marks."""
    info: dict[Any, Any] = image.info
    if code_points := info.get(CODE_POINTS):
        primaries, transfer, over_profile = code_points
        if over_profile or not info.get("icc_profile"):
            return _profile_of_code_points(primaries, transfer)
    if profile := info.get("icc_profile"):
        return profile if isinstance(profile, bytes) else None
    if "gamma" in info and "srgb" not in info:
        return _profile_of_gamma(info["gamma"], info.get("chromaticity"))
    exif = info.get("exif")
    if isinstance(exif, bytes) and b"R03" in exif and _is_marked_adobe_rgb(image):
        return _adobe_rgb()
    return None


def _is_marked_adobe_rgb(image: Image.Image) -> bool:
    """Whether a camera says by its interoperability index that it used Adobe RGB (DCF 2.0)."""
    try:
        exif = image.getexif()
        color_space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except Exception:
        # Metadata is often broken in images whose pixels are fine.
        return False
    return str(index).rstrip("\0 ") == "R03" and color_space != 1


@lru_cache(maxsize=32)
def _conversion(profile: bytes, kind: str) -> Conversion:
    from PIL import ImageCms, features

    if not features.check("littlecms2"):
        return Conversion(kind, None, f"its color profile {_NOT_APPLIED} (this Pillow lacks LittleCMS)")
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        # Gray images often have the profile of the RGB originals that they were made of.
        mode = "RGB" if (kind, space) == ("L", "RGB") else kind
        if {"GRAY": "L"}.get(space, space) != mode:
            return Conversion(kind, None, f"its color profile is for {space} and {_NOT_APPLIED}")
        # For gray LittleCMS's optimization is wrong by up to ten levels in the dark.
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
        return Conversion(mode, None if _keeps_colors(transform, mode) else transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return Conversion(kind, None, f"its color profile is damaged and {_NOT_APPLIED}")


def _keeps_colors(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform leaves colors as they are, which says more than a profile's name."""
    if mode == "CMYK":
        return False
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
    if mode == "L":
        grid = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    converted = transform.apply(Image.fromarray(grid).convert(mode))
    return converted is not None and int(np.abs(np.asarray(converted).astype(int) - grid).max()) <= _SAME


@lru_cache(maxsize=32)
def _profile_of_code_points(primaries: int, transfer: int) -> bytes | None:
    """Give a profile for code points of H.273; None for sRGB, unspecified and unknown ones.

    The transfer functions of television (1, 6, 14, 15) are taken as sRGB's, as every viewer does. Those of high dynamic
    range (16 PQ, 18 HLG) are cut off at the white of the standard range.
    """
    curves: dict[int, Curve] = {
        4: lambda x: x**2.2,
        5: lambda x: x**2.8,
        8: lambda x: x,
        16: _pq,
        18: _hlg,
    }
    xy = _PRIMARIES.get(primaries, _PRIMARIES[1])
    if xy == _PRIMARIES[1] and transfer not in curves:
        return None
    return _matrix_profile(xy, curves.get(transfer, _srgb))


@lru_cache(maxsize=32)
def _profile_of_gamma(gamma: Any, chromaticity: Any) -> bytes | None:
    """Give a profile for a PNG's chunks gAMA and cHRM; None where they say about sRGB, or nothing possible."""
    if not isinstance(gamma, float) or not 0.1 < gamma < 10:
        return None
    xy = _PRIMARIES[1]
    if isinstance(chromaticity, tuple) and len(chromaticity) == 8:
        xy = (*chromaticity[2:], *chromaticity[:2])
    is_srgb = np.allclose(xy, _PRIMARIES[1], atol=0.005)
    if is_srgb and 0.42 < gamma < 0.48:
        return None
    try:
        return _matrix_profile(xy, lambda x: np.power(x, 1 / gamma))
    except (np.linalg.LinAlgError, struct.error, OverflowError, ValueError):
        return None


def _srgb(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def _pq(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """SMPTE ST 2084."""
    root = x ** (32 / 2523)
    linear = (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)
    return np.minimum(linear * 10_000 / _WHITE_NITS, 1)


def _hlg(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """ARIB STD-B67, whose standard white is at 75 %."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073

    def scene(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(v <= 0.5, v * v / 3, (np.exp((v - c) / a) + b) / 12)

    return np.minimum(scene(x) / scene(np.array(0.75)), 1)


@cache
def _adobe_rgb() -> bytes:
    return _matrix_profile((0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *_D65), lambda x: np.power(x, 563 / 256))


def _matrix_profile(xy: tuple[float, ...], curve: Curve) -> bytes:
    """Write an ICC profile (version 2.4) of three primaries, a white and one curve for all."""
    if min(xy[1::2]) <= 0:
        raise ValueError(f"no colors: {xy}")
    columns = [np.array([x, y, 1 - x - y]) / y for x, y in zip(xy[::2], xy[1::2], strict=True)]
    primaries, white = np.stack(columns[:3], axis=1), columns[3]
    # Profiles speak of the white D50; Bradford's transform brings other whites there.
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapted = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford
    matrix = adapted @ primaries @ np.diag(np.linalg.solve(primaries, white))
    table = np.rint(curve(np.linspace(0, 1, 4096)) * 65535).astype(">u2").tobytes()
    trc = struct.pack(">4s4xI", b"curv", len(table) // 2) + table
    tags = {b"cprt": b"text\0\0\0\0\0", b"desc": struct.pack(">4s4xI", b"desc", 1) + b"\0" * 80}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + _fixed(d50)
    for name, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
        tags |= {name + b"XYZ": b"XYZ \0\0\0\0" + _fixed(column), name + b"TRC": trc}
    start, entries, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        entries += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return head + _fixed(d50) + struct.pack(">48xI", len(tags)) + entries + body


def _fixed(values: NDArray[np.float64]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))
