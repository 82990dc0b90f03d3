"""What a person sees: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.progress import ProgressColumn as RichColumn
from rich.text import Text

stderr = Console(stderr=True, highlight=False)
EXIT_UNREADABLE = 3


def stdout() -> Console:
    """A console for results; wide when it is a pipe, so that nothing is cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def note(*lines: str) -> None:
    """Say lines on stderr, warnings in yellow."""
    for line in lines:
        stderr.print(escape(line), style="dim" if not line.startswith("WARNING") else "yellow", soft_wrap=True)


def result(line: str) -> None:
    """Say a line on stdout, as it is."""
    stdout().print(line, markup=False, soft_wrap=True)


class _Rate(RichColumn):
    def render(self, task: Task) -> Text:
        """Images per second so far."""
        seconds = task.finished_time or task.elapsed
        return Text(f"{task.completed / seconds:,.0f} images/s" if seconds else "- images/s")


@contextmanager
def image_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, with images per second and time left; call it with the number of images just finished."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr) as progress:
        yield partial(progress.advance, progress.add_task(what, total=total))


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
