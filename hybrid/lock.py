"""One writer at a time: the lock of a run, and who holds it."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from hybrid.errors import ArtifactError, HybridWarning, InUseError, named_file_errors
from hybrid.files import in_hub_cache

LOCK, HOLDER = ".lock", ".lock.json"
LABEL_LOCK = ".labels.lock"
# Seconds between two looks of a command that waits.
POLL = 0.1
OTHER = "another process"


class Holder(Struct, frozen=True, kw_only=True):
    """Who writes to a run; beside the lock, for the message of those who wait."""

    command: str
    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid} on {self.host}, since {self.since})"


@contextmanager
def run_lock(root: Path, command: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a run's lock while the block runs; the system frees it when the process ends, however it ends.

    Parameters
    ----------
    root : Path
        The run's folder; made if it is missing.
    command : str
        What is done, for those who wait.
    wait : bool
        Wait for the one who holds it, with a warning that names him; False: end with an error.

    Raises
    ------
    ArtifactError
        If another one holds it, and `wait` is False; or the run lies in the hub's cache.
    FileError
        If the folder cannot be written to.
    """
    # Here, because it takes longer to import than a short command has.
    from filelock import FileLock, Timeout

    _refuse_hub(root, command)
    with named_file_errors(f"{command} cannot write to the run {root}", root):
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / LOCK, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise _in_use(root) from None
            told = f"the run {root} is in use by {holder(root) or OTHER}; waiting until it has ended"
            warnings.warn(told, HybridWarning, stacklevel=4)
            lock.acquire(poll_interval=POLL)
    try:
        with named_file_errors(f"{command} cannot go on"):
            _write_name(root / HOLDER, command)
            yield
    finally:
        (root / HOLDER).unlink(missing_ok=True)
        lock.release()


@contextmanager
def label_lock(root: Path) -> Iterator[None]:
    """Be the only one who labels images of a run; whoever holds it has it for moments, so that all others wait."""
    from filelock import FileLock

    _refuse_hub(root, "label")
    with FileLock(root / LABEL_LOCK, thread_local=False):
        yield


def _refuse_hub(root: Path, command: str) -> None:
    """Raise where a run lies in the hub's cache."""
    if in_hub_cache(root):
        raise ArtifactError(
            f"{command} cannot write to a run of the hub, which is only read here",
            got=str(root),
            fix="take a copy, and name that: hf download OWNER/NAME --local-dir runs/NAME",
        )


def _in_use(root: Path) -> InUseError:
    return InUseError(
        f"the run {root} is in use by another command that writes to it",
        got=holder(root) or OTHER,
        fix="wait until it has ended, or leave --no-wait (wait=False) out",
    )


def _write_name(file: Path, command: str) -> None:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    name = Holder(command=command, pid=os.getpid(), host=socket.gethostname(), since=since)
    file.write_bytes(msgspec.json.encode(name))  # a torn one names nobody


def holder(root: Path, *, but_this: bool = False) -> str | None:
    """Name the one who writes to a run; None where nobody does, or has not written his name yet.

    Parameters
    ----------
    root : Path
    but_this : bool
        None too where it is this process.
    """
    try:
        name = msgspec.json.decode((root / HOLDER).read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None
    return None if but_this and (name.pid, name.host) == (os.getpid(), socket.gethostname()) else str(name)
