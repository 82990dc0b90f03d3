"""Bytes to pixels: by hand for every format, and every decoder alike; a JPEG also at a known part of its size."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from itertools import product
from unittest.mock import Mock

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps, features

from hybrid.errors import ConfigError, UnreadableImageError
from hybrid.images import decode as decode_module
from hybrid.images import limits
from hybrid.images.decode import Scaled, decode
from hybrid.images.decoders import Decoder, LibjpegTurbo, Pillow

LOSSLESS = ["PNG", "WEBP", "BMP", "TIFF"]
FORMATS = [*LOSSLESS, "JPEG", "GIF"]
DECODERS = {"libjpeg-turbo": LibjpegTurbo(), "pillow": Pillow()}
# Eighths of a JPEG's size that they can give.
EIGHTHS = {"libjpeg-turbo": (1, 2, 3, 4), "pillow": (1, 2, 4)}


@pytest.fixture(params=DECODERS)
def decoder(request) -> Decoder:
    return DECODERS[request.param]


def pixels(data: bytes) -> np.ndarray:
    """RGB of the whole image, by every decoder alike."""
    image = decode(data)
    assert (image.mode, type(image)) == ("RGB", Image.Image)
    for decoder in DECODERS.values():
        scaled = decoder.decode(data)
        assert np.array_equal(scaled.rgb, image)
        assert scaled.extent == scaled.rgb.shape[:2]
        assert scaled.rgb.flags.writeable
        assert scaled.rgb.flags.c_contiguous
    return np.asarray(image)


def pillows(data: bytes) -> np.ndarray:
    """Upright RGB by Pillow alone."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.fixture
def image() -> np.ndarray:
    smooth = np.random.default_rng(0).integers(30, 225, (2, 3, 3), dtype=np.uint8)
    return np.kron(smooth, np.ones((16, 16, 1), dtype=np.uint8))


@pytest.fixture
def turbo(monkeypatch) -> list[int]:
    """Notes every JPEG that libjpeg-turbo is given."""
    calls, read = [], LibjpegTurbo._read_jpeg
    monkeypatch.setattr(LibjpegTurbo, "_read_jpeg", lambda *given: calls.append(given[-1]) or read(*given))
    return calls


# Formats


def test_each_format_gives_the_pixels(image, encode):
    picture, options = Image.fromarray(image), {"quality": 95, "subsampling": 0}
    for data, most in (
        *((encode(picture, fmt), 0) for fmt in LOSSLESS),
        *((encode(picture, "TIFF", compression=name), 0) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate")),
        (encode(picture, **options), 4),
        (encode(picture, progressive=True, **options), 4),
        (encode(picture, "MPO", save_all=True, append_images=[ImageOps.invert(picture)], **options), 4),
        (encode(picture, "TIFF", compression="jpeg", quality=95), 6),
    ):
        assert np.abs(pixels(data).astype(int) - image).max() <= most


def test_first_frame_or_page_is_taken(encode):
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    for fmt in ("GIF", "WEBP", "TIFF"):
        data = encode(first, fmt, save_all=True, append_images=[second])
        assert Image.open(io.BytesIO(data)).n_frames == 2
        assert (pixels(data) == (255, 0, 0)).all()


# What each EXIF orientation asks for: how the stored array becomes the upright one (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
    0: lambda a: a,  # unknown ones
    9: lambda a: a,
    300: lambda a: a,
}


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(image, encode, fmt):
    options = {"quality": 95, "subsampling": 0} if fmt == "JPEG" else {}
    for orientation, upright in UPRIGHT.items():
        data = encode(Image.fromarray(image), fmt, orientation, **options)
        assert np.abs(pixels(data).astype(int) - upright(image)).max() <= 4, orientation
        again = ImageOps.exif_transpose(decode(data))
        assert np.array_equal(again, decode(data)), "a later step must not turn it again"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_broken_exif_leaves_the_image_as_it_is(picture, encode, decoder):
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x07", b""):
        data = encode(picture(48, 32), exif=exif)
        assert pixels(data).shape == (32, 48, 3)
        assert decoder.decode(data, 16).rgb.shape == (16, 24, 3)


