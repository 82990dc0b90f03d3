from __future__ import annotations

import io
import struct
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from hybrid.errors import UnreadableImageError
from hybrid.images.decode import decode
from hybrid.images.pipeline import read_and_decode
from hybrid.images.records import ImageRecord

LOSSLESS = ["PNG", "WEBP", "BMP", "TIFF"]
FORMATS = [*LOSSLESS, "JPEG", "GIF"]


def encode(image: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if fmt == "WEBP":
        options.setdefault("lossless", True)
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    assert type(image) is Image.Image
    return np.asarray(image)


@pytest.fixture
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = rng.integers(30, 225, (2, 3, 3), dtype=np.uint8)
    return np.kron(smooth, np.ones((16, 16, 1), dtype=np.uint8))


@pytest.mark.parametrize("fmt", LOSSLESS)
def test_lossless_formats_give_the_exact_pixels(image, fmt):
    assert np.array_equal(pixels(decode(encode(Image.fromarray(image), fmt))), image)


def test_jpeg_gives_nearly_the_pixels(image):
    decoded = pixels(decode(encode(Image.fromarray(image), "JPEG", quality=95, subsampling=0)))
    assert np.abs(decoded.astype(int) - image).max() <= 4


def test_jpeg_within_tiff(image):
    data = encode(Image.fromarray(image), "TIFF", compression="jpeg", quality=95)
    assert np.abs(pixels(decode(data)).astype(int) - image).max() <= 6


def test_progressive_and_multi_picture_jpeg(image):
    picture = Image.fromarray(image)
    for data in (
        encode(picture, "JPEG", progressive=True, quality=95, subsampling=0),
        encode(picture, "MPO", save_all=True, append_images=[ImageOps.invert(picture)], quality=95, subsampling=0),
    ):
        assert np.abs(pixels(decode(data)).astype(int) - image).max() <= 4


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "TIFF"])
def test_first_frame_or_page_is_taken(fmt):
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    data = encode(first, fmt, save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert (pixels(decode(data)) == (255, 0, 0)).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff_compressions(image, compression):
    data = encode(Image.fromarray(image), "TIFF", compression=compression)
    assert np.array_equal(pixels(decode(data)), image)


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
}


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(image, fmt, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if fmt == "JPEG" else {}
    result = decode(encode(Image.fromarray(image), fmt, exif=exif, **options))
    upright = UPRIGHT[orientation](image)
    assert np.abs(pixels(result).astype(int) - upright).max() <= 4
    again = ImageOps.exif_transpose(result)
    assert np.array_equal(np.asarray(again), np.asarray(result)), "a later step must not turn it again"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x07", b""])
def test_broken_exif_leaves_the_image_as_it_is(image, exif):
    data = encode(Image.fromarray(image), "JPEG", exif=exif)
    assert decode(data).size == (48, 32)


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_unknown_orientation_is_upright(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(decode(encode(Image.fromarray(image), "PNG", exif=exif))), image)


CMYK = [
    ((0, 0, 0, 0), (255, 255, 255)),
    ((0, 255, 255, 0), (255, 0, 0)),
    ((255, 0, 255, 0), (0, 255, 0)),
    ((255, 255, 0, 0), (0, 0, 255)),
    ((0, 0, 0, 255), (0, 0, 0)),
    ((0, 0, 0, 128), (127, 127, 127)),
]


@pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
@pytest.mark.parametrize(("ink", "rgb"), CMYK)
def test_cmyk(fmt, ink, rgb):
    decoded = pixels(decode(encode(Image.new("CMYK", (16, 16), ink), fmt)))
    assert np.abs(decoded.astype(int) - rgb).max() <= (3 if fmt == "JPEG" else 0)


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "GIF", "TIFF"])
def test_palette(fmt):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 200, 0, 10, 20, 30])
    image.putdata([2, 0, 1])
    assert pixels(decode(encode(image, fmt))).tolist() == [[[10, 20, 30], [255, 0, 0], [0, 200, 0]]]


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "GIF", "TIFF"])
def test_one_bit(fmt):
    bits = np.array([[True, False, True], [False, False, True]])
    expected = np.repeat(bits[..., None] * 255, 3, axis=2)
    assert np.array_equal(pixels(decode(encode(Image.fromarray(bits), fmt))), expected)


