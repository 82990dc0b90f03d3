"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    part = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.part")
    part.touch()
    mode = (file if file.exists() else part).stat().st_mode
    try:
        yield part
        part.chmod(mode)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def file_sha256(file: Path) -> str:
    """Content hash of a file, hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_tensors(file: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous arrays as a safetensors file, whole or not at all."""
    from safetensors.numpy import save_file

    with atomic_write(file) as part:
        save_file(dict(tensors), part, metadata)