def test_cmyk(encode):
    for fmt, most in (("JPEG", 3), ("TIFF", 0)):
        for ink, rgb in (
            ((0, 0, 0, 0), (255, 255, 255)),
            ((0, 255, 255, 0), (255, 0, 0)),
            ((255, 0, 255, 0), (0, 255, 0)),
            ((255, 255, 0, 0), (0, 0, 255)),
            ((0, 0, 0, 255), (0, 0, 0)),
            ((0, 0, 0, 128), (127, 127, 127)),
        ):
            decoded = pixels(encode(Image.new("CMYK", (16, 16), ink), fmt))
            assert np.abs(decoded.astype(int) - rgb).max() <= most


def test_palette_one_bit_and_gray(encode):
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 200, 0, 10, 20, 30])
    palette.putdata([2, 0, 1])
    bits = np.array([[True, False, True], [False, False, True]])
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for fmt in ("PNG", "BMP", "GIF", "TIFF"):
        assert pixels(encode(palette, fmt)).tolist() == [[[10, 20, 30], [255, 0, 0], [0, 200, 0]]]
        assert np.array_equal(pixels(encode(Image.fromarray(bits), fmt)), np.repeat(bits[..., None] * 255, 3, axis=2))
    for fmt in (*LOSSLESS, "GIF"):
        assert np.array_equal(pixels(encode(Image.fromarray(gray), fmt)), np.repeat(gray[..., None], 3, axis=2))


def test_alpha_is_laid_over_white(encode):
    alpha = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8, 1)
    for mode, fmt in (("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "PNG")):
        color = np.random.default_rng(1).integers(0, 256, (8, 8, 1 if mode == "LA" else 3), dtype=np.uint8)
        image = Image.fromarray(np.concatenate([color, alpha], axis=2), mode=None)
        assert image.mode == mode
        over_white = color * (alpha / 255) + 255 * (1 - alpha / 255)
        options = {"exact": True} if fmt == "WEBP" else {}
        assert np.abs(pixels(encode(image, fmt, **options)) - over_white).max() <= 1


def test_transparent_palette_entries_and_colors(encode):
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 200, 0, 10, 20, 30])
    palette.putdata([0, 1, 2])
    half = [[[255, 127, 127], [0, 200, 0], [255, 255, 255]]]
    decoded = pixels(encode(palette, "PNG", transparency=bytes([128, 255, 0])))
    assert np.abs(decoded.astype(int) - half).max() <= 1
    hole = [[[255, 0, 0], [255, 255, 255], [10, 20, 30]]]
    for fmt in ("PNG", "GIF"):
        assert pixels(encode(palette, fmt, transparency=1)).tolist() == hole
    keyed = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8))
    assert pixels(encode(keyed, "PNG", transparency=(9, 9, 9))).tolist() == [[[1, 2, 3], [255, 255, 255]]]


