"""How a command ends that cannot be done: named errors, signals, closed pipes, and bugs."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hybrid import __version__
from hybrid.cli.wrapping import wrapped
from hybrid.errors import HybridError, file_error, first_line, visible

DEBUG = "HYBRID_DEBUG"
BROKEN_PIPE = 128 + 13  # as a program ends that the system stops with SIGPIPE
# Signals that end a program, and what is said of them.
STOPS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}
CPU_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc", "Cannot allocate memory")
FEWER = "lower --batch-size or --workers, or give fewer or smaller photos at once"


class Stopped(BaseException):
    """The command is to end at once, and to leave nothing behind.

    No kind of KeyboardInterrupt, which libraries catch and turn into something else.
    """

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.words, self.code = words, code


@contextmanager
def stoppable() -> Iterator[None]:
    """Let signals end the block with `Stopped`, so that it cleans up; a second one ends the program as it is."""

    def stop(number: int, frame: FrameType | None) -> None:
        for name in before:
            signal.signal(name, signal.SIG_DFL)
        raise Stopped(STOPS[signal.Signals(number).name], 128 + number)

    before = {}
    try:
        for name in STOPS:
            number = getattr(signal, name, None)
            # What is ignored already, as by nohup, stays ignored.
            if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, stop)
    except ValueError:  # not the main thread, which alone gets signals
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(error: Exception | Stopped) -> int:
    """Say on stderr what ended a command, and give its exit code."""
    if isinstance(error, Stopped):
        if error.words:
            _say(error.words)
        return error.code
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    named = error if isinstance(error, HybridError) else name_error(error)
    _say(f"error: {named}" if named is not None else _bug(error))
    return 1


def name_error(error: Exception) -> HybridError | None:
    """Name an error of the system or of a library that a user can act on; None for a bug."""
    kind, words = type(error), str(error)
    library = kind.__module__.partition(".")[0]
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(said in words for said in CPU_MEMORY)
    ):
        return HybridError("there is not enough memory", got=first_line(error), fix=FEWER)
    if isinstance(error, OSError):
        return file_error(error, "a file cannot be read or written")
    if isinstance(error, RuntimeError) and "DataLoader worker" in words:
        return HybridError(
            "a process that loads photos died",
            got=first_line(error),
            fix="give fewer --workers (0: none), or more memory",
        )
    if isinstance(error, ImportError) and "hybrid" not in (error.name or ""):
        fix = "give it more memory; if it has enough, install the package again (pip install --force-reinstall)"
        return HybridError("an installed package cannot be loaded", got=first_line(error), fix=fix)
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in words:
        fix = "free some space where the run lies, then run the same command again"
        return HybridError("a checkpoint cannot be written", got=first_line(error), fix=fix)
    if isinstance(error, RecursionError):
        return HybridError(
            "an input is nested too deeply", got=first_line(error), fix="see that its file is not damaged"
        )
    if library in ("sqlite3", "safetensors", "msgspec"):
        return HybridError(
            "a file of the run cannot be read or written",
            got=first_line(error),
            fix="see that the disk has space and that no other program writes there; make a damaged part again",
        )
    return None


def _bug(error: Exception) -> str:
    """Say that it is a bug, and where the traceback lies."""
    text = "".join(traceback.format_exception(error))
    said = f"error: this is a bug in hybrid {__version__}: {first_line(error)}"
    try:
        handle, name = tempfile.mkstemp(prefix="hybrid-bug-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return f"{text}\n{said}\n  fix:      please report it with these lines"
    return f"{said}\n  fix:      please report it with {Path(name)} ({DEBUG}=1 shows it at once)"


def _say(words: str) -> None:
    if sys.stderr is None:
        return
    try:
        shown = visible(words)
        sys.stderr.write(f"{wrapped(shown) if sys.stderr.isatty() else shown}\n")
        sys.stderr.flush()
    except OSError:  # nobody can be told
        pass
