"""Picture of what benchmarks.few_shot wrote: accuracy, and the product's harmonic mean, by images a class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from benchmarks.kit.figure import INK, OWN, PEER, plain, short

WIDTH, HEIGHT = 9.0, 3.9
WAY_STYLES = {
    "named, all shown": (OWN, "-"),
    "named, every other shown": (OWN, "--"),
    "photos alone, all shown": (PEER, "-"),
}
# Labels at the right end stand at least so far apart, as a share of the axis.
APART = 0.062


def check(found: dict[str, Any]) -> None:
    """A lookup's error if few_shot did not write it."""
    for row in found["methods"].values():
        [row[str(count)] for count in found["shots"]]
    found["three_way"]


def draw(name: str, found: dict[str, Any]) -> Any:
    """Figure with one panel, or two where the three ways were measured."""
    from matplotlib.figure import Figure

    three = found["three_way"]
    figure = Figure(figsize=(WIDTH if three else WIDTH / 2, HEIGHT), layout="constrained")
    figure.suptitle(f"{name}; vectors: {found['model']}; mean of {len(found['seeds'])} seeds", fontsize=10, color=INK)
    axes = figure.subplots(1, 2 if three else 1, squeeze=False)[0]
    positions = list(range(len(found["shots"])))
    lines = {
        method: (positions, [row[str(count)] for count in found["shots"]], *_style(method))
        for method, row in found["methods"].items()
    }
    classes = found["classes"]["with_text"]
    _panel(axes[0], lines, [str(count) for count in found["shots"]], f"{classes} classes, every one shown: accuracy")
    if three:
        ticks = ["names\nalone", *map(str, found["shots"])]
        keys = ["0", *map(str, found["shots"])]
        ways = {
            way: (
                [at for at, key in enumerate(keys) if key in row["harmonic_mean"]],
                list(row["harmonic_mean"].values()),
            )
            for way, row in three["ways"].items()
        }
        styled = {way: (at, values, *WAY_STYLES.get(way, (PEER, ":"))) for way, (at, values) in ways.items()}
        _panel(axes[1], styled, ticks, "trained, named and shown classes: harmonic mean")
    return figure


def _style(method: str) -> tuple[str, str]:
    return (OWN, "-") if method == "hybrid" else (PEER, "--" if method == "zero-shot" else "-")


def _panel(axis: Any, lines: dict[str, tuple[list[int], list[float], str, str]], ticks: list[str], title: str) -> None:
    for at, values, color, style in lines.values():
        own = color == OWN
        axis.plot(at, values, style, marker="o", color=color, markersize=5 if own else 3.5, linewidth=2 if own else 1.2)
    axis.set_title(title, fontsize=10, color=INK)
    axis.set_xticks(range(len(ticks)), ticks, color=INK, fontsize=9)
    axis.set_xlabel("labeled photos per class", fontsize=9, color=INK)
    # Room for the names at the right end of the lines.
    axis.set_xlim(-0.3, (len(ticks) - 1) * 1.42)
    low, high = axis.get_ylim()
    places = _spread([values[-1] for _, values, _, _ in lines.values()], APART * (high - low))
    for place, (name, (at, values, color, _)) in zip(places, lines.items(), strict=True):
        weight = "bold" if color == OWN else "normal"
        label = f"{name} {values[-1]:.3f}".replace(" 0.", " .")
        axis.annotate(
            label,
            (at[-1], values[-1]),
            (len(ticks) - 0.8, place),
            fontsize=8,
            color=color if weight == "bold" else INK,
            weight=weight,
            va="center",
            zorder=1,
            arrowprops={"arrowstyle": "-", "color": PEER, "linewidth": 0.5, "relpos": (0, 0.5)},
        )
    axis.yaxis.set_major_formatter(short)
    axis.tick_params(labelsize=9)
    plain(axis, grid="y")


def _spread(values: Sequence[float], apart: float) -> list[float]:
    """Move values down until neighbors stand `apart`, keeping their order and the highest."""
    placed = list(values)
    order = sorted(range(len(values)), key=lambda index: -values[index])
    for above, below in pairwise(order):
        placed[below] = min(placed[below], placed[above] - apart)
    return placed
