"""Run systems in turn, each in a process of its own: its threads, settings and memory are nobody else's.

One process at a time works; the others wait for their turn on a pipe.
"""

from __future__ import annotations

import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

    Before it counts, it passes over the first `warm_up` files. It takes part in the first `most` repeats, if set.
    """

    name: str
    make: Callable[[Setup], Work]
    setup: Setup
    files: tuple[str, ...]
    warm_up: int
    option: Any = None
    most: int | None = None

    def is_in(self, repeat: int) -> bool:
        """Whether it takes part in a repeat, numbered from 1."""
        return self.most is None or repeat <= self.most


@dataclass
class Measured:
    """Passes of every row, and why rows are missing."""

    passes: dict[str, list[Pass]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def rate(self, name: str) -> float | None:
        """Images per second, median over the repeats; None where it was not run."""
        found = self.passes.get(name)
        return statistics.median(one.images / one.seconds for one in found) if found else None


OnPass = Callable[[str, Pass, int], None]
OnFailure = Callable[[str, str], None]


def round_robin(
    rows: Sequence[Row], repeats: int, on_pass: OnPass | None = None, on_failure: OnFailure | None = None
) -> Measured:
    """Time every row once in each repeat, in turn, after its warm-up.

    Rows of one function and one setup share a process. The processes start at once: loading waits for the disk, and for
    Python.

    Parameters
    ----------
    on_pass : callable, optional
        Gets each pass with its row's name and the number of the repeat, from 1. Default: says the rate.
    on_failure : callable, optional
        Gets the name of a row that failed, and how; the others go on. Default: the first failure ends the run.
    """
    tell = on_pass or (lambda name, found, number: _say_rate(name, found, number, repeats))
    run = _RoundRobin(on_failure)
    try:
        run.start(rows)
        waiting = [row for row in rows if run.once(row, row.files[: row.warm_up])]
        for number in range(1, repeats + 1):
            for row in waiting:
                found = run.once(row, row.files) if row.is_in(number) else None
                if found is not None:
                    run.measured.passes.setdefault(row.name, []).append(found)
                    tell(row.name, found, number)
    finally:
        for worker in run.workers.values():
            worker.close()
    return run.measured


def _say_rate(name: str, found: Pass, number: int, repeats: int) -> None:
    CONSOLE.print(f"  repeat {number} of {repeats}: {name}: {found.images / found.seconds:.4g} photos/s")


class _RoundRobin:
    """The processes of some rows, and what became of them."""

    def __init__(self, on_failure: OnFailure | None) -> None:
        self.measured = Measured()
        self.workers: dict[tuple[str, Setup], Worker] = {}
        self._failed: dict[tuple[str, Setup], Exception] = {}
        self._on_failure = on_failure

    def start(self, rows: Sequence[Row]) -> None:
        """Start a process for each function and setup, all at once."""
        with ThreadPoolExecutor(len(rows) or 1) as pool:
            jobs = {_key(row): pool.submit(Worker, row.make, row.setup) for row in {_key(r): r for r in rows}.values()}
        for key, job in jobs.items():
            error = job.exception()
            if error is None:
                self.workers[key] = job.result()
            elif isinstance(error, MissingPeerError | RuntimeError):
                self._failed[key] = error
            else:
                raise error

    def once(self, row: Row, files: Sequence[str]) -> Pass | None:
        """One pass of a row, None where it cannot."""
        try:
            if _key(row) in self._failed:
                raise self._failed[_key(row)]
            return self.workers[_key(row)].run(files, row.option)
        except MissingPeerError as error:
            self.measured.missing[row.name] = str(error)
            CONSOLE.print(f"  {row.name}: {error}", markup=False)
        except (RuntimeError, OSError) as error:
            if self._on_failure is None:
                raise
            if row.name not in self.measured.missing:
                self._on_failure(row.name, str(error))
            self.measured.missing[row.name] = str(error)
        return None


def _key(row: Row) -> tuple[str, Setup]:
    return row.make.__name__, row.setup
