"""The header of a JPEG without Pillow, which keeps all other threads of Python waiting while it reads one.

Strict on purpose: whatever is not known to be ordinary gives None, and Pillow is to read the file. Where there is an
answer, Pillow's is the same.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

# ITU-T T.81, table B.1.
_SOI = b"\xff\xd8"
BASELINE = 0xC0
_PROGRESSIVE = 0xC2
_FRAMES = (BASELINE, 0xC1, _PROGRESSIVE)  # 0xC1: extended
_DHT, _SOS, _DQT, _DRI, _COM = 0xC4, 0xDA, 0xDB, 0xDD, 0xFE
_APP0, _APP1, _APP2, _APP13, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xEF
_KNOWN = frozenset((*_FRAMES, _DHT, _SOS, _DQT, _DRI, _COM, *range(_APP0, _APP15 + 1)))
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_ICC, _MPF = b"ICC_PROFILE\0", b"MPF\0"
# Bytes of a value, by its type in TIFF.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_ORIENTATION, _X_RESOLUTION, _RESOLUTION_UNIT = 0x0112, 0x011A, 0x0128
_PICTURES, _PICTURE_ENTRIES = 0xB001, 0xB002
_RGB_IDS = tuple(b"RGB")
_FACTORS = frozenset(product(range(1, 5), repeat=2))
_SEGMENT = struct.Struct(">BBH").unpack_from


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What stands before the first scan of a JPEG of 8 bits and 1 or 3 components.

    Attributes
    ----------
    width, height : int
        As stored, before `orientation`.
    marker : int
        Of the frame: `BASELINE`, 0xC1 extended, 0xC2 progressive.
    sampling : tuple of (int, int)
        Horizontal and vertical factor of each component.
    is_rgb : bool
        The three components are red, green and blue, not luma and chroma.
    orientation : int
        As EXIF has it; 1 where there is none.
    profile : bytes or None
        The ICC profile.
    restart_interval : int
        Blocks of all components between two restart markers; 0: there are none.
    scan : int
        Where the data of the first scan start.
    parts : int
        Components in the first scan.
    """

    width: int
    height: int
    marker: int
    sampling: tuple[tuple[int, int], ...]
    is_rgb: bool
    orientation: int
    profile: bytes | None
    restart_interval: int
    scan: int
    parts: int

    @property
    def is_progressive(self) -> bool:
        """Whether it is stored in several passes over the pixels."""
        return self.marker == _PROGRESSIVE

    @property
    def is_gray(self) -> bool:
        """Whether it has one component."""
        return len(self.sampling) == 1


class _Unusual(Exception):  # noqa: N818  no error: Pillow is asked
    pass


def read_header(data: bytes | memoryview) -> JpegHeader | None:
    """Read the header of a JPEG; None for whatever else it is, and for anything unusual in it.

    Parameters
    ----------
    data : bytes or memoryview
        A whole file; the header alone is looked at.
    """
    try:
        return _read(data)
    except (_Unusual, struct.error, IndexError):
        return None


def _read(data: bytes | memoryview) -> JpegHeader:
    bodies, frame, scan = _segments(data)
    width, height, ids, sampling = _frame(bodies[frame][0])
    (start,) = bodies[_SOS]
    _require(len(start) == 4 + 2 * start[0] and 1 <= start[0] <= len(ids))
    _check_tables(bodies[_DQT])
    _check_photoshop(bodies[_APP13])
    intervals = bodies[_DRI] or [b"\0\0"]
    _require(len(intervals) == 1 and len(intervals[0]) == 2)
    return JpegHeader(
        width,
        height,
        frame,
        sampling,
        _is_rgb(ids, bodies[_APP0], bodies[_APP14]),
        _orientation(bodies[_APP1]),
        _profile(bodies[_APP2]),
        int.from_bytes(intervals[0], "big"),
        scan,
        start[0],
    )


def _require(condition: object) -> None:
    if not condition:
        raise _Unusual


def _segments(data: bytes | memoryview) -> tuple[dict[int, list[bytes]], int, int]:
    """Give the bodies of all segments by marker, the marker of the frame, and the end of the first scan's header."""
    _require(data[:2] == _SOI)
    bodies = defaultdict[int, list[bytes]](list)
    at, marker, frame = 2, 0, 0
    while marker != _SOS:
        mark, marker, length = _SEGMENT(data, at)
        end = at + 2 + length
        if mark != 0xFF or marker not in _KNOWN or length < 2 or end > len(data):
            raise _Unusual
        if marker in _FRAMES:
            _require(not frame)
            frame = marker
        elif frame and marker & 0xF0 == _APP0:
            raise _Unusual  # Pillow takes no profile from behind the frame
        bodies[marker].append(bytes(data[at + 4 : end]))
        at = end
    _require(frame)
    return bodies, frame, at


