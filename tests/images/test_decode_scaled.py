"""`decode_scaled`: at full size Pillow's pixels bit for bit, below it a known part of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from hybrid.errors import UnreadableImageError
from hybrid.images.decode import Scaled, decode
from hybrid.images.decoders import LibjpegTurbo

SIZES = [(64, 48), (48, 64), (61, 47), (33, 17), (9, 7), (1, 20), (1, 1)]
ORIENTATION = 0x0112


def decode_scaled(data: bytes, min_side: int | None = None) -> Scaled:
    return LibjpegTurbo().decode(data, min_side)


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Blurred noise: edges in both directions, and no two parts alike."""
    rng = np.random.default_rng((seed, width, height))
    coarse = rng.integers(0, 256, (max(2, height // 5), max(2, width // 5), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, fmt: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def turned(image: Image.Image, orientation: int, fmt: str = "JPEG", **options: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, fmt, exif=exif, **options)


def pillows(data: bytes) -> np.ndarray:
    """Upright RGB by Pillow alone."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.fixture
def decoders(monkeypatch) -> list[str]:
    """Notes down who decodes: "turbo", and the shape that it was asked for at least."""
    calls: list[str] = []
    decode_jpeg = simplejpeg.decode_jpeg

    def watched(data: bytes, *rest: object, **options: object) -> np.ndarray:
        calls.append("turbo")
        return decode_jpeg(data, *rest, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    return calls


# Full size


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_jpeg_at_full_size_is_pillows_bit_for_bit(decoders, size, mode, progressive):
    for orientation in range(1, 9):
        data = turned(picture(*size, mode), orientation, quality=80, progressive=progressive)
        found = decode_scaled(data)
        assert np.array_equal(found.rgb, pillows(data))
        assert np.array_equal(found.rgb, np.asarray(decode(data)))
        assert found.extent == found.rgb.shape[:2]
        assert (found.rgb.dtype, found.rgb.shape[2]) == (np.uint8, 3)
        assert found.rgb.flags.writeable
    # Ink is Pillow's to translate.
    assert len(decoders) == (0 if mode == "CMYK" else 8)


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"quality": 5},
        {"restart_marker_blocks": 2},
        {"optimize": True},
        {"keep_rgb": True},
    ],
    ids=str,
)
def test_ways_to_store_a_jpeg(decoders, options):
    data = encode(picture(61, 47), **options)
    assert np.array_equal(decode_scaled(data).rgb, pillows(data))
    assert decoders == ["turbo"]


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_other_formats_are_as_decode_gives_them(decoders, fmt, mode):
    # Pillow writes no transparent BMP, and a GIF of a palette alone.
    image = picture(21, 13).convert("RGB" if (fmt, mode) == ("BMP", "RGBA") else mode)
    data = encode(image, fmt)
    for min_side in (None, 1, 4):
        found = decode_scaled(data, min_side)
        assert np.array_equal(found.rgb, np.asarray(decode(data)))
        assert found.extent == (13, 21)
    assert not decoders


def test_several_pictures_in_a_jpeg_give_the_first():
    first, second = picture(40, 30), picture(40, 30, seed=1)
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.array_equal(decode_scaled(data).rgb, np.asarray(decode(data)))
    assert decode_scaled(data, 4).rgb.shape == (4, 5, 3), "such files of phones are decoded small too"
    alone = encode(first, "JPEG")
    assert np.array_equal(decode_scaled(data, 4).rgb, decode_scaled(alone, 4).rgb)


def test_one_pixel():
    for fmt in ("JPEG", "PNG"):
        for min_side in (None, 1, 64):
            found = decode_scaled(encode(Image.new("RGB", (1, 1), (90, 90, 90)), fmt), min_side)
            assert found.rgb.tolist() == [[[90, 90, 90]]]


# A part of the size


@pytest.mark.parametrize(
    ("size", "min_side", "shape", "extent"),
    [
        # 640 x 480: 1/8 is 60 high, 2/8 is 120, 3/8 is 180, 4/8 is 240.
        ((640, 480), 60, (60, 80), (60, 80)),
        ((640, 480), 61, (120, 160), (120, 160)),
        ((640, 480), 121, (180, 240), (180, 240)),
        ((640, 480), 200, (240, 320), (240, 320)),
        ((640, 480), 240, (240, 320), (240, 320)),
        ((640, 480), 241, (480, 640), (480, 640)),  # 5/8 to 7/8 are slower than the whole
        ((480, 640), 200, (320, 240), (320, 240)),
        # 427 / 2 = 213.5: the last row stands for half a pixel.
        ((640, 427), 200, (214, 320), (213.5, 320)),
        ((640, 427), 214, (214, 320), (213.5, 320)),
        ((640, 427), 215, (427, 640), (427, 640)),
        ((333, 101), 38, (38, 125), (37.875, 124.875)),  # 3/8
        ((333, 101), 13, (13, 42), (12.625, 41.625)),  # 1/8
        ((15, 9), 2, (2, 2), (1.125, 1.875)),
        ((40, 30), 64, (30, 40), (30, 40)),  # smaller than asked for
    ],
    ids=str,
)
def test_size_and_extent_by_hand(size, min_side, shape, extent):
    found = decode_scaled(encode(picture(*size)), min_side)
    assert found.rgb.shape == (*shape, 3)
    assert found.extent == extent


def test_the_shorter_side_covers_what_is_asked_with_as_little_as_possible():
    rng = np.random.default_rng(0)
    for _ in range(250):
        width, height = (int(n) for n in rng.integers(1, 260, 2))
        min_side, orientation = int(rng.integers(1, 130)), int(rng.integers(1, 9))
        data = turned(picture(width, height), orientation)
        found, (full_height, full_width, _) = decode_scaled(data, min_side), pillows(data).shape
        shape, case = found.rgb.shape[:2], (width, height, min_side, orientation)
        assert min(shape) >= min(min_side, width, height), case
        # One scale for both sides, in eighths; arrays hold whole pixels.
        eighths = 8 * found.extent[0] / full_height
        assert found.extent[1] == full_width * eighths / 8, case
        assert shape == tuple(np.ceil(found.extent)), case
        allowed = [k for k in (1, 2, 3, 4) if np.ceil(min(width, height) * k / 8) >= min_side]
        if orientation != 1 and allowed and (width * allowed[0] % 8 or height * allowed[0] % 8):
            allowed = []  # a part of a pixel would come to stand at the wrong end
        assert eighths == (allowed or [8])[0], case


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(96, 64), (97, 63)], ids=str)
def test_a_scaled_image_is_turned_as_the_whole_is(size, orientation):
    """Against the upright whole, scaled alike."""
    data = turned(picture(*size), orientation, quality=95, subsampling=0)
    found = decode_scaled(data, 16).rgb
    if size == (97, 63) and orientation > 1:
        assert np.array_equal(found, pillows(data))
        return
    upright = decode_scaled(encode(Image.fromarray(pillows(data)), quality=95, subsampling=0), 16).rgb
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 1.5
    assert found.flags.c_contiguous


def test_scaled_pixels_are_means_of_the_whole():
    """Half the size: every pixel is nearly the mean of four."""
    data = encode(picture(160, 120), quality=100, subsampling=0)
    whole = pillows(data).astype(float)
    means = whole.reshape(60, 2, 80, 2, 3).mean((1, 3))
    found = decode_scaled(data, 60)
    assert found.extent == (60, 80)
    assert np.abs(found.rgb - means).mean() < 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_gray_and_progressive_images_are_scaled_too(decoders, mode):
    for progressive in (False, True):
        found = decode_scaled(encode(picture(64, 48, mode), progressive=progressive), 6)
        assert found.rgb.shape == (6, 8, 3)
        assert mode == "RGB" or np.ptp(found.rgb, axis=2).max() == 0
    assert decoders == ["turbo"] * 2


# Damage


def outcome(run: Callable[[bytes], object], data: bytes) -> object:
    """Pixels as bytes, or the reason."""
    try:
        found = run(data)
    except UnreadableImageError as error:
        return error.what
    return (found.rgb if isinstance(found, Scaled) else np.asarray(found)).tobytes()


def test_no_bytes():
    with pytest.raises(UnreadableImageError, match="the file is empty"):
        decode_scaled(b"")


@pytest.mark.parametrize("min_side", [None, 8])
def test_a_jpeg_that_is_cut_off_gives_the_same_reason_everywhere(min_side):
    whole = encode(picture(61, 47), quality=90)
    for end in range(1, len(whole) - 2, 9):
        reason = outcome(decode, whole[:end])
        assert isinstance(reason, str)
        assert outcome(lambda data: decode_scaled(data, min_side), whole[:end]) == reason


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("min_side", [None, 8])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_damaged_bytes_are_judged_as_by_decode(fmt, min_side):
    rng = np.random.default_rng(1)
    whole = encode(picture(61, 47), fmt)
    reasons, readable = 0, 0
    for _ in range(200):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), int(rng.integers(1, 6))):
            data[position] = rng.integers(0, 256)
        expected = outcome(decode, bytes(data))
        found = outcome(lambda data: decode_scaled(data, min_side), bytes(data))
        reasons += isinstance(expected, str)
        readable += not isinstance(expected, str)
        assert found == expected if min_side is None or isinstance(expected, str) else isinstance(found, bytes)
    assert reasons > 20
    assert fmt == "PNG" or readable > 20


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x07", b""])
def test_broken_exif_leaves_the_image_as_it_is(exif):
    assert decode_scaled(encode(picture(48, 32), exif=exif), 16).rgb.shape == (16, 24, 3)


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_unknown_orientation_is_upright(orientation):
    data = turned(picture(61, 47), orientation)
    assert np.array_equal(decode_scaled(data).rgb, np.asarray(Image.open(io.BytesIO(data))))


def test_too_many_pixels_are_refused_whatever_is_asked_for(monkeypatch):
    data = encode(picture(64, 48))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for min_side in (None, 1):
        with pytest.raises(UnreadableImageError, match="too many pixels"):
            decode_scaled(data, min_side)


def test_what_turbo_finds_fault_with_goes_through_pillow(decoders, monkeypatch):
    data = encode(picture(61, 47))
    damaged = data[:-2] + b"\0" * 40 + data[-2:]
    assert np.array_equal(decode_scaled(damaged).rgb, np.asarray(decode(damaged)))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *rest, **options: (_ for _ in ()).throw(ValueError("no")))
    found = decode_scaled(data, 8)
    assert np.array_equal(found.rgb, pillows(data))
    assert found.extent == (47, 61)


def test_threads_agree():
    files = [turned(picture(61, 47, seed=seed), seed % 8 + 1) for seed in range(8)] * 8
    expected = [decode_scaled(data, 12).rgb for data in files]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda data: decode_scaled(data, 12).rgb, files)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