@pytest.mark.parametrize("fmt", [*LOSSLESS, "GIF"])
def test_gray(fmt):
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.repeat(gray[..., None], 3, axis=2)
    assert np.array_equal(pixels(decode(encode(Image.fromarray(gray), fmt))), expected)


def over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255.0
    return color * share + 255.0 * (1 - share)


@pytest.mark.parametrize(("mode", "fmt"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "PNG")])
def test_alpha_is_laid_over_white(mode, fmt):
    rng = np.random.default_rng(1)
    alpha = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    color = rng.integers(0, 256, (8, 8, 1 if mode == "LA" else 3), dtype=np.uint8)
    image = Image.fromarray(np.concatenate([color, alpha[..., None]], axis=2), mode=None)
    assert image.mode == mode
    options = {"exact": True} if fmt == "WEBP" else {}
    decoded = pixels(decode(encode(image, fmt, **options)))
    assert np.abs(decoded - over_white(np.broadcast_to(color, (8, 8, 3)), alpha)).max() <= 1


def test_transparent_palette_entries_and_colors():
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 200, 0, 10, 20, 30])
    palette.putdata([0, 1, 2])
    half = [[[255, 127, 127], [0, 200, 0], [255, 255, 255]]]
    found = pixels(decode(encode(palette, "PNG", transparency=bytes([128, 255, 0]))))
    assert np.abs(found.astype(int) - half).max() <= 1
    hole = [[[255, 0, 0], [255, 255, 255], [10, 20, 30]]]
    for fmt in ("PNG", "GIF"):
        assert pixels(decode(encode(palette, fmt, transparency=1))).tolist() == hole
    keyed = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8))
    found = pixels(decode(encode(keyed, "PNG", transparency=(9, 9, 9))))
    assert found.tolist() == [[[1, 2, 3], [255, 255, 255]]]


RAMP = np.array([[0, 1, 128, 129, 257], [32768, 40000, 65278, 65407, 65535]], dtype=np.uint16)