def _frame(body: bytes) -> tuple[int, int, tuple[int, ...], tuple[tuple[int, int], ...]]:
    bits, height, width, count = struct.unpack_from(">BHHB", body)
    _require(bits == 8 and width and height and count in (1, 3) and len(body) == 6 + 3 * count)
    sampling = tuple((factors >> 4, factors & 15) for factors in body[7::3])
    _require(_FACTORS.issuperset(sampling))
    return width, height, tuple(body[6::3]), sampling


def _check_tables(tables: Sequence[bytes]) -> None:
    for body in tables:
        at = 0
        while at < len(body):
            at += 129 if body[at] >> 4 else 65
        _require(at == len(body))


def _check_photoshop(segments: Sequence[bytes]) -> None:
    """Require that blocks of resources of Photoshop do not end within their names, which Pillow takes for damage."""
    for body in segments:
        at = 14
        while body.startswith(b"Photoshop 3.0\0") and body[at : at + 4] == b"8BIM":
            at += 7 + body[at + 6]
            at += at & 1
            (size,) = struct.unpack_from(">I", body, at)
            at += 4 + size
            at += at & 1


def _is_rgb(ids: tuple[int, ...], jfif: Sequence[bytes], adobe: Sequence[bytes]) -> bool:
    """Whether three components are colors: libjpeg's rule."""
    jfif = [body for body in jfif if body.startswith(b"JFIF")]
    adobe = [body for body in adobe if body.startswith(b"Adobe")]
    _require(all(body[4] == 0 and len(body) >= 14 for body in jfif) and all(len(body) >= 12 for body in adobe))
    if len(ids) == 1 or jfif:
        return False
    return adobe[-1][11] == 0 if adobe else ids == _RGB_IDS


def _profile(segments: Sequence[bytes]) -> bytes | None:
    """Join the pieces of the ICC profile; several pictures in a file (MPO) change nothing for the first."""
    if not segments:
        return None
    pieces: dict[int, bytes] = {}
    counts, indexes = [], []
    for body in segments:
        if body.startswith(_ICC):
            counts.append(body[13])
            pieces[body[12]] = body[14:]
        elif body.startswith(_MPF):
            indexes.append(body[4:])
    _require(sorted(pieces) == list(range(1, len(counts) + 1)) and set(counts) <= {len(pieces)})
    _require(len(indexes) <= 1)
    for index in indexes:
        _check_pictures(index)
    return b"".join(pieces[number] for number in sorted(pieces)) or None


def _check_pictures(index: bytes) -> None:
    """Require an index of pictures (CIPA DC-007) that is as it should be."""
    order, entries = _directory(index)
    kind, count, value = entries.get(_PICTURES, (0, 0, b""))
    _require((kind, count) == (_LONG, 1))
    (pictures,) = struct.unpack(order + "I", value)
    kind, count, value = entries.get(_PICTURE_ENTRIES, (0, 0, b""))
    _require(kind == 7 and count == 16 * pictures and 1 <= pictures <= 100)
    # Of the attributes the format: 0 is JPEG.
    _require(all(not attributes >> 24 & 7 for attributes, *_ in struct.iter_unpack(order + "IIIHH", value)))


def _orientation(segments: Sequence[bytes]) -> int:
    found = [body for body in segments if body.startswith(_EXIF)]
    orientation = None
    if found:
        # A camera's mark of Adobe RGB may be anywhere in it.
        _require(len(found) == 1 and b"R03" not in found[0])
        order, entries = _directory(found[0][6:])
        for tag, expected in ((_ORIENTATION, _SHORT), (_RESOLUTION_UNIT, _SHORT), (_X_RESOLUTION, _RATIONAL)):
            kind, count, value = entries.get(tag, (expected, 1, b""))
            _require((kind, count) == (expected, 1))
            if tag == _ORIENTATION and value:
                (orientation,) = struct.unpack(order + "H", value)
    if orientation is None:
        _require(not any(b"tiff:Orientation" in body for body in segments if body.startswith(_XMP)))
    return 1 if orientation is None else orientation


def _directory(tiff: bytes) -> tuple[str, dict[int, tuple[int, int, bytes]]]:
    """Read the first directory of a TIFF: the byte order, and type, count and bytes of each tag."""
    _require(tiff[:4] in (b"II*\0", b"MM\0*"))
    order = "<" if tiff[:1] == b"I" else ">"
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    end = start + 2 + 12 * count
    _require(start >= 8 and end + 4 <= len(tiff))
    entries: dict[int, tuple[int, int, bytes]] = {}
    for tag, kind, number, value in struct.iter_unpack(order + "HHI4s", tiff[start + 2 : end]):
        _require(kind in _SIZES and tag not in entries)
        size, at = number * _SIZES[kind], 0
        if size > 4:
            (at,) = struct.unpack(order + "I", value)
            _require(at + size <= len(tiff))
            value = tiff[at : at + size]
        entries[tag] = (kind, number, value[:size])
    return order, entries
