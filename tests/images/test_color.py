"""Colors come to sRGB whatever says what they are: against color math by hand, and LittleCMS called by Pillow alone."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from hybrid.images.color import _matrix_profile
from hybrid.images.decode import decode, upright_rgb
from hybrid.images.decoders import LibjpegTurbo, Pillow

D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *D65)


def srgb_curve(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


SPACES: dict[str, tuple[tuple[float, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "Display P3": ((0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *D65), srgb_curve),
    "Adobe RGB": ((0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *D65), lambda x: x ** (563 / 256)),
    "ProPhoto": ((0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001, *D50), lambda x: x**1.8),
}
PROFILES = {name: _matrix_profile(*space) for name, space in SPACES.items()}


def to_xyz(xy: tuple[float, ...]) -> np.ndarray:
    """Linear RGB to XYZ under D50, by the definition of primaries and white, and Bradford's adaptation."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in zip(xy[::2], xy[1::2], strict=True)])
    matrix = xyz[:3].T * np.linalg.solve(xyz[:3].T, xyz[3])
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gains = (cone @ [0.9642, 1.0, 0.8249]) / (cone @ xyz[3])
    return np.linalg.inv(cone) @ np.diag(gains) @ cone @ matrix


def by_hand(rgb: np.ndarray, name: str) -> np.ndarray:
    xy, curve = SPACES[name]
    linear = np.clip(curve(rgb / 255) @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(xy)).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def by_littlecms(image: Image.Image, profile: bytes) -> np.ndarray:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return np.asarray(
        ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    ).astype(int)


def gap(data: bytes, expected: np.ndarray) -> float:
    """Largest difference, by every decoder."""
    ways = (np.asarray(decode(data)), *(decoder.decode(data, None).rgb for decoder in (LibjpegTurbo(), Pillow())))
    return max(float(np.abs(rgb - expected.astype(float)).max()) for rgb in ways)


@pytest.fixture
def colors() -> Image.Image:
    """Every hue in steps, so that a JPEG of it is nearly exact too."""
    levels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(levels, np.ones((16, 16, 1), np.uint8)))


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_of_rgb_in_every_format(colors, encode, name):
    profile, hand = PROFILES[name], by_hand(np.asarray(colors), name)
    formats = {"PNG": {}, "WEBP": {}, "TIFF": {}, "JPEG": {"quality": 100, "subsampling": 0}}
    if features.check("avif"):
        formats["AVIF"] = {"quality": 100, "subsampling": "4:4:4"}
    for fmt, options in formats.items():
        data = encode(colors, fmt, icc_profile=profile, **options)
        stored = Image.open(io.BytesIO(data)).convert("RGB")
        assert gap(data, by_littlecms(stored, profile)) == 0, fmt
        if np.array_equal(stored, colors):
            assert gap(data, hand) <= 1.5, fmt
    assert np.abs(np.asarray(colors) - hand).max() > 30, "else nothing was tried"
    # Turned, scaled, in memory, transparent, by palette.
    turned = encode(colors, orientation=6, quality=100, subsampling=0, icc_profile=profile)
    plain = encode(Image.fromarray(np.rint(hand).astype(np.uint8)), orientation=6, quality=100, subsampling=0)
    for min_side in (None, 8, 32):
        ours, same = (LibjpegTurbo().decode(data, min_side) for data in (turned, plain))
        assert ours.extent == same.extent
        assert np.abs(ours.rgb.astype(int) - same.rgb).mean() < 3
    opened = Image.open(io.BytesIO(encode(colors, "PNG", icc_profile=profile)))
    assert np.abs(np.asarray(upright_rgb(opened)) - hand).max() <= 1.5
    half = colors.copy()
    half.putalpha(128)
    assert gap(encode(half, "PNG", icc_profile=profile), hand * 128 / 255 + 127) <= 2
    few = colors.quantize(16)
    shades = by_hand(np.asarray(few.convert("RGB")), name)
    assert gap(encode(few, "PNG", icc_profile=profile), shades) <= 1.5


def test_heic(colors):
    pillow_heif = pytest.importorskip("pillow_heif")
    profile = PROFILES["Display P3"]
    heif = pillow_heif.from_pillow(colors)
    heif.info["icc_profile"] = profile
    encoded = io.BytesIO()
    heif.save(encoded, quality=-1, chroma=444)
    assert gap(encoded.getvalue(), by_hand(np.asarray(colors), "Display P3")) <= 4
    wide = pillow_heif.from_pillow(colors)
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.info["exif"] = exif.tobytes()
    encoded = io.BytesIO()
    wide.save(encoded, quality=-1, chroma=444)
    assert gap(encoded.getvalue(), np.rot90(np.asarray(colors), -1)) <= 3


def test_srgb_profiles_cost_nothing(colors, encode, monkeypatch):
    """Whatever they are named, the pixels stay bit for bit, and each profile is looked at once."""
    built, build = [], ImageCms.buildTransform
    monkeypatch.setattr(ImageCms, "buildTransform", lambda *given: built.append(given) or build(*given))
    # Of another black (a curve of its own), rounded to 1/4096: as such profiles differ.
    for profile in (_matrix_profile(SRGB, srgb_curve), _matrix_profile(SRGB, lambda x: srgb_curve(x).round(4))):
        built.clear()
        for _ in range(3):
            for mode in ("RGB", "RGBA"):
                data = encode(colors.convert(mode), "PNG", icc_profile=profile)
                assert gap(data, np.asarray(colors)) == 0
        assert len(built) <= 1


