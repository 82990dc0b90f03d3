"""What a person sees: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import ProgressColumn as RichColumn
from rich.text import Text

from hybrid.cli.failures import BROKEN_PIPE, Stopped
from hybrid.errors import visible
from hybrid.terminal import SafeConsole

stderr = SafeConsole(stderr=True, highlight=False)
EXIT_UNREADABLE = 3
# Of a file or a pipe, in characters: nothing is cut there.
ANY_WIDTH = 100_000
# Columns of a terminal that has room for a bar of progress beside its numbers.
WIDE = 96


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
        stderr.print(escape(visible(line)), style="dim" if not line.startswith("WARNING") else "yellow", soft_wrap=True)


def result(line: str) -> None:
    """Say a line on stdout, as it is."""
    stdout().print(visible(line), markup=False, soft_wrap=True)


class _Rate(RichColumn):
    def render(self, task: Task) -> Text:
        """Images per second so far."""
        seconds = task.finished_time or task.elapsed
        return Text(f"{task.completed / seconds:,.0f} images/s" if seconds else "- images/s")


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


@contextmanager
def image_progress(what: str, total: int) -> Iterator[Bar]:
    """Show a bar on stderr, with images per second and time left."""
    with Progress(*_fitting(BarColumn(), MofNCompleteColumn(), _Rate()), console=stderr) as progress:
        yield Bar(progress, progress.add_task(what, total=total))


def _fitting(bar: BarColumn, *columns: RichColumn) -> tuple[RichColumn, ...]:
    """Columns of a progress line, without the bar where the terminal is too narrow for it."""
    wide = (bar, *columns) if stderr.width >= WIDE else columns
    return TextColumn("{task.description}", markup=False), *wide, TimeRemainingColumn()


def exit_if_unreadable(unreadable: Sequence[tuple[str, str]], limit: int = 20) -> None:
    """Name the files that could not be read, with their reasons, and end the command with exit code 3."""
    if not unreadable:
        return
    stderr.print(f"{len(unreadable)} unreadable, skipped:", style="yellow")
    for path, reason in unreadable[:limit]:
        stderr.print(f"  {escape(path)}: {escape(reason)}", soft_wrap=True)
    if len(unreadable) > limit:
        stderr.print(f"  and {len(unreadable) - limit} more")
    raise typer.Exit(EXIT_UNREADABLE)
