"""What a benchmark leaves: means over seeds, a table with the best of each column marked, and the JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from benchmarks.kit.machine import machine
from hybrid.files import atomic_write

Rows = Mapping[str, Mapping[str, float | None]]


def mean(parts: Sequence[Any]) -> Any:
    """Mean of every number in dicts of the same form; None where a part has None."""
    if isinstance(parts[0], Mapping):
        return {key: mean([part[key] for part in parts]) for key in parts[0]}
    return None if None in parts else statistics.fmean(parts)


def write_json(file: Path | None, found: Mapping[str, Any]) -> None:
    """Write a run's figures with the machine that they are of, if there is a file for them."""
    if file is None:
        return
    text = json.dumps({**found, "machine": {**machine(), **found.get("machine", {})}}, indent=2, allow_nan=False)
    with atomic_write(file) as part:
        part.write_text(text + "\n", encoding="utf-8")


def table(
    rows: Rows, lower: Collection[str] = (), digits: int = 4, *, first: str = "", marked: bool = True, **titles: Any
) -> Table:
    """Lay out a row a method and a column a figure, the best of each column marked by a star.

    Parameters
    ----------
    lower : collection of str
        Figures of which less is better.
    first : str
        Heading of the methods.
    marked : bool
        Whether there is a best.
    **titles
        `title` and `caption` of the table.
    """
    made = Table(first, **titles)
    best: dict[str, float | None] = {}
    for figure in next(iter(rows.values())):
        made.add_column(figure.replace("_", " "), justify="right")
        known = [value for row in rows.values() if (value := row[figure]) is not None]
        best[figure] = (min if figure in lower else max)(known, default=None) if marked else None
    for name, row in rows.items():
        cells = [cell(value, digits, best=_is_best(value, best[figure])) for figure, value in row.items()]
        made.add_row(escape(name), *cells)
    return made


def _is_best(value: float | None, best: float | None) -> bool:
    # A debiased error falls below 0 by chance alone: none of those is better than another.
    return value is not None and best is not None and (value == best or (value < 0 and best < 0))


def cell(value: float | None, digits: int = 4, *, best: bool = False) -> str:
    """A figure for people, with a star where it is the best."""
    if value is None:
        return "- "
    return f"[bold]{value:.{digits}f}*[/bold]" if best else f"{value:.{digits}f} "
