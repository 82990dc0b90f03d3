"""A comparison's pictures: parameters against accuracy, and a confusion matrix, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid.evaluation.confusion import Counts, cut, lay_out
from hybrid.plotting import save_png
from hybrid.tools.compare.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG, MARK = "#2166ac", "#b2182b", "#2166ac"
MOST_NAMES = 16  # more names make a thicket: points are then numbered, and named beside the plot
TITLE_LENGTH = 48
DPI = 110
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def draw_scatter(results: Sequence[Result], file: Path) -> None:
    """Plot accuracy against the number of trained parameters (log axis), each recipe named."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    many = len(results) > MOST_NAMES
    names = [cut(result.name, 100 if many else TITLE_LENGTH) for result in results]
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
        Of more than `hybrid.evaluation.confusion.MAX_CLASSES` those with the most mistakes are shown.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    heat = lay_out(confusion, names, len(names))
    top, side = 64, max(heat.size, 320) + 12  # room for the title, pixels
    points = 72 / DPI  # one pixel
    figure = Figure(figsize=(side / DPI, (side + top) / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, side), ylim=(side, -top))
    axes.set_axis_off()
    # All at once: there may be ten thousand.
    corners = heat.cell * np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    colors = [to_rgba(RIGHT if cell.right else WRONG, cell.share) for cell in heat.cells]
    squares = [np.add(corners, (cell.x, cell.y)) for cell in heat.cells]
    axes.add_collection(PolyCollection(squares, facecolors=colors, linewidths=0), autolim=False)
    for cell in heat.cells if heat.cell >= 22 else ():
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
    axes.text(8, -top + 10, cut(title, TITLE_LENGTH), va="top", fontsize=10, parse_math=False, weight="bold")
    axes.text(8, -top + 36, under, va="top", fontsize=8, color="0.3")
    save_png(figure, file, DPI)


def _label(axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], renderer: Any) -> None:
    """Write each text near its point: on no other text, no point, and inside the frame."""
    extent = axes.get_window_extent(renderer)
    frame = np.array([extent.x0, extent.y0, extent.x1, extent.y1])
    pixels = axes.transData.transform(points)
    taken = np.concatenate([pixels - 5, pixels + 5], axis=1)
    back = axes.transData.inverted()
    for (x, y), text in zip(pixels, texts, strict=True):
        artist = axes.text(0, 0, text, fontsize=8, va="center", ha="center", parse_math=False, zorder=4)
        size = artist.get_window_extent(renderer)
        half = np.array([size.width + 3, size.height + 2]) / 2
        # Places for the center of the label, nearest first: eight sides, farther and farther.
        centers = np.concatenate([(x, y) + np.array(SIDES) * (half + gap) for gap in 6 + 9 * np.arange(24)])
        boxes = np.concatenate([centers - half, centers + half], axis=1)
        # The first free place is the nearest one; in a crowd that leaves none, the least covered.
        best = int(np.argmin(_costs(boxes, taken, frame)))
        left, bottom, right, top = boxes[best]
        taken = np.vstack([taken, boxes[best]])
        center = back.transform(centers[best]).tolist()
        artist.set_position((center[0], center[1]))
        if best >= len(SIDES):  # not beside its point: a line leads to the label's edge
            edge = min(max(x, left), right), min(max(y, bottom), top)
            ends = back.transform([(x, y), edge]).T.tolist()
            axes.plot(ends[0], ends[1], color="0.6", linewidth=0.6, zorder=1)


def _costs(boxes: NDArray[np.float64], others: NDArray[np.float64], frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each of n boxes (left, bottom, right, top) the area shared with others, and how far it leaves the frame."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    covered = np.maximum(high - low, 0).prod(axis=2).sum(axis=1)
    outside = np.maximum(frame[:2] - boxes[:, :2], 0) + np.maximum(boxes[:, 2:] - frame[2:], 0)
    return np.asarray(covered + 1000 * outside.sum(axis=1))
