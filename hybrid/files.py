"""Files that are written whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a killed process left beside a file is removed by the next one that writes it, unless it is so young that its
# writer may be alive, on this machine or on another one that shares the folder.
STALE_SECONDS = 24 * 3600


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Give a path beside `file` to write to; what was written takes the place of `file` when the block ends.

    Where the block raises, `file` stays as it was and nothing is left beside it. The file gets the permissions that a
    plain `open` would have given it, whoever creates it inside the block: some libraries write through a temporary
    file that only its owner may read. A link keeps leading where it leads, and a pipe or a device is written to as it
    is: there is nothing to replace.

    Parameters
    ----------
    file : Path
        In a folder that exists.

    Examples
    --------
    >>> with atomic_write(Path("labels.json")) as part:
    ...     part.write_text("{}")
    """
    file = file.resolve()
    if file.exists() and not file.is_file():
        yield file
        return
    _remove_stale_parts(file)
    part = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.part")
    part.touch()
    mode = (file if file.exists() else part).stat().st_mode
    try:
        yield part
        part.chmod(mode)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _remove_stale_parts(file: Path) -> None:
    for part in file.parent.glob(f"{glob.escape(file.name)}.*.part"):
        try:
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()
        except OSError:  # another process was faster
            continue


def file_sha256(file: Path) -> str:
    """Content hash of a file, hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_tensors(file: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous arrays as a safetensors file, whole or not at all."""
    from safetensors.numpy import save_file

    with atomic_write(file) as part:
        save_file(dict(tensors), part, metadata)
