"""What reaches a terminal: text that cannot steer it, and tables that show what matters at any width."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hybrid.errors import visible

# Widths, in characters, down to which a column is made narrower before another one goes; those always shown go on.
LEAST = {"path": 18, "text": 10}
LEAST_LABEL = 16  # of a text that is always shown
LAST_RESORT = 4
# A box in a photo, as its path names it.
_BOX = re.compile(r"#xywh=percent:(\d+)[\d.]*,(\d+)[\d.]*,[^#]*$")
Cell = str | Text


@dataclass(frozen=True)
class Column:
    """A column of a `FittedTable`.

    Attributes
    ----------
    heading : str
        With its line breaks.
    kind : {"text", "path", "number"}
        Text is broken into lines, a path loses its start, a number stays whole and stands right.
    rank : int
        0: always shown. Of the others, the ones with the highest rank are the first to go.
    lines : int
        Of a text: it goes rather than take more lines than this; 0: as many as it takes.
    """

    heading: str
    kind: Literal["text", "path", "number"] = "text"
    rank: int = 0
    lines: int = 0


class FittedTable:
    """A table that fits the console's width; a rich renderable.

    Paths get shorter first, then texts are broken; then the columns that matter least go.

    Parameters
    ----------
    columns : sequence of Column
    ruled : bool
        Draw a line under the headings.
    below : bool
        Show the columns that do not fit in tables of their own beneath, beside the first column, instead of naming
        them in one line.
    """

    def __init__(self, columns: Sequence[Column], *, ruled: bool = False, below: bool = False) -> None:
        self.columns = tuple(columns)
        self.rows: list[tuple[Text, ...]] = []
        self._styles: list[str] = []
        self._ruled, self._below = ruled, below

    def add_row(self, *cells: Cell, style: str = "") -> None:
        """Add a row, one cell for each column; control characters become visible."""
        self.rows.append(tuple(_as_text(cell) for cell in cells))
        self._styles.append(style)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay out the table for the width that there is."""
        left = list(range(len(self.columns)))
        while left:
            shown = self._that_fit(left, options.max_width)
            yield self._table(shown, options.max_width)
            rest = [index for index in left if index not in shown]
            if not self._below:
                if rest:
                    names = ", ".join(" ".join(self.columns[index].heading.split()) for index in rest)
                    yield Text(f"(too narrow for: {names})", style="dim")
                return
            left = [left[0], *rest] if rest else []

    def _that_fit(self, candidates: Sequence[int], width: int) -> list[int]:
        """Which of the columns are shown: all, or all but those that matter least."""
        shown = list(candidates)
        least = {index: self._least(index) for index in shown}
        while sum(least[index] for index in shown) + self._between(len(shown), 1) > width:
            last = max(shown, key=lambda index: (self.columns[index].rank, index))
            if (len(shown) <= 2) if self._below else (self.columns[last].rank == 0):
                break
            shown.remove(last)
        return shown

    def _table(self, shown: Sequence[int], width: int) -> Table:
        natural = [self._natural(index) for index in shown]
        gap = 2 if not self._ruled and sum(natural) + self._between(len(shown), 2) <= width else 1
        widths = self._widths(shown, natural, width - self._between(len(shown), gap))
        table = Table(
            box=box.SIMPLE_HEAD if self._ruled else None,
            header_style="" if self._ruled else "bold",
            padding=0,
            pad_edge=False,
        )
        vertical: Literal["top", "bottom"] = "bottom" if self._ruled else "top"
        for place, (index, own) in enumerate(zip(shown, widths, strict=True)):
            if place and not self._ruled:
                table.add_column("", width=gap)
            column = self.columns[index]
            justify: Literal["left", "right"] = "right" if column.kind == "number" else "left"
            table.add_column(Text(column.heading), justify=justify, vertical=vertical, width=own, overflow="fold")
        for cells, style in zip(self.rows, self._styles, strict=True):
            row: list[Cell] = []
            for place, (index, own) in enumerate(zip(shown, widths, strict=True)):
                row += [""] if place and not self._ruled else []
                row.append(shortened(cells[index], own) if self.columns[index].kind == "path" else cells[index])
            table.add_row(*row, style=style)
        return table

    def _between(self, columns: int, gap: int) -> int:
        """Characters between and, of a ruled table, around so many columns."""
        return gap * (columns - 1) + (2 if self._ruled else 0)

    def _natural(self, index: int) -> int:
        cells = max((cell_len(row[index].plain) for row in self.rows), default=0)
        return max(cells, *map(cell_len, self.columns[index].heading.split("\n")))

    def _least(self, index: int) -> int:
        column, natural = self.columns[index], self._natural(index)
        if column.lines:
            return max(min(natural, LEAST["text"]), math.ceil(natural / column.lines))
        least = LEAST_LABEL if column.kind == "text" and column.rank == 0 else LEAST.get(column.kind, natural)
        return min(natural, least)

    def _widths(self, shown: Sequence[int], natural: list[int], width: int) -> list[int]:
        """Take what is too much from the paths, then from the widest text, then from whatever is widest."""
        widths, least = list(natural), [self._least(index) for index in shown]
        steps: tuple[tuple[Collection[str], Sequence[int]], ...] = (
            (("path",), least),
            (("text",), least),
            (("path", "text"), [LAST_RESORT] * len(shown)),
            (("path", "text", "number"), [1] * len(shown)),
        )
        for kinds, limits in steps:
            places = [place for place, index in enumerate(shown) if self.columns[index].kind in kinds]
            while (excess := sum(widths) - width) > 0 and (
                wide := [place for place in places if widths[place] > limits[place]]
            ):
                widest, *others = sorted(wide, key=lambda place: -widths[place])
                down_to = max(limits[widest], widths[others[0]] if others else 0)
                widths[widest] -= max(1, min(excess, widths[widest] - down_to))
        return widths


def shortened(text: Text, width: int) -> Text:
    """Leave out the start of a text that is wider than `width` characters: the end of a path tells images apart.

    Of a box in a photo, the whole percents of its left upper corner stay: ``trap/IMG_1.jpg#16,65``.
    """
    if cell_len(text.plain) <= width:
        return text
    if (found := _BOX.search(text.plain)) is not None:
        return shortened(Text(f"{text.plain[: found.start()]}#{found[1]},{found[2]}", style=text.style), width)
    start, end = 0, len(text.plain)
    while start < end and cell_len(text.plain[start:]) > width - 1:
        start += 1
    return Text.assemble("…", text[start:])


def _as_text(cell: Cell) -> Text:
    """Make a text of a cell that keeps to its line and cannot steer the terminal."""
    plain, style = (cell, "") if isinstance(cell, str) else (cell.plain, cell.style)
    shown = visible(plain).replace("\n", "\\n").replace("\t", "\\t")
    return cell if isinstance(cell, Text) and shown == plain else Text(shown, style)


class SafeConsole(Console):
    """A console on which no text moves the cursor, sets colors or turns the direction of writing."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as rich does, with `visible` over all that is text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
