"""Picture of what benchmarks.throughput wrote: images per second of the product and of its peers."""

from __future__ import annotations

from typing import Any

from benchmarks.kit.figure import INK, OWN, PEER, plain
from benchmarks.throughput import table as names

PANELS = {"build an index": "build-index: ", "predict, 40 classes": "predict: "}
OURS = (names.BUILD, names.PREDICT, names.PREDICT_HEAD)


def check(found: dict[str, Any]) -> None:
    """A lookup's error if throughput did not write it."""
    found["rates"], found["device"]


def draw(name: str, found: dict[str, Any]) -> Any:
    """Figure with a panel of bars for each command, the slowest first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.3), layout="constrained")
    figure.suptitle(f"{name}; {found['device']}", fontsize=10, color=INK)
    for axes, (title, start) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        rows = sorted((rate, name) for name, rate in found["rates"].items() if name.startswith(start))
        colors = [OWN if name in OURS else PEER for _, name in rows]
        bars = axes.barh([name.removeprefix(start) for _, name in rows], [rate for rate, _ in rows], color=colors)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8, color=INK)
        axes.set_title(title, fontsize=9, color=INK)
        axes.tick_params(labelsize=8)
        axes.set_xticks([])
        axes.margins(x=0.15)
        plain(axes)
    return figure
