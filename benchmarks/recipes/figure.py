"""Picture of the `results.json` that `hybrid compare` wrote: accuracy by trained parameters, as `compare` draws it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any


def check(found: dict[str, Any]) -> None:
    """Raise a lookup's error if compare did not write it."""
    for row in found["results"]:
        row["name"], row["trainable"], row["accuracy"]


def write(name: str, found: dict[str, Any], file: Path) -> None:
    """Draw it into a PNG."""
    from hybrid.tools.compare.plots import draw_scatter

    rows: list[Any] = [SimpleNamespace(**row) for row in found["results"]]
    draw_scatter(rows, file)