RAMP = np.array([[0, 1, 128, 129, 257], [32768, 40000, 65278, 65407, 65535]], dtype=np.uint16)
# Rounded to 8 bits in whole numbers, and repeated for the three channels.
RAMP_8_BIT = [[[(int(v) * 2 * 255 + 65535) // (2 * 65535)] * 3 for v in row] for row in RAMP]


def patch_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """Overwrite a one-value SHORT or LONG tag of a little-endian TIFF."""
    for kind in (3, 4):
        head = struct.pack("<HHI", tag, kind, 1)
        if head in tiff:
            at = tiff.index(head) + len(head)
            return tiff[:at] + struct.pack("<I", value) + tiff[at + 4 :]
    raise AssertionError(f"no tag {tag}")


def test_deep_gray_is_scaled(encode):
    big_endian = encode(Image.frombytes("I;16B", (5, 2), RAMP.astype(">u2").tobytes()), "TIFF")
    assert big_endian[:2] == b"MM"
    ramp = Image.fromarray(RAMP)
    in_32_bit = encode(Image.fromarray(RAMP.astype(np.int32)), "TIFF")
    for data in (encode(ramp, "PNG"), encode(ramp, "TIFF"), big_endian, in_32_bit):
        assert pixels(data).tolist() == RAMP_8_BIT
    zero_is_white = patch_tag(encode(ramp, "TIFF"), 262, 0)
    assert np.array_equal(pixels(zero_is_white), 255 - np.array(RAMP_8_BIT))
    # 12 bits, two samples in three bytes: 0xFFF and 0x800 of 4095.
    tiff = encode(Image.frombytes("L", (3, 1), bytes([0xFF, 0xF8, 0x00])), "TIFF")
    assert pixels(patch_tag(patch_tag(tiff, 256, 2), 258, 12)).tolist() == [[[255] * 3, [128] * 3]]
    # The white of 10, 12 and 14 bits, where the file says it (TIFF), and where the values do.
    for white in (1023, 4095, 16383):
        values = np.array([[0, white // 4, white // 2, white]], np.uint16)
        for fmt in ("PNG", "TIFF"):
            assert pixels(encode(Image.fromarray(values), fmt))[0, :, 0].tolist() == [0, 64, 127, 255]
    dark = encode(Image.fromarray(np.array([[0, 100, 511]], np.uint16)), "TIFF", tiffinfo={281: 1023})
    assert pixels(dark)[0, :, 0].tolist() == [0, 25, 127]
    for kind, values, expected in (
        (np.int32, [-1000, 0, 1_000_000, 2_000_000], [0, 0, 128, 255]),  # beyond 16 bits it is stretched
        (np.float32, [0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),
        (np.float32, [0.0, 10.0, 200.4, 255.0], [0, 10, 200, 255]),
        (np.float32, [-1.0, 0.0, 0.5, 1.0], [0, 128, 191, 255]),
        (np.float32, [0.0, 500.0, 750.0, 1000.0], [0, 128, 191, 255]),
        (np.float32, [0.0, np.nan, np.inf, 1.0], [0, 0, 0, 255]),
        (np.float32, [-3.0, -3.0, -3.0, -3.0], [0, 0, 0, 0]),
    ):
        assert pixels(encode(Image.fromarray(np.array([values], kind)), "TIFF"))[0, :, 0].tolist() == expected


def test_deep_colors_have_the_white_of_their_depth():
    """Pillow writes none, so that the files are made here: PNG, and TIFF of both byte orders."""

    def png(values: np.ndarray) -> bytes:
        height, width, channels = values.shape
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        parts = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    def tiff(values: np.ndarray, order: str) -> bytes:
        height, width, _ = values.shape
        start = 8 + 2 + 7 * 12 + 4
        tags = {256: width, 257: height, 258: start, 262: 2, 273: start + 6, 277: 3, 278: height}
        entry = {258: (3, 3)}
        body = b"".join(struct.pack(order + "HHII", tag, *entry.get(tag, (4, 1)), value) for tag, value in tags.items())
        head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(tags))
        return head + body + bytes(4) + struct.pack(order + "3H", 16, 16, 16) + values.astype(order + "u2").tobytes()

    rng = np.random.default_rng(0)
    for white in (1023, 4095, 16383):
        values = rng.integers(0, white + 1, (5, 7, 3))
        values[0, 0] = white
        for data in (png(values), tiff(values, "<"), tiff(values, ">")):
            assert np.array_equal(pixels(data), np.rint(values * 255 / white))
    opaque = np.concatenate([values, np.full((5, 7, 1), 65535)], axis=2)
    assert np.array_equal(pixels(png(opaque)), np.rint(values * 255 / white))
    assert np.array_equal(pixels(png(values * 4)), values * 4 >> 8), "of 16 bits the upper 8, as ever"


def test_lab_and_ycbcr_tiff(encode):
    # sRGB red in CIE L*a*b* (D50) is about (54.3, 80.8, 69.9); 8-bit LAB stores L * 2.55 and a, b as offsets.
    lab = Image.frombytes("LAB", (1, 1), bytes([138, 81, 70]))
    assert np.abs(pixels(encode(lab, "TIFF")).astype(int) - (255, 0, 0)).max() <= 6
    # JFIF: Y = .299 R + .587 G + .114 B, Cb = 128 + (B - Y) / 1.772, Cr = 128 + (R - Y) / 1.402: (124, 86, 182).
    # Compressed, because older versions of Pillow cannot read uncompressed YCbCr TIFFs.
    data = encode(Image.frombytes("YCbCr", (1, 1), bytes([124, 86, 182])), "TIFF", compression="tiff_lzw")
    assert np.abs(pixels(data).astype(int) - (200, 100, 50)).max() <= 2


def test_other_formats_are_decoded_whole_whatever_is_asked_for(picture, encode, turbo, decoder):
    for fmt, mode in product((*LOSSLESS, "GIF"), ("RGB", "L", "RGBA", "P", "1")):
        # Pillow writes no transparent BMP, and a GIF of a palette alone.
        data = encode(picture(21, 13, "RGB" if (fmt, mode) == ("BMP", "RGBA") else mode), fmt)
        for min_side in (1, 4):
            scaled = decoder.decode(data, min_side)
            assert np.array_equal(scaled.rgb, pixels(data))
            assert scaled.extent == (13, 21)
    assert not turbo
    pixel = encode(Image.new("RGB", (1, 1), (90, 90, 90)))
    assert [decoder.decode(pixel, side).rgb.tolist() for side in (None, 1, 64)] == [[[[90, 90, 90]]]] * 3


# JPEGs


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_at_full_size_is_pillows_bit_for_bit(picture, encode, turbo, mode, progressive):
    for size in ((64, 48), (48, 64), (61, 47), (33, 17), (9, 7), (1, 20), (1, 1)):
        for orientation in range(1, 9):
            data = encode(picture(*size, mode), orientation=orientation, quality=80, progressive=progressive)
            assert np.array_equal(pixels(data), pillows(data))
    # Ink is Pillow's to translate.
    assert len(turbo) == (0 if mode == "CMYK" else 7 * 8)


def test_ways_to_store_a_jpeg(picture, encode, turbo):
    for options in (
        *({"subsampling": n} for n in (0, 1, 2)),
        *({name: True} for name in ("optimize", "keep_rgb")),
        {"quality": 5},
        {"restart_marker_blocks": 2},
    ):
        data = encode(picture(61, 47), **options)
        turbo.clear()
        assert np.array_equal(pixels(data), pillows(data)), options
        assert turbo == [8], options


def test_several_pictures_in_a_jpeg_give_the_first(picture, encode, decoder):
    first, second = picture(40, 30), picture(40, 30, seed=1)
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.array_equal(pixels(data), pixels(encode(first)))
    scaled = decoder.decode(data, 4)
    assert scaled.rgb.shape == (4, 5, 3), "such files of phones are decoded small too"
    assert np.array_equal(scaled.rgb, decoder.decode(encode(first), 4).rgb)


def test_size_and_extent_by_hand(picture, encode):
    for size, min_side, shape, extent in (
        # 640 x 480: 1/8 is 60 high, 2/8 is 120, 3/8 is 180, 4/8 is 240.
        ((640, 480), 60, (60, 80), (60, 80)),
        ((640, 480), 61, (120, 160), (120, 160)),
        ((640, 480), 121, (180, 240), (180, 240)),
        ((640, 480), 240, (240, 320), (240, 320)),
        ((640, 480), 241, (480, 640), (480, 640)),  # 5/8 to 7/8 are slower than the whole
        ((480, 640), 200, (320, 240), (320, 240)),
        # 427 / 2 = 213.5: the last row stands for half a pixel.
        ((640, 427), 214, (214, 320), (213.5, 320)),
        ((640, 427), 215, (427, 640), (427, 640)),
        ((333, 101), 38, (38, 125), (37.875, 124.875)),  # 3/8
        ((15, 9), 2, (2, 2), (1.125, 1.875)),
        ((40, 30), 64, (30, 40), (30, 40)),  # smaller than asked for
    ):
        scaled = LibjpegTurbo().decode(encode(picture(*size)), min_side)
        assert scaled.rgb.shape == (*shape, 3), (size, min_side)
        assert scaled.extent == extent, (size, min_side)


def test_the_shorter_side_is_long_enough_with_as_little_as_possible(picture, encode, decoder):
    rng = np.random.default_rng(0)
    for _ in range(250):
        width, height = (int(n) for n in rng.integers(1, 260, 2))
        min_side, orientation = int(rng.integers(1, 130)), int(rng.integers(1, 9))
        data = encode(picture(width, height), orientation=orientation)
        scaled, (full_height, full_width, _) = decoder.decode(data, min_side), pillows(data).shape
        shape, case = scaled.rgb.shape[:2], (width, height, min_side, orientation)
        assert min(shape) >= min(min_side, width, height), case
        # One scale for both sides, in eighths; arrays hold whole pixels.
        eighths = 8 * scaled.extent[0] / full_height
        assert scaled.extent[1] == full_width * eighths / 8, case
        assert shape == tuple(np.ceil(scaled.extent)), case
        allowed = [k for k in EIGHTHS[decoder.name] if np.ceil(min(width, height) * k / 8) >= min_side]
        if orientation != 1 and allowed and (width * allowed[0] % 8 or height * allowed[0] % 8):
            allowed = []  # a part of a pixel would come to stand at the wrong end
        if decoder.name == "pillow" and allowed and min(width, height) * allowed[0] < 8:
            allowed = []  # it gives no less than a pixel
        assert eighths == (allowed or [8])[0], case


def test_decoders_agree_on_scaled_pixels(picture, encode):
    """Bit for bit at halves, quarters and eighths of baseline, progressive, turned and odd-sized JPEGs."""
    for size, mode in product(((640, 480), (641, 427), (333, 101), (97, 64), (15, 9)), ("RGB", "L")):
        for min_side in (min(size) // 8, min(size) // 4, min(size) // 2):
            for options in ({}, {"progressive": True}, {"orientation": 6}, {"subsampling": 0}):
                data = encode(picture(*size, mode), **options)
                turbo, pillow = (decoder.decode(data, min_side) for decoder in DECODERS.values())
                if turbo.extent == pillow.extent:
                    assert np.array_equal(turbo.rgb, pillow.rgb)
                else:  # three eighths
                    assert turbo.extent[0] / pillow.extent[0] == 3 / 4


def test_a_scaled_image_is_turned_as_the_whole_is(picture, encode, decoder):
    """Against the upright whole, scaled alike."""
    for size, orientation in product(((96, 64), (97, 63)), range(1, 9)):
        data = encode(picture(*size), orientation=orientation, quality=95, subsampling=0)
        rgb = decoder.decode(data, 16).rgb
        if size == (97, 63) and orientation > 1:
            assert np.array_equal(rgb, pillows(data))
            continue
        upright = decoder.decode(encode(Image.fromarray(pillows(data)), quality=95, subsampling=0), 16).rgb
        assert rgb.shape == upright.shape
        assert np.abs(rgb.astype(int) - upright).mean() < 1.5
        assert rgb.flags.c_contiguous


def test_scaled_pixels_are_means_of_the_whole(picture, encode, decoder):
    """Half the size: every pixel is nearly the mean of four."""
    data = encode(picture(160, 120), quality=100, subsampling=0)
    means = pillows(data).astype(float).reshape(60, 2, 80, 2, 3).mean((1, 3))
    scaled = decoder.decode(data, 60)
    assert scaled.extent == (60, 80)
    assert np.abs(scaled.rgb - means).mean() < 1


def test_what_turbo_finds_fault_with_goes_through_pillow(picture, encode, monkeypatch):
    data = encode(picture(61, 47))
    damaged = data[:-2] + b"\0" * 40 + data[-2:]
    assert np.array_equal(LibjpegTurbo().decode(damaged).rgb, decode(damaged))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", Mock(side_effect=ValueError("no")))
    scaled = LibjpegTurbo().decode(data, 8)
    assert np.array_equal(scaled.rgb, pillows(data))
    assert scaled.extent == (47, 61)


# Damage


def outcome(run: Callable[[bytes], object], data: bytes) -> object:
    """Pixels as bytes, or the reason."""
    try:
        image = run(data)
    except UnreadableImageError as error:
        return error.what
    return (image.rgb if isinstance(image, Scaled) else np.asarray(image)).tobytes()


def test_what_is_not_an_image(image, encode, decoder):
    for data in (b"hello, I am text", b"\xff\xd8\xff", b"<html></html>", b"\0" * 1000, b"BM", b""):
        reason = r"not an image|damaged|cut off" if data else "the file is empty"
        for run in (decode, decoder.decode):
            with pytest.raises(UnreadableImageError, match=reason):
                run(data)
    for fmt in ("PPM", "ICO", "TGA", "EPS", "PCX"):
        with pytest.raises(UnreadableImageError, match="not an image"):
            decode(encode(Image.fromarray(image), fmt))
    no_pixels = bytearray(encode(Image.new("RGB", (4, 4)), "BMP"))
    no_pixels[18:22] = struct.pack("<i", 0)
    with pytest.raises(UnreadableImageError):
        decode(bytes(no_pixels))


@pytest.mark.parametrize("fmt", FORMATS)
def test_truncated(encode, fmt):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), fmt)
    for share in (0.1, 0.5, 0.8):
        with pytest.raises(UnreadableImageError):
            decode(data[: int(len(data) * share)])


def test_a_file_is_read_without_its_end_while_all_pixels_are_there(picture, encode, decoder):
    """Whatever is read of a cut file has the pixels of the whole, and says that its end is missing."""
    for fmt, options in (
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("JPEG", {"quality": 90, "restart_marker_blocks": 2}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("BMP", {}),
    ):
        whole, read = encode(picture(37, 21), fmt, **options), []
        for missing in (*range(1, 70), len(whole) // 3):
            found = outcome(decoder.decode, whole[:-missing])
            if isinstance(found, bytes):
                assert found == decode(whole).tobytes(), (fmt, options, missing)
                read.append(missing)
            else:
                assert found == "the image is cut off", (fmt, options, missing)
        assert 1 in read, (fmt, options)
        assert read == [1, 2] if fmt == "JPEG" else len(read) <= 22, (fmt, options)
        note = "its last bytes are missing, all pixels are there"
        assert fmt in ("GIF", "BMP") or decoder.decode(whole[: -max(read)]).note == note
    half = decoder.decode(encode(picture(64, 48))[:-2], 24)
    assert (half.extent, half.note) == ((24, 32), "its last bytes are missing, all pixels are there")
    assert decoder.decode(encode(picture(64, 48)), 24).note == ""


def test_a_progressive_jpeg_without_its_last_scans_is_cut_off(picture, encode, decoder):
    """Cut where a scan ends it is a whole file, of fewer details."""
    whole = encode(picture(61, 47), progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for end in scans[2:]:
        assert outcome(lambda data: decoder.decode(data, 8), whole[:end]) == "the image is cut off"


def test_a_jpeg_of_thousands_of_scans_is_refused(picture, encode, decoder):
    """Each of a hundred bytes, and as long to decode as the whole image."""
    data = encode(picture(61, 47), progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    for count, reason in ((5, None), (200, "the image is refused: a JPEG of 2")):
        found = outcome(lambda data: decoder.decode(data, 8), data[:-2] + last * count + data[-2:])
        assert isinstance(found, bytes) if reason is None else found.startswith(reason)


def test_a_jpeg_that_is_cut_off_gives_the_same_reason_everywhere(picture, encode, decoder):
    whole = encode(picture(61, 47), quality=90)
    for end in range(1, len(whole) - 2, 9):
        reason = outcome(decode, whole[:end])
        assert isinstance(reason, str)
        for min_side in (None, 8):
            assert outcome(lambda data, side=min_side: decoder.decode(data, side), whole[:end]) == reason


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("fmt", FORMATS)
def test_damaged_bytes_are_judged_alike_and_raise_nothing_else(picture, encode, decoder, fmt):
    rng = np.random.default_rng(1)
    whole = encode(picture(61, 47), fmt)
    expected = []
    for case in range(150):
        data = bytearray(whole)
        for position in rng.integers(0, len(data) if case % 2 else min(len(data), 400), int(rng.integers(1, 9))):
            data[position] = rng.integers(0, 256)
        expected.append(outcome(decode, bytes(data)))
        assert isinstance(expected[-1], bytes) or (len(expected[-1]) < 200 and "\n" not in expected[-1])
        assert outcome(decoder.decode, bytes(data)) == expected[-1]
        scaled = outcome(lambda data: decoder.decode(data, 8), bytes(data))
        assert scaled == expected[-1] if isinstance(expected[-1], str) else isinstance(scaled, bytes)
    reasons = sum(isinstance(result, str) for result in expected)
    assert reasons > 10
    assert fmt != "JPEG" or reasons < 130


def test_large_metadata_do_not_make_a_png_unreadable(image, encode, decoder):
    png = encode(Image.fromarray(image), "PNG")
    for name, body in (
        (b"iCCP", b"x\0\0" + zlib.compress(np.random.default_rng(0).bytes(2**20 + 1))),
        (b"zTXt", b"workflow\0\0" + zlib.compress(b"a" * 2**21)),
    ):
        chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for data in (png[:33] + chunk + png[33:], png[:-12] + chunk + png[-12:]):
            scaled = decoder.decode(data, 8)
            assert np.array_equal(scaled.rgb, image)
            # Behind the pixels Pillow reads no profile.
            assert "metadata are too large" in scaled.note or data.index(name) > data.index(b"IDAT")


def test_the_reason_says_what_a_file_is(monkeypatch):
    boxes = b"\0\0\0\x18ftyp%s\0\0\0\0mif1%s"
    for data, reason in (
        (b"<!DOCTYPE html><html><body>404", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1", "git lfs pull"),
        (b'{"error": "not found"}', "not an image but JSON"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04" + b"\0" * 40, "a ZIP archive"),
        (boxes % (b"isom", b"mp41"), "a video"),
        (b"P5 2 2 255 \0\0\0\0", "a PBM, PGM or PPM image"),
        (b"\0" * 4096, "zeros alone"),
        (b"\x89PNG\r\n\x1a\n", "the PNG image is damaged"),
        (bytes(range(200, 256)), "not an image, or damaged at its start"),
    ):
        assert reason in str(outcome(decode, data)), data
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for major, other in ((b"heic", b"heic"), (b"mif1", b"heic")):
        reason = outcome(decode, boxes % (major, other) + b"\0" * 200)
        assert reason.startswith("a HEIC image, as phones write it: pip install 'hybrid-classifier[heif]'")
    monkeypatch.setattr(features, "check", lambda name: False)
    assert "an AVIF image, which Pillow reads from 11.3 on" in outcome(decode, boxes % (b"mif1", b"avif"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(monkeypatch, picture, encode, decoder):
    files = [encode(picture(64, 48), fmt) for fmt in (*FORMATS, "AVIF") if fmt != "AVIF" or features.check("avif")]
    limits.max_pixels.cache_clear()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for data, min_side in product(files, (None, 1)):
        with pytest.raises(UnreadableImageError, match=r"too many pixels.*HYBRID_MAX_PIXELS=3072") as caught:
            decoder.decode(data, min_side)
        assert caught.value.expected is None
    monkeypatch.setenv(limits.MAX_PIXELS, "3072")
    limits.max_pixels.cache_clear()
    assert decoder.decode(files[0], None).rgb.shape == (48, 64, 3)
    monkeypatch.setenv(limits.MAX_PIXELS, "many")
    limits.max_pixels.cache_clear()
    with pytest.raises(ConfigError, match="HYBRID_MAX_PIXELS is not a number of pixels"):
        decoder.decode(files[0], None)
    monkeypatch.undo()
    limits.max_pixels.cache_clear()


def test_a_large_image_is_made_small_at_once(monkeypatch, picture, encode, decoder):
    """By means of whole blocks, and only as far as is allowed."""
    image = picture(120, 80)
    means = np.asarray(image, float).reshape(20, 4, 30, 4, 3).mean((1, 3))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    monkeypatch.setattr(decode_module, "LARGE", 1000)
    for data in (encode(image, "PNG"), encode(image.convert("RGBA"), "TIFF")):
        assert decoder.decode(data, None).rgb.shape == (80, 120, 3)
        scaled = decoder.decode(data, 20)
        assert scaled.extent == (20, 30)
        assert np.abs(scaled.rgb - means).max() <= 0.51
    assert decoder.decode(encode(deep, "PNG"), 30).rgb.shape == (40, 60, 3)
    turned = decoder.decode(encode(image, "PNG", orientation=6), 20).rgb
    assert np.array_equal(turned, np.rot90(decoder.decode(encode(image, "PNG"), 20).rgb, -1))
