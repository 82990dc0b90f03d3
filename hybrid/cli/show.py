"""What a person sees: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import ProgressColumn as RichColumn
from rich.text import Text

stderr = Console(stderr=True, highlight=False)
EXIT_UNREADABLE = 3


def stdout() -> Console:
    """A console for results; wide when it is a pipe, so that nothing is cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def note(line: str) -> None:
    """Say one line on stderr."""
    stderr.print(escape(line), style="dim" if not line.startswith("WARNING") else "yellow", soft_wrap=True)


class _Rate(RichColumn):
    def render(self, task: Task) -> Text:
        """Images per second so far."""
        seconds = task.finished_time or task.elapsed
        return Text(f"{task.completed / seconds:,.0f} images/s" if seconds else "- images/s")


class ImageProgress:
    """A bar with images per second and time left; call it with the number of photos just finished."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def __call__(self, count: int) -> None:
        """Advance by `count` photos."""
        self._progress.advance(self._task, count)


@contextmanager
def image_progress(what: str, total: int) -> Iterator[ImageProgress]:
    """Show a progress bar on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr) as progress:
        yield ImageProgress(progress, progress.add_task(what, total=total))


def list_unreadable(unreadable: Sequence[tuple[str, str]], limit: int = 20) -> None:
    """Name the files that could not be read, with their reasons."""
    if not unreadable:
        return
    stderr.print(f"{len(unreadable)} unreadable, skipped:", style="yellow")
    for path, reason in unreadable[:limit]:
        stderr.print(f"  {escape(path)}: {escape(reason)}", soft_wrap=True)
    if len(unreadable) > limit:
        stderr.print(f"  and {len(unreadable) - limit} more")