def gray_profile(gamma: float) -> bytes:
    """An ICC profile of gray with a gamma."""
    curve = struct.pack(">4s4xIH2x", b"curv", 1, round(gamma * 256))
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    return profile_of(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": curve, b"wtpt": white})


def ink_profile() -> bytes:
    """An ICC profile of four inks whose corners are given in Lab: no ink at all like the naive ones."""
    corners = np.random.default_rng(3).integers(60, 200, (16, 3), dtype=np.uint8)
    corners[0] = (255, 128, 128)  # paper
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = struct.pack(">4s4x3Bx", b"mft1", 4, 3, 2) + matrix + identity * 4 + corners.tobytes() + identity * 3
    return profile_of(b"CMYK", b"Lab ", b"prtr", {b"A2B0": table})


def profile_of(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    start, entries, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        entries += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x02400000, kind, space, connection, b"acsp")
    return head + struct.pack(">3i48xI", 63190, 65536, 54061, len(tags)) + entries + body


def test_gray_and_ink(encode):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    linear = srgb_curve(np.linspace(0, 1, 256))  # of sRGB; what gamma 1 stands for is its inverse
    dark = np.array([np.abs(linear - level / 255).argmin() for level in range(256)]).reshape(16, 16)
    for image, fmt in (
        (Image.fromarray(ramp), "PNG"),
        (Image.fromarray(ramp), "TIFF"),
        (Image.merge("LA", (Image.fromarray(ramp), Image.new("L", (16, 16), 255))), "PNG"),
        (Image.fromarray(ramp.astype(np.uint16) * 257), "TIFF"),
    ):
        expected = np.repeat(dark[..., None], 3, axis=2)
        assert gap(encode(image, fmt, icc_profile=gray_profile(1.0)), expected) <= 1, (image.mode, fmt)
    # A JPEG on the fast path; a gray image with the profile of its RGB original.
    smooth = Image.fromarray(np.kron(ramp[::4, ::4], np.ones((16, 16), np.uint8)))
    for profile, picture in ((gray_profile(1.8), smooth), (PROFILES["ProPhoto"], smooth.convert("RGB"))):
        data = encode(smooth, quality=100, icc_profile=profile)
        assert gap(data, by_littlecms(picture, profile)) <= 2
    inks = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8), mode="CMYK")
    for fmt in ("TIFF", "JPEG"):
        data = encode(inks, fmt, icc_profile=ink_profile(), **({"quality": 100} if fmt == "JPEG" else {}))
        stored = Image.open(io.BytesIO(data))
        stored.load()
        assert gap(data, by_littlecms(stored, ink_profile())) == 0
        assert np.abs(np.asarray(stored.convert("RGB")) - np.asarray(decode(data)).astype(int)).max() > 30


def png_with(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Put chunks behind the header."""
    added = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return png[:33] + added + png[33:]


def test_what_stands_in_place_of_a_profile(colors, encode):
    png, rgb = encode(colors, "PNG"), np.asarray(colors)
    gamma = (b"gAMA", struct.pack(">I", 45455))
    wide = (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000))
    p3, srgb = ((b"cICP", bytes([primaries, 13, 0, 1])) for primaries in (12, 1))
    adobe = by_hand(rgb, "Adobe RGB")
    for chunks, expected, most in (
        ((gamma,), rgb, 0),
        ((gamma, (b"sRGB", b"\0"), wide), rgb, 0),
        ((gamma, wide), adobe, 2),
        ((p3,), by_hand(rgb, "Display P3"), 1.5),
        ((srgb, gamma, wide), rgb, 0),
        (((b"gAMA", struct.pack(">I", 0)),), rgb, 0),
        (((b"cHRM", b"\0" * 32), (b"gAMA", struct.pack(">I", 100000))), rgb, 0),
    ):
        assert gap(png_with(png, *chunks), expected) <= most, chunks
    linear = png_with(encode(Image.new("L", (4, 4), 55), "PNG"), (b"gAMA", struct.pack(">I", 100000)))
    assert gap(linear, np.full((4, 4, 3), 128)) <= 1
    # Cameras mark Adobe RGB in EXIF alone, and the mark R98 is sRGB's.
    for index, expected in (("R03", adobe), ("R98", rgb)):
        exif = Image.Exif()
        exif[0x8769] = {0xA001: 65535, 0xA005: {1: index}}
        data = encode(colors, "PNG", exif=exif)
        assert gap(data, expected) <= 1.5, index


def test_a_profile_that_cannot_be_applied_is_left_and_said(colors, encode):
    whole = PROFILES["Display P3"]
    for profile, reason in (
        (whole[:200], "its color profile is damaged and was not applied"),
        (b"nonsense", "its color profile is damaged and was not applied"),
        (gray_profile(1.0), "its color profile is for GRAY and was not applied"),
        (ink_profile(), "its color profile is for CMYK and was not applied"),
    ):
        for fmt in ("JPEG", "PNG"):
            data = encode(colors, fmt, icc_profile=profile)
            for min_side in (None, 8):
                scaled = LibjpegTurbo().decode(data, min_side)
                assert scaled.note == reason
                assert np.array_equal(scaled.rgb, LibjpegTurbo().decode(encode(colors, fmt), min_side).rgb)
