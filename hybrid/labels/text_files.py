"""Text files that people write: their encodings, and by name what is not one."""

from __future__ import annotations

import codecs
import csv
import difflib
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hybrid.errors import DataError, listing

MOST_BYTES = 16 * 2**20
# Longest first: the mark of UTF-32 begins like that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_FOREIGN = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"RIFF": "a WebP image or a sound",
    b"BM": "a BMP image",
    b"II*\x00": "a TIFF image",
    b"MM\x00*": "a TIFF image",
    b"PK\x03\x04": "a zip archive, such as .xlsx or .docx",
    b"%PDF": "a PDF",
    b"SQLite format 3": "a database",
    b"PAR1": "a Parquet table",
    b"\x1f\x8b": "a gzip archive",
}


def is_file(name: str | Path) -> bool:
    """Tell whether there is something under this name that is not a folder; a name that cannot be one is not."""
    try:
        path = _path(name)
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # longer than a name may be, or with a null character
        return False


def find_file(name: str | Path, bundled: Path, kind: str, other: str = "") -> Path:
    """Give the file meant: an existing file first, else the bundled one of that name; `other` is one more advice.

    Raises
    ------
    DataError
        If there is neither; it names what is like it.
    """
    if is_file(name):
        return _path(name)
    files = {file.stem: file for file in sorted(bundled.glob("*.txt"))}
    if str(name) in files:
        return files[str(name)]
    near = _similar_files(name, list(files))
    raise DataError(
        f"The {kind} {str(name)[:200]} does not exist",
        expected=f"a file, or one of the bundled names {', '.join(files)}",
        got="a folder" if _is_folder(name) else "nothing there",
        fix=(f"did you mean {listing(near)}?" if near else "check the path") + (f"; {other}" if other else ""),
    )


def _similar_files(name: str | Path, bundled: Sequence[str]) -> list[str]:
    """Bundled names, and files in the folder that is meant, whose names are like this one."""
    try:
        folder = Path(name).parent
        there = {file.name: str(file) for file in folder.iterdir() if file.is_file()} if folder.is_dir() else {}
    except (OSError, ValueError):
        there = {}
    wanted = Path(name).name
    by_name = difflib.get_close_matches(wanted, [*there, *bundled], n=3, cutoff=0.75)
    same_stem = [file for file in there if Path(file).stem == wanted]
    return list(dict.fromkeys(there.get(match, match) for match in (*same_stem, *by_name)))[:3]


@contextmanager
def named_csv_errors(where: str) -> Iterator[None]:
    """Name what the csv module refuses, such as a cell of more than 131,072 characters."""
    try:
        yield
    except csv.Error as error:
        fix = "save it as CSV, or as text with one name per line"
        raise DataError(f"{where}: neither a table nor a list of names", got=str(error), fix=fix) from error


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, or UTF-16 as Windows writes it; in Unicode NFC.

    Raises
    ------
    DataError
        If it is a pipe, a device, too large, not text, or in an encoding that cannot be told.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            got, fix = "a pipe, a socket or a device", "write the text into a file, and name that"
            raise DataError(f"{path} is not a file", expected="a text file", got=got, fix=fix)
        if status.st_size > MOST_BYTES:
            raise DataError(
                f"{path} is too large for a text file of names",
                expected=f"at most {MOST_BYTES >> 20} MiB",
                got=f"{status.st_size / 2**20:,.0f} MiB",
                fix="check the path",
            )
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", fix="check the path and its permission") from error
    return unicodedata.normalize("NFC", _decode(path, data))


def _decode(path: Path, data: bytes) -> str:
    foreign = next((what for start, what in _FOREIGN.items() if data.startswith(start)), None)
    # Two letters may begin a name as well.
    if foreign is not None and (b"\x00" in data[:4096] or not data[:4096].isascii() or data.startswith(b"%PDF-")):
        raise DataError(
            f"{path} is not a text file",
            expected="a text file in UTF-8",
            got=foreign,
            fix="save the names as plain text, one per line",
        )
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    if encoding is None:
        # Plain letters in UTF-16 without its mark are, most of them, every other byte zero.
        first, second = (2 * data[start:400:2].count(0) > len(data[start:400:2]) for start in (0, 1))
        encoding = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get((first, second))
    if encoding is None and b"\x00" in data:
        raise DataError(
            f"{path} is not a text file",
            expected="a text file in UTF-8",
            got="null characters",
            fix="save the names as plain text, one per line",
        )
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {'UTF-8' if encoding is None else encoding.upper()}",
            expected="a text file in UTF-8",
            got=f"the byte 0x{error.object[error.start]:02x} at position {error.start}",
            fix="save it as UTF-8, or: iconv -f latin1 -t utf-8 OLD.txt > NEW.txt",
        ) from error
    if "\x00" in text:
        raise DataError(
            f"{path} is not a text file",
            expected="a text file in UTF-8",
            got="null characters",
            fix="save the names as plain text, one per line",
        )
    return text


def _is_folder(name: str | Path) -> bool:
    try:
        return _path(name).is_dir()
    except (OSError, ValueError):
        return False


def _path(name: str | Path) -> Path:
    """The path of a name, with a leading ``~`` as the home folder; one that names none stays."""
    return Path(os.path.expanduser(name))  # noqa: PTH111
