"""The look that the figures of the docs share, and how their JSON is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INK, PEER, OWN, GRID = "#24292f", "#8b949e", "#0a69da", "#e6e9ed"


def read_json(file: Path) -> dict[str, Any]:
    """A benchmark's JSON; ValueError where the file holds something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no figures")
    return found


def plain(axis: Any, grid: str | None = None) -> None:
    """Take frame and ticks from a panel; `grid` names the axis whose lines stay."""
    axis.tick_params(length=0, labelcolor=INK)
    if grid:
        axis.grid(axis=grid, color=GRID)
        axis.set_axisbelow(True)
    for side in axis.spines.values():
        side.set_visible(False)


def short(value: float, _: object = None) -> str:
    """Two digits without the zero in front, for an axis."""
    return f"{value:.2f}".lstrip("0")