def shown(values: np.ndarray) -> list:
    """Round a 16-bit value to 8 bits in whole numbers, and repeat it for the three channels."""
    return [[[(int(v) * 2 * 255 + 65535) // (2 * 65535)] * 3 for v in row] for row in values]


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled(fmt):
    assert pixels(decode(encode(Image.fromarray(RAMP), fmt))).tolist() == shown(RAMP)


def test_big_endian_16_bit_gray():
    image = Image.frombytes("I;16B", (5, 2), RAMP.astype(">u2").tobytes())
    data = encode(image, "TIFF")
    assert data[:2] == b"MM"
    assert pixels(decode(data)).tolist() == shown(RAMP)


def test_32_bit_gray_with_16_bit_values_is_scaled_and_beyond_is_stretched():
    assert pixels(decode(encode(Image.fromarray(RAMP.astype(np.int32)), "TIFF"))).tolist() == shown(RAMP)
    wide = np.array([[-1000, 0, 1_000_000, 2_000_000]], dtype=np.int32)
    expected = [[[v] * 3 for v in (0, 0, 128, 255)]]
    assert pixels(decode(encode(Image.fromarray(wide), "TIFF"))).tolist() == expected


def patch_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """Overwrite a one-value SHORT or LONG tag of a little-endian TIFF."""
    for kind in (3, 4):
        head = struct.pack("<HHI", tag, kind, 1)
        if head in tiff:
            at = tiff.index(head) + len(head)
            return tiff[:at] + struct.pack("<I", value) + tiff[at + 4 :]
    raise AssertionError(f"no tag {tag}")


def test_deep_gray_where_zero_is_white():
    data = patch_tag(encode(Image.fromarray(RAMP), "TIFF"), 262, 0)
    expected = 255 - np.array(shown(RAMP))
    assert np.array_equal(pixels(decode(data)), expected)


def test_12_bit_gray():
    # Two samples in three bytes: 0xFFF and 0x800 of 4095.
    tiff = encode(Image.frombytes("L", (3, 1), bytes([0xFF, 0xF8, 0x00])), "TIFF")
    data = patch_tag(patch_tag(tiff, 256, 2), 258, 12)
    assert pixels(decode(data)).tolist() == [[[255] * 3, [128] * 3]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),
        ([0.0, 10.0, 200.4, 255.0], [0, 10, 200, 255]),
        ([-1.0, 0.0, 0.5, 1.0], [0, 128, 191, 255]),
        ([0.0, 500.0, 750.0, 1000.0], [0, 128, 191, 255]),
        ([0.0, np.nan, np.inf, 1.0], [0, 0, 0, 255]),
        ([-3.0, -3.0, -3.0, -3.0], [0, 0, 0, 0]),
    ],
)
def test_float_tiff(values, expected):
    data = encode(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert pixels(decode(data))[0, :, 0].tolist() == expected


def test_lab_and_ycbcr_tiff():
    # sRGB red in CIE L*a*b* (D50) is about (54.3, 80.8, 69.9); 8-bit LAB stores L * 2.55 and a, b as offsets.
    lab = Image.frombytes("LAB", (1, 1), bytes([138, 81, 70]))
    assert np.abs(pixels(decode(encode(lab, "TIFF"))).astype(int) - (255, 0, 0)).max() <= 6
    # JFIF: Y = .299 R + .587 G + .114 B, Cb = 128 + (B - Y) / 1.772, Cr = 128 + (R - Y) / 1.402.
    red, green, blue = 200, 100, 50
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    stored = [round(luma), round(128 + (blue - luma) / 1.772), round(128 + (red - luma) / 1.402)]
    ycbcr = Image.frombytes("YCbCr", (1, 1), bytes(stored))
    # Compressed, because older versions of Pillow cannot read uncompressed YCbCr TIFFs.
    data = encode(ycbcr, "TIFF", compression="tiff_lzw")
    assert np.abs(pixels(decode(data)).astype(int) - (red, green, blue)).max() <= 2


def test_empty_bytes():
    with pytest.raises(UnreadableImageError, match="empty"):
        decode(b"")


@pytest.mark.parametrize("data", [b"hello, I am text", b"\xff\xd8\xff", b"<html></html>", b"\0" * 1000, b"BM"])
def test_no_image(data):
    with pytest.raises(UnreadableImageError, match=r"not an image|damaged|cut off"):
        decode(data)


@pytest.mark.parametrize("fmt", ["PPM", "ICO", "TGA", "EPS", "PCX"])
def test_other_formats_are_refused(image, fmt):
    with pytest.raises(UnreadableImageError, match="not an image"):
        decode(encode(Image.fromarray(image), fmt))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_truncated(fmt, share):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), fmt)
    with pytest.raises(UnreadableImageError):
        decode(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("fmt", FORMATS)
def test_damaged_bytes_raise_nothing_else(image, fmt):
    rng = np.random.default_rng(3)
    whole = encode(Image.fromarray(image), fmt)
    for _ in range(60):
        data = bytearray(whole)
        for position in rng.integers(0, min(len(data), 400), 8):
            data[position] = rng.integers(0, 256)
        reason = ""
        try:
            decode(bytes(data))
        except UnreadableImageError as error:
            reason = str(error)
        assert len(reason) < 200
        assert "\n" not in reason


def test_decompression_bomb(monkeypatch, image):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match="too many pixels"):
        decode(encode(Image.fromarray(image), "PNG"))


def test_image_of_no_pixels():
    bmp = bytearray(encode(Image.new("RGB", (4, 4)), "BMP"))
    bmp[18:22] = struct.pack("<i", 0)
    with pytest.raises(UnreadableImageError):
        decode(bytes(bmp))


def test_threads_agree(image):
    files = [encode(Image.fromarray(image), fmt) for fmt in LOSSLESS] * 10
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(np.asarray(picture), image) for picture in pool.map(decode, files))


def test_read_and_decode_from_file_and_shard(tmp_path, image):
    data = encode(Image.fromarray(image), "PNG")
    file, shard = tmp_path / "ä b.png", tmp_path / "s.tar"
    file.write_bytes(data)
    with tarfile.open(shard, "w") as tar:
        tar.add(file, "a.png")
    with tarfile.open(shard) as tar:
        offset = tar.getmember("a.png").offset_data
    plain = ImageRecord(str(file), str(tmp_path), None, None, len(data), 0)
    member = ImageRecord(f"{shard}/a.png", str(shard), None, None, len(data), 0, str(shard), offset)
    for record in (plain, member):
        assert np.array_equal(pixels(read_and_decode(record)), image)
