"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from hybrid.errors import UNSAFE, named_file_errors

# What a killed process left beside a file is removed by the next one that writes it, unless it is so young that its
# writer may be alive, on this machine or on another one that shares the folder.
STALE_SECONDS = 24 * 3600
LONGEST_STEM = 200  # bytes; file systems take 255 for a name
# With what a formula begins in a spreadsheet; the last four are the wide forms that East Asian keyboards give.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# What a write may be answered, where the system does not say which file it was.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# What file systems answer that have nothing to wait for.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EROFS, errno.EBADF)


def in_hub_cache(path: Path) -> bool:
    """Whether a path lies in the model hub's cache, whose files are named by their content: nobody may change one."""
    parents = path.absolute().parents
    return any(p.name == "snapshots" and p.parent.name.startswith("models--") for p in parents)


@contextmanager
def atomic_write(file: Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a path beside `file` to write to; what was written takes the place of `file` when the block ends.

    Where the block raises, `file` stays as it was and nothing is left beside it. The file gets the permissions that a
    plain `open` would have given it, whoever creates it inside the block: some libraries write through a temporary
    file that only its owner may read. A link keeps leading where it leads, and a pipe or a device is written to as it
    is: there is nothing to replace.

    Parameters
    ----------
    file : Path
        In a folder that exists.
    sync : bool
        Have the file and its new name on the disk when the block ends, so that not even a power cut tears it. Large
        files that can be made again, and whose readers find out what is torn, do without.

    Examples
    --------
    >>> with atomic_write(Path("labels.json")) as part:
    ...     part.write_text("{}")
    """
    if file.exists() and not file.is_file():
        yield file  # as it was named: what a link such as /dev/fd/63 leads to may have no name that can be opened
        return
    file = Path(os.path.realpath(file))
    _remove_stale_parts(file)
    part = _part_of(file)
    part.touch()
    mode = (file if file.exists() else part).stat().st_mode
    try:
        yield part
        part.chmod(mode)
        if sync:
            sync_to_disk(part)
        part.replace(file)
        if sync:
            sync_to_disk(file.parent)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(file)
        raise
    finally:
        part.unlink(missing_ok=True)


def _part_of(file: Path) -> Path:
    return file.with_name(f"{_part_stem(file)}.{os.getpid()}-{threading.get_ident()}.part")


def _part_stem(file: Path) -> str:
    """The file's own name, or the start and a hash of one so long that nothing could be added to it."""
    name = os.fsencode(file.name)
    if len(name) <= LONGEST_STEM:
        return file.name
    return f"{file.name[: LONGEST_STEM // 8]}-{hashlib.sha256(name).hexdigest()[:16]}"


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; where the system cannot say, do not wait."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder on Windows, or a file that its owner alone may read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def _remove_stale_parts(file: Path) -> None:
    for part in file.parent.glob(f"{glob.escape(_part_stem(file))}.*.part"):
        try:
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()
        except OSError:  # another process was faster
            continue


def check_writable(file: Path, what: str) -> None:
    """See that a file can be written by `atomic_write`, before the work whose result it is to hold.

    Parameters
    ----------
    file : Path
        May exist, be a link, a pipe or a device.
    what : str
        Its name in errors, such as a flag.

    Raises
    ------
    FileError
        If it is a folder, or it or its folder, which may have to be made, cannot be written; a full disk too.
    """
    with named_file_errors(f"{what} cannot be written", file):
        try:
            mode = file.stat().st_mode
        except FileNotFoundError:
            mode = 0
        wrong = 0
        if stat.S_ISDIR(mode):
            wrong = errno.EISDIR
        elif mode and not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
            wrong = errno.EINVAL
        elif mode and not os.access(file, os.W_OK):
            wrong = errno.EACCES
        if wrong:
            raise OSError(wrong, os.strerror(wrong))
        if mode and not stat.S_ISREG(mode):
            return
        place = Path(os.path.realpath(file))
        _try_to_write(place.parent, place.name)


def check_folder(folder: Path, what: str) -> None:
    """See that a folder, which may have to be made, can be written to; FileError where it cannot."""
    with named_file_errors(f"{what} cannot be written", folder):
        _try_to_write(Path(os.path.realpath(folder)), "hybrid")


def _try_to_write(folder: Path, name: str) -> None:
    """Write a file in a folder, or in the nearest one above it that there is, and remove it again."""
    while not folder.exists():
        folder = folder.parent
    part = _part_of(folder / name)
    try:
        part.write_bytes(bytes(4096))
    finally:
        with suppress(OSError):
            part.unlink()


def is_stdout(file: Path) -> bool:
    """Whether a file is where stdout goes already: ``-``, ``/dev/stdout``, or the same pipe, terminal or file."""
    if str(file) == "-":
        return True
    try:
        return os.path.samestat(file.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, AttributeError, ValueError):  # no such file; stdout is closed, or a text in memory
        return False


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, by links of any kind, or to the same place where nothing is yet."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def start_of(file: Path, count: int) -> bytes:
    """Read the first bytes of a file."""
    with named_file_errors("a file cannot be read", file), file.open("rb") as stream:
        return stream.read(count)


def end_of(file: Path, count: int) -> bytes:
    """Read the last bytes of a file."""
    with named_file_errors("a file cannot be read", file), file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - count))
        return stream.read(count)


def safe_cell(text: str) -> str:
    """Put an apostrophe before a text of a CSV that a spreadsheet would take for a formula, as OWASP advises."""
    return f"'{text}" if text.startswith(FORMULA) else text


def json_line(row: Mapping[str, Any], stream: TextIO) -> str:
    """Write a JSON object in one line; what a terminal would obey or the stream cannot hold is escaped, as JSON may."""
    unicode = (stream.encoding or "utf-8").lower().replace("-", "") == "utf8"
    line = json.dumps(row, ensure_ascii=not unicode)
    return UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], line) + "\n"


def file_sha256(file: Path) -> str:
    """Content hash of a file, hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_tensors(
    file: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None, *, sync: bool = True
) -> None:
    """Write contiguous numpy arrays or torch tensors as a safetensors file, whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written, such as on a full disk.
    """
    from safetensors import SafetensorError

    kind = "torch" if type(next(iter(tensors.values()))).__module__.startswith("torch") else "numpy"
    save_file = import_module(f"safetensors.{kind}").save_file
    with atomic_write(file, sync=sync) as part:
        try:
            save_file(dict(tensors), part, metadata)
        except SafetensorError as error:  # which tells what the system said by its number
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
