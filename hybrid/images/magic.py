"""What a file is that is not an image, by its first bytes: whatever it is named, the reason should say it."""

from __future__ import annotations

# By the bytes at the start, and what follows "not an image that is read but ...".
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image: convert it to JPEG or PNG"),
    (b"\xff\x0a", "a JPEG XL image: convert it to JPEG or PNG"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image: convert it to JPEG or PNG"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image: convert it to JPEG or PNG"),
    (b"8BPS", "a Photoshop document: export it as JPEG or PNG"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file: develop it to JPEG or TIFF"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image: convert it to JPEG or PNG"),
    (b"#?RADIANCE", "a Radiance HDR image: convert it to JPEG or PNG"),
    (b"DDS ", "a DirectDraw texture: convert it to JPEG or PNG"),
    (b"\0\0\x01\0", "an icon: convert it to PNG"),
    (b"%!PS", "a PostScript file: convert it to PNG"),
    (b"%PDF", "a PDF document: convert its pages to PNG"),
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"\x1f\x8b", "gzip data: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x1aE\xdf\xa3", "a video: extract frames from it"),
    (b"OggS", "sound or video: extract frames from it"),
    (b"ID3", "sound"),
    (b"SQLite format 3", "a database"),
    (b"\x93NUMPY", "a numpy array: save it as PNG, or give the array in Python"),
    (b"\x89HDF", "an HDF5 file: extract the images from it"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
_NETPBM = tuple(b"P" + bytes([digit]) for digit in b"1234567fF")


def kind_of(data: bytes) -> str | None:
    """Say what the bytes are, as in "an HTML page: ..."; None if they are of no kind that is known.

    Parameters
    ----------
    data : bytes
        Not an image of a format that is read.
    """
    for start, kind in _STARTS:
        if data.startswith(start):
            return kind
    if data[4:8] == b"ftyp":
        raw = data[8:11] == b"crx"
        return "a camera's raw file: develop it to JPEG or TIFF" if raw else "a video: extract frames from it"
    if data[:4] == b"RIFF" and data[8:12] not in (b"WEBP", b""):
        return "sound or video"
    if data[:2] in _NETPBM and data[2:3].isspace():
        return "a PBM, PGM or PPM image: convert it to PNG"
    if not data.strip(b"\0"):
        return "zeros alone: an interrupted copy or download?"
    return _text_kind(data[:512])


def _text_kind(start: bytes) -> str | None:
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, such as a server's error message: download it again"
    if b"<svg" in head:
        return "an SVG drawing: convert it to PNG"
    if head.startswith((b"<?xml", b"<")):
        return "XML"
    if head and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "JSON" if head.startswith((b"{", b"[")) else "text"
    return None
