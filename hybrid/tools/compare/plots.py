"""A comparison's pictures: parameters against accuracy, and a confusion matrix, as PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid.evaluation.confusion import Counts
from hybrid.evaluation.heatmap import lay_out
from hybrid.plotting import save_png
from hybrid.tools.compare.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG, MARK = "#2166ac", "#b2182b", "#2166ac"
MOST_NAMES = 16  # more names make a thicket: points are then numbered, and named beside the plot
DPI = 110
Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


def draw_scatter(results: Sequence[Result], file: Path) -> None:
    """Plot accuracy against the number of trained parameters (log axis), each recipe named."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    many = len(results) > MOST_NAMES
    names = [_short(r.name, 100 if many else 48) for r in results]
    width, height = 8.5, 5.0
    if many:
        width, height = 7.5 + 0.06 * max(map(len, names)), max(height, 1.0 + 0.17 * len(names))
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xscale="log", xlabel="parameters that train", ylabel="accuracy on the test photos")
    axes.grid(alpha=0.3)
    if results:
        x, y = [max(r.trainable, 1) for r in results], [r.accuracy for r in results]
        axes.plot(x, y, "o", color=MARK, markersize=6, alpha=0.75, zorder=3)
        axes.set_xlim(min(x) / 2, max(x) * 2)
        room = 0.12 * (max(y) - min(y)) + 0.02
        axes.set_ylim(min(y) - room, max(y) + room)
        # Between powers of ten there may be no power of ten.
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if max(x) > 1000 * min(x) else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.xaxis.set_minor_locator(NullLocator())  # matplotlib would label some of them
        texts = [str(number) for number in range(1, len(results) + 1)] if many else names
        if many:
            key = "\n".join(f"{number}  {name}" for number, name in zip(texts, names, strict=True))
            axes.text(1.02, 1.0, key, transform=axes.transAxes, va="top", fontsize=7.5, parse_math=False)
        canvas.draw()
        figure.set_layout_engine("none")  # the labels are placed in pixels: the axes must not move again
        _label(axes, list(zip(x, y, strict=True)), texts, canvas.get_renderer())
    save_png(figure, file, DPI)


def draw_confusion(confusion: Counts, names: Sequence[str], title: str, file: Path) -> None:
    """Draw a confusion matrix: rows are true classes, a cell's strength its share of the row.

    Parameters
    ----------
    confusion : ndarray of int64, shape (c, c)
    names : sequence of c str
        Of more than `hybrid.evaluation.heatmap.MAX_CLASSES` those with the most mistakes are shown.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    heat = lay_out(confusion, names, len(names))
    top, side = 64, max(heat.size, 320) + 12  # room for the title, pixels
    points = 72 / DPI  # one pixel
    figure = Figure(figsize=(side / DPI, (side + top) / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, side), ylim=(side, -top))
    axes.set_axis_off()
    for cell in heat.cells:
        color = RIGHT if cell.right else WRONG
        axes.add_patch(Rectangle((cell.x, cell.y), heat.cell, heat.cell, color=color, alpha=cell.share, linewidth=0))
        if heat.cell >= 22:
            middle = cell.x + heat.cell / 2, cell.y + heat.cell / 2
            ink = "white" if cell.share > 0.5 else "black"
            axes.text(*middle, str(cell.count), ha="center", va="center", color=ink, fontsize=0.33 * heat.cell * points)
    frame = heat.size - heat.margin - 1
    axes.add_patch(Rectangle((heat.margin, heat.margin), frame, frame, fill=False, color="0.6", linewidth=0.8))
    style: dict[str, Any] = {"fontsize": heat.font * points, "parse_math": False}
    for label in heat.labels:
        axes.text(heat.margin - 4, label.middle, label.text, ha="right", va="center", **style)
        axes.text(label.middle, heat.margin - 4, label.text, ha="center", va="bottom", rotation=90, **style)
    hidden = f", the {len(heat.labels)} classes with the most mistakes" if heat.hidden else ""
    under = f"rows: true class, columns: predicted{hidden}"
    axes.text(8, -top + 10, _short(title), va="top", fontsize=10, parse_math=False, weight="bold")
    axes.text(8, -top + 36, under, va="top", fontsize=8, color="0.3")
    save_png(figure, file, DPI)


def _label(axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], renderer: Any) -> None:
    """Write each text near its point: on no other text, no point, and inside the frame."""
    frame = axes.get_window_extent(renderer)
    pixels = axes.transData.transform(points)
    marks: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in pixels]
    placed: list[Box] = []
    for (x, y), text in zip(pixels, texts, strict=True):
        artist = axes.text(0, 0, text, fontsize=8, va="center", ha="center", parse_math=False, zorder=4)
        extent = artist.get_window_extent(renderer)
        width, height = extent.width + 3, extent.height + 2
        boxes = [
            (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            for cx, cy in _places(x, y, width, height)
        ]
        costs = [_cost(box, (*placed, *marks), frame) for box in boxes]
        # The first free place is the nearest one; in a crowd that leaves none, the least covered.
        best = boxes[int(np.argmin(costs))]
        placed.append(best)
        back = axes.transData.inverted()
        center = back.transform(((best[0] + best[2]) / 2, (best[1] + best[3]) / 2)).tolist()
        artist.set_position((center[0], center[1]))
        if boxes.index(best) >= 8:  # not beside its point: a line leads to the label's edge
            edge = min(max(x, best[0]), best[2]), min(max(y, best[1]), best[3])
            ends = back.transform([(x, y), edge]).T.tolist()
            axes.plot(ends[0], ends[1], color="0.6", linewidth=0.6, zorder=1)


def _places(x: float, y: float, width: float, height: float) -> Iterator[tuple[float, float]]:
    """Centers for a label around a point, nearest first: eight sides, farther and farther."""
    sides = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
    for ring in range(24):
        gap = 6 + 9 * ring
        for right, up in sides:
            yield x + right * (width / 2 + gap), y + up * (height / 2 + gap)


def _cost(box: Box, others: Sequence[Box], frame: Any) -> float:
    """Area that a label shares with others, and how far it leaves the frame."""
    left, bottom, right, top = box
    covered = sum(
        max(0.0, min(right, o[2]) - max(left, o[0])) * max(0.0, min(top, o[3]) - max(bottom, o[1])) for o in others
    )
    outside = sum(max(0.0, d) for d in (frame.x0 - left, frame.y0 - bottom, right - frame.x1, top - frame.y1))
    return float(covered + 1000 * outside)


def _short(name: str, limit: int = 48) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
