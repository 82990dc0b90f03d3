"""The header of a JPEG as Pillow reads it, or no answer: files of many kinds, sound and with damage of every sort."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms, UnidentifiedImageError

from hybrid.errors import UnreadableImageError
from hybrid.images import decode as decode_module
from hybrid.images.color import _profile_of
from hybrid.images.decode import _orientation
from hybrid.images.decoders import LibjpegTurbo, Pillow
from hybrid.images.jpeg_header import JpegHeader, read_header

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def exif(order: str, *entries: tuple[int, int, int, bytes], tail: bytes = b"") -> bytes:
    """A directory of (tag, type, count, value or its offset), with its header."""
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    return b"Exif\0\0" + head + body + bytes(4) + tail


def of_a_camera(order: str, orientation: int) -> bytes:
    """As phones write it: make, orientation, resolution."""
    tail_at = 8 + 2 + 4 * 12 + 4
    return exif(
        order,
        (0x010F, 2, 6, struct.pack(order + "I", tail_at + 8)),
        (0x0112, 3, 1, struct.pack(order + "HH", orientation, 0)),
        (0x011A, 5, 1, struct.pack(order + "I", tail_at)),
        (0x0128, 3, 1, struct.pack(order + "HH", 2, 0)),
        tail=struct.pack(order + "II", 72, 1) + b"phone\0",
    )


@pytest.fixture(scope="module")
def kinds(picture, encode) -> dict[str, bytes]:
    """A small file of each kind."""
    rgb, gray = picture(37, 21), picture(37, 21, "L")
    options = {
        "plain": {},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 2},
        "4:4:4": {"subsampling": 0},
        "4:2:2": {"subsampling": 1},
        "rgb": {"keep_rgb": True},
        "best": {"quality": 100, "optimize": True},
        "16-bit tables": {"qtables": [[300] * 64, [400] * 64]},
        "comment": {"comment": b"made by hand"},
        "dpi": {"dpi": (300, 300), "exif": of_a_camera("<", 3)},
        "sRGB": {"icc_profile": SRGB},
        "profile in pieces": {"icc_profile": SRGB + bytes(200_000)},
        "no profile at all": {"icc_profile": b"nonsense"},
        "xmp": {"xmp": XMP},
        "xmp and exif": {"xmp": XMP, "exif": of_a_camera("<", 8)},
        "xmp without": {"xmp": b"<x/>", "exif": of_a_camera(">", 5)},
        "adobe rgb": {"exif": exif("<", (0x0001, 2, 4, b"R03\0"))},
        "odd orientation": {"exif": exif("<", (0x0112, 4, 1, b"\6\0\0\0"))},
        "cut exif": {"exif": of_a_camera("<", 6)[:40]},
        "no exif": {"exif": b"Exif\0\0"},
    }
    made = {name: encode(rgb, **given) for name, given in options.items()}
    made |= {f"orientation {n}": encode(rgb, exif=of_a_camera("<>"[n % 2], n)) for n in range(10)}
    made |= {
        "gray": encode(gray),
        "gray, progressive": encode(gray, progressive=True),
        "gray, icc": encode(gray, icc_profile=SRGB),
    }
    made |= {"cmyk": encode(picture(37, 21, "CMYK")), "png": encode(rgb, "PNG")}
    made["mpo"] = encode(rgb, "MPO", save_all=True, append_images=[gray], exif=of_a_camera("<", 6))
    made["photoshop"] = with_segment(
        made["plain"], 0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0" + struct.pack(">I", 16) + bytes(16)
    )
    made["adobe, ycc"] = with_segment(without_segment(made["plain"], 0xE0), 0xEE, b"Adobe\0\x64\0\0\0\0\1")
    made["neither jfif nor adobe"] = without_segment(made["plain"], 0xE0)
    made["fill bytes"] = made["plain"][:2] + b"\xff\xff" + made["plain"][2:]
    made["12 bits"] = made["plain"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c")
    made["extended"] = made["plain"].replace(b"\xff\xc0\0\x11", b"\xff\xc1\0\x11")
    return made


def segments(data: bytes) -> list[bytes]:
    """Cut a file between its segments, up to the first scan; what follows is the last piece."""
    pieces, at = [data[:2]], 2
    while at + 4 < len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        pieces.append(data[at:end])
        at = end
    return [*pieces, data[at:]]


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def without_segment(data: bytes, marker: int) -> bytes:
    return b"".join(piece for piece in segments(data) if piece[:2] != bytes([0xFF, marker]))


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The same with changes: of bytes, mostly in its header, or of the order of its segments."""
    pieces = segments(data)
    head = len(data) - len(pieces[-1]) + 20
    kind = rng.integers(8)
    if kind == 0 and len(pieces) > 3:  # two segments change places, or one stands twice
        first, second = rng.integers(1, len(pieces) - 1, 2)
        pieces[first], pieces[second] = pieces[second], pieces[first if rng.random() < 0.7 else second]
        return b"".join(pieces)
    if kind == 1:
        return data[: rng.integers(len(data))]
    changed = bytearray(data)
    if kind == 2:
        at = int(rng.integers(head))
        changed[at : at + int(rng.integers(4))] = rng.bytes(int(rng.integers(4)))
        return bytes(changed)
    starts = np.cumsum([len(piece) for piece in pieces[:-1]])
    for _ in range(rng.integers(1, 4)):
        # The first bytes of a segment say the most.
        start = int(rng.choice(starts)) if rng.random() < 0.7 else 0
        at = start + int(rng.integers(40 if start else head))
        changed[at % len(changed)] = rng.choice([int(rng.integers(256)), 0, 1, 3, 8, 0xC0, 0xC2, 0xE1, 0xFF])
    return bytes(changed)


