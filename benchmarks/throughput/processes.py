"""Run systems in turn, each in a process of its own: its threads, settings and memory are nobody else's.

One process at a time works; the others wait for their turn on a pipe.
"""

from __future__ import annotations

import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from rich.console import Console

# One pass over some files; the second argument is the row's own option.
Work = Callable[[Sequence[str], Any], None]
CONSOLE = Console(stderr=True, soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Setup:
    """What a system is made with.

    Attributes
    ----------
    device : str
        ``"cpu"`` or ``"cuda"``.
    model : str
        open_clip's name of the model.
    weights : Path
        Its weights as safetensors.
    converted : Path
        The same weights in a folder of transformers.
    names : tuple of str
        Classes to choose from.
    work : Path
        An empty folder of its own.
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    batch, workers : int
        Images in a batch, and processes of a peer's loader.
    """

    device: str
    model: str
    weights: Path
    converted: Path
    names: tuple[str, ...]
    work: Path
    precision: str = "auto"
    batch: int = 32
    workers: int = 2


@dataclass(frozen=True)
class Pass:
    """One pass: images, seconds, and the GPU's highest allocation so far in bytes (0 on a CPU)."""

    images: int
    seconds: float
    gpu_bytes: int


class MissingPeerError(Exception):
    """A package that a peer needs is not installed."""


class Worker:
    """A system in its own process.

    Parameters
    ----------
    make : callable
        Builds the system from a `Setup`, in the new process; a function at the top level of a module.
    setup : Setup

    Raises
    ------
    MissingPeerError
        If a package is missing.
    """

    def __init__(self, make: Callable[[Setup], Work], setup: Setup) -> None:
        self.name = make.__name__
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # No daemon: a peer's loader has processes of its own.
        self._process = context.Process(target=_serve, args=(theirs, make, setup), name=self.name)
        self._process.start()
        theirs.close()
        try:
            self._receive()
        except Exception:
            self.close()
            raise

    def run(self, files: Sequence[str], option: Any = None) -> Pass:
        """Let it do one pass, and wait for it."""
        self._pipe.send((tuple(files), option))
        found: Pass = self._receive()
        return found

    def _receive(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"the process of {self.name} died with exit code {self._process.exitcode}") from None
        if kind == "missing":
            raise MissingPeerError(value)
        if kind == "error":
            raise RuntimeError(f"{self.name} failed:\n{value}")
        return value

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _serve(pipe: Connection, make: Callable[[Setup], Work], setup: Setup) -> None:
    try:
        own_start_method()
        setup.work.mkdir(parents=True, exist_ok=True)
        work = make(setup)
    except BaseException as error:  # whatever it is, the parent waits for an answer
        pipe.send(_told(error))
        return
    pipe.send(("ready", None))
    while True:
        try:
            files, option = pipe.recv()
        except EOFError:
            return
        pipe.send(_pass(work, files, option))


def _pass(work: Work, files: Sequence[str], option: Any) -> tuple[str, Any]:
    """One pass, or what was wrong with it; the process stays for the rows that share it."""
    start = time.perf_counter()
    try:
        work(files, option)
    except BaseException as error:
        return _told(error)
    return "pass", Pass(len(files), time.perf_counter() - start, _gpu_bytes())


def own_start_method() -> None:
    """Let a spawned process start others as a fresh program would: it inherits to spawn, which makes loaders slow."""
    set_start_method(None, force=True)


def _told(error: BaseException) -> tuple[str, str]:
    """A package that is not there is told from a failure; a part of this project that is not there is a failure."""
    if isinstance(error, ImportError) and error.name and error.name.partition(".")[0] != "hybrid":
        return "missing", f"{error.name} is not installed ({error}); pip install '.[bench]'"
    return "error", "".join(traceback.format_exception(error))


def _gpu_bytes() -> int:
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_initialized() else 0


@dataclass(frozen=True)
class Row:
    """One row of a table: which system passes over which files, with which option of its own.

    Before it counts, it passes over the first `warm_up` files.
    """

    name: str
    make: Callable[[Setup], Work]
    setup: Setup
    files: tuple[str, ...]
    warm_up: int
    option: Any = None


@dataclass
class Measured:
    """Passes of every row, and why rows are missing."""

    passes: dict[str, list[Pass]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def rate(self, name: str) -> float | None:
        """Images per second, median over the repeats; None where it was not run."""
        found = self.passes.get(name)
        return statistics.median(one.images / one.seconds for one in found) if found else None


def round_robin(rows: Sequence[Row], repeats: int) -> Measured:
    """Time every row once in each repeat, in turn, after its warm-up.

    Rows of one function and one setup share a process.
    """
    measured = Measured()
    workers: dict[tuple[str, Setup], Worker] = {}
    try:
        waiting = [row for row in rows if _is_ready(row, workers, measured)]
        for number in range(1, repeats + 1):
            for row in waiting:
                found = workers[row.make.__name__, row.setup].run(row.files, row.option)
                measured.passes.setdefault(row.name, []).append(found)
                rate = found.images / found.seconds
                CONSOLE.print(f"  repeat {number} of {repeats}: {row.name}: {rate:.4g} photos/s")
    finally:
        for worker in workers.values():
            worker.close()
    return measured


def _is_ready(row: Row, workers: dict[tuple[str, Setup], Worker], measured: Measured) -> bool:
    key = row.make.__name__, row.setup
    try:
        if key not in workers:
            workers[key] = Worker(row.make, row.setup)
        workers[key].run(row.files[: row.warm_up], row.option)
    except MissingPeerError as error:
        measured.missing[row.name] = str(error)
        CONSOLE.print(f"  {row.name}: {error}", markup=False)
        return False
    return True
