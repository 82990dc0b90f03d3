"""What a person sees: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import ProgressColumn as RichColumn
from rich.text import Text

from hybrid.cli.failures import BROKEN_PIPE, Stopped
from hybrid.cli.wrapping import wrapped
from hybrid.errors import visible
from hybrid.terminal import SafeConsole

if TYPE_CHECKING:
    from hybrid.heads.training.progress import OnStep, Step

stderr = SafeConsole(stderr=True, highlight=False)
EXIT_UNREADABLE = 3
# Files that could not be read, by name; of more there is a number.
LISTED = 20
# Set to "json": progress as lines of JSON.
PROGRESS = "HYBRID_PROGRESS"
# Of a file or a pipe, in characters: nothing is cut there.
ANY_WIDTH = 100_000
# Columns of a terminal that has room for a bar of progress beside its numbers, and for all of the numbers.
WIDE, NARROW = 100, 64


class _Output(SafeConsole):
    def on_broken_pipe(self) -> None:
        """End quietly, as other programs do whose reader has had enough."""
        raise Stopped("", BROKEN_PIPE)


def stdout() -> SafeConsole:
    """A console for results; as wide as they are when it is a pipe, so that nothing is cut."""
    return _Output(highlight=False, width=None if sys.stdout.isatty() else ANY_WIDTH)


def note(*lines: str) -> None:
    """Say lines on stderr, warnings in yellow."""
    for line in lines:
        shown = wrapped(line, stderr.width) if stderr.is_terminal else line
        stderr.print(
            escape(visible(shown)), style="dim" if not line.startswith("WARNING") else "yellow", soft_wrap=True
        )


def result(line: str) -> None:
    """Say a line on stdout, as it is."""
    say(stdout(), line)


def say(console: SafeConsole, line: str, *, indent: int = 2) -> None:
    """Say a line; in a terminal broken between words, all but the first part by so many characters to the right."""
    shown = wrapped(line, console.width, indent) if console.is_terminal else line
    console.print(visible(shown), markup=False, soft_wrap=True)


class _Rate(RichColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """So many per second so far."""
        seconds = task.finished_time or task.elapsed
        return Text(f"{task.completed / seconds:,.0f} {self._unit}/s" if seconds else f"- {self._unit}/s")


@dataclass(frozen=True)
class Bar:
    """A bar of `image_progress`; call it with the number of images just finished."""

    progress: Progress
    task: TaskID

    def __call__(self, count: int) -> None:
        """Go on by so many images."""
        self.progress.advance(self.task, count)

    def skip(self, count: int) -> None:
        """Expect so many images fewer: nothing is done for them."""
        total = self.progress.tasks[0].total or 0
        self.progress.update(self.task, total=total - count)


class Lines:
    """Progress as lines of JSON on stderr, for a program that started the command; used as a `Bar`, and by trainings.

    Parameters
    ----------
    what : str
        What is done, where each call does not say it.
    total : int
    """

    EVERY = 0.2  # seconds between two lines

    def __init__(self, what: str = "", total: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._total, self._clock = what, total, clock
        self._done, self._told = 0, -self.EVERY

    def __call__(self, count: int) -> None:
        """Go on by so many images."""
        self._done += count
        self._tell(self._what, self._done, self._total)

    def skip(self, count: int) -> None:
        """Expect so many images fewer."""
        self._total -= count

    def step(self, step: Step) -> None:
        """Tell of a step of a training."""
        epoch = f" {step.epoch}/{step.epochs}" if step.phase in ("training", "validating") else ""
        part = f"{step.part}: " if step.part else ""
        self._tell(f"{part}{step.phase}{epoch}", step.images, step.total)

    def _tell(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        if now - self._told < self.EVERY and done < total:
            return
        self._told = now
        line = json.dumps({"progress": {"step": what, "done": done, "total": total}})
        stderr.file.write(f"{line}\n")
        stderr.file.flush()


def _by_lines() -> bool:
    return os.environ.get(PROGRESS) == "json"


@contextmanager
def image_progress(what: str, total: int) -> Iterator[Bar | Lines]:
    """Show a bar on stderr, with images per second and time left."""
    with _progress(what, total, "images") as bar:
        yield bar


@contextmanager
def text_progress(total: int) -> Iterator[Bar | Lines]:
    """Show a bar on stderr for texts that are encoded."""
    with _progress("encoding texts", total, "texts") as bar:
        yield bar


@contextmanager
def _progress(what: str, total: int, unit: str) -> Iterator[Bar | Lines]:
    if _by_lines():
        yield Lines(what, total)
        return
    with Progress(*_fitting(_Rate(unit), TimeRemainingColumn()), console=stderr) as progress:
        yield Bar(progress, progress.add_task(what, total=total))


@contextmanager
def training_progress(shown: bool = True) -> Iterator[OnStep]:
    """Show how far a training is, on a terminal alone: elsewhere the line of each epoch is enough."""
    if shown and _by_lines():
        yield Lines().step
        return
    if not shown or not stderr.is_terminal:
        yield lambda step: None
        return
    rate, loss, left = (TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "loss", "left"))
    columns = _fitting(rate, left, loss)
    with Progress(*columns, console=stderr, transient=True, refresh_per_second=4) as progress:
        yield TrainingBar(progress)


class TrainingBar:
    """The bar of an epoch, with images per second, the loss so far and the time left for all epochs.

    Parameters
    ----------
    progress : rich.progress.Progress
    clock : callable
        Seconds.
    """

    EVERY = 0.1  # seconds between two changes of what is shown

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._clock = progress, clock
        self._task = progress.add_task("", total=None, visible=False, rate="", loss="", left="")
        self._key: tuple[str, str, int] | None = None
        self._start = self._shown = self._epoch_start = 0.0
        self._per_epoch: float | None = None

    def __call__(self, step: Step) -> None:
        """Show a step, but not each one of many."""
        now, key = self._clock(), (step.part, step.phase, step.epoch)
        if key != self._key:
            self._begin(step, key, now)
        elif now - self._shown < self.EVERY and step.images < step.total:
            return
        self._shown = now
        seconds = now - self._start
        name = {"training": "epoch", "validating": "validating"}.get(step.phase)
        unit = "texts" if step.phase == "encoding texts" else "images"
        what = f"{name} {step.epoch}/{step.epochs}" if name else step.phase
        self._progress.update(
            self._task,
            description=f"{step.part}: {what}" if step.part else what,
            completed=step.images,
            total=step.total,
            visible=step.images < step.total or step.phase == "training",
            rate=f"{step.images / seconds:,.0f} {unit}/s" if seconds > 0 else "",
            loss="" if step.loss is None else f"loss {step.loss:.3f}",
            left=self._left(step, now),
        )

    def _begin(self, step: Step, key: tuple[str, str, int], now: float) -> None:
        """Begin a phase; the length of a whole epoch is known from the second one on."""
        if step.phase == "training":
            before = self._key
            goes_on = before is not None and before[0] == step.part and before[2] == step.epoch - 1
            self._per_epoch = now - self._epoch_start if goes_on else None
            self._epoch_start = now
        # Its first batch began when the last one before it ended.
        self._key, self._start = key, self._shown or now

    def _left(self, step: Step, now: float) -> str:
        """Time left for all epochs; less where the training stops early."""
        if step.phase in ("decoding", "features") or not step.images:
            return ""
        share = step.images / step.total if step.phase in ("training", "encoding texts") else 1.0
        epoch = self._per_epoch or (now - self._start) / share
        seconds = epoch * (step.epochs - step.epoch + 1 - share)
        return f"{timedelta(seconds=round(seconds))} left" if seconds > 0 else ""


def _fitting(rate: RichColumn, left: RichColumn, *more: RichColumn) -> tuple[RichColumn, ...]:
    """Columns of a progress line: the bar needs a wide terminal, and the rate one that is not narrow."""
    columns: list[RichColumn] = [TextColumn("{task.description}", markup=False)]
    columns += [BarColumn()] if stderr.width >= WIDE else []
    columns += [MofNCompleteColumn()]
    columns += [rate] if stderr.width >= NARROW else []
    return (*columns, *more, left)


def exit_if_unreadable(unreadable: Sequence[tuple[str, str]], count: int | None = None) -> None:
    """Name files that could not be read, with their reasons, and end the command with exit code 3.

    `count` is how many there were, where not all of them are given.
    """
    total = len(unreadable) if count is None else count
    if not total:
        return
    stderr.print(f"{total} unreadable, skipped:", style="yellow")
    for path, reason in unreadable[:LISTED]:
        stderr.print(f"  {escape(path)}: {escape(reason)}", soft_wrap=True)
    if total > LISTED:
        stderr.print(f"  and {total - LISTED} more")
    raise typer.Exit(EXIT_UNREADABLE)