def pillows(data: bytes) -> tuple[object, ...] | None:
    """What `JpegHeader` says, by Pillow; None if it cannot read the file."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            assert image.format in ("JPEG", "MPO")
            orientation = _orientation(image)
            return image.size, image.mode, "progressive" in image.info, orientation, _profile_of(image)
    except (UnidentifiedImageError, OSError, ValueError, AssertionError, Image.DecompressionBombError):
        return None


def said(header: JpegHeader) -> tuple[object, ...]:
    mode = "L" if header.is_gray else "RGB"
    return (header.width, header.height), mode, header.is_progressive, header.orientation, header.profile


UNANSWERED = {
    *("xmp", "adobe rgb", "odd orientation", "cut exif", "no exif", "cmyk", "png", "fill bytes", "12 bits"),
}


def test_ordinary_files_are_answered_for(kinds):
    assert {name for name, data in kinds.items() if read_header(data) is None} == UNANSWERED
    for name in kinds.keys() - UNANSWERED:
        assert said(read_header(kinds[name])) == pillows(kinds[name]), name
    assert read_header(kinds["profile in pieces"]).profile == SRGB + bytes(200_000)
    header = read_header(kinds["restarts"])
    assert (header.marker, header.sampling, header.parts, header.restart_interval) == (
        0xC0,
        ((2, 2), (1, 1), (1, 1)),
        3,
        2,
    )
    assert kinds["restarts"][header.scan - 14 : header.scan - 12] == b"\xff\xda"
    assert {name for name in kinds.keys() - UNANSWERED if read_header(kinds[name]).is_rgb} == {"rgb"}


def test_where_there_is_an_answer_pillow_gives_the_same(kinds, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    rng = np.random.default_rng(0)
    answered = 0
    for _ in range(150):
        for name, whole in kinds.items():
            data = damaged(whole, rng)
            header = read_header(data)
            answered += header is not None
            assert header is None or said(header) == pillows(data), (name, data[:2000])
    assert answered > 500


def outcome(decode: Callable[[bytes, int | None], object], data: bytes, min_side: int | None) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scaled = decode(data, min_side)
    except UnreadableImageError as error:
        return error.what
    return scaled.rgb.tobytes(), scaled.rgb.shape, scaled.extent, scaled.note


@pytest.mark.parametrize("decoder", [LibjpegTurbo(), Pillow()], ids=lambda decoder: decoder.name)
def test_no_pixel_error_or_note_depends_on_who_reads_the_header(kinds, decoder, monkeypatch):
    rng = np.random.default_rng(1)
    files = [*kinds.values(), *(damaged(data, rng) for _ in range(12) for data in kinds.values())]
    files += [data[:-2] for data in kinds.values()]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 37 * 21 * 4)
    opened: list[object] = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda *given, **options: opened.append(given) or open_image(*given, **options))
    found = [outcome(decoder.decode, data, side) for data in files for side in (None, 4)]
    without = len(opened)
    monkeypatch.setattr(decode_module, "read_header", lambda data: None)
    assert [outcome(decoder.decode, data, side) for data in files for side in (None, 4)] == found
    assert sum(isinstance(result, str) for result in found) > 100
    assert decoder.name == "pillow" or without < 0.8 * (len(opened) - without)
