"""Horns, wings, spikes and long tails as shapes, set on the anchors of a figure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hybrid.demo.figures import Anchor, Figure, Shape
from hybrid.demo.geometry import Points, polygon, smooth, stroke, turned


def part_shapes(figure: Figure, part: str, size: float) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """Return the shapes of a part: those to paint behind the body, and those in front of it.

    Parameters
    ----------
    figure : Figure
        The body that bears the part.
    part : str
        One of `hybrid.demo.animals.PARTS`.
    size : float
        1 for the usual size.
    """
    if part == "none":
        return (), ()
    shapes = _PARTS[part](figure, size)
    return ((), shapes) if part in ("wings", "horns") else (shapes, ())


def _horns(figure: Figure, size: float) -> tuple[Shape, ...]:
    shapes = []
    for anchor in figure.horns:
        # Horns curve away from straight up, the left and the right one in opposite directions.
        bend = 1 if anchor.angle > figure.horns[-1].angle or anchor.angle > -90 else -1
        horn = stroke([(0, 0), (0.22, -0.02 * bend), (0.42, 0.16 * bend)], [0.19, 0.13, 0.02])
        shapes.append(Shape(_placed(horn, anchor, size), "cream"))
    return tuple(shapes)


def _wings(figure: Figure, size: float) -> tuple[Shape, ...]:
    shapes = []
    for anchor in figure.wings:
        flip = -1 if anchor.angle < 0 else 1
        wing = smooth(
            (0, -0.1),
            (0.3, -0.22),
            (0.8, -0.2),
            (0.95, 0.02),
            (0.78, 0.12),
            (0.62, 0.22),
            (0.4, 0.26),
            (0.1, 0.14),
        )
        quills = [stroke([(0.15, 0.02), (0.45, -0.04), (0.78, y)], [0.05]) for y in (-0.08, 0.04)]
        shapes.append(Shape(_placed(wing * (1, flip), anchor, size), "white"))
        shapes.extend(Shape(_placed(quill * (1, flip), anchor, size), "gray") for quill in quills)
    return tuple(shapes)


def _spikes(figure: Figure, size: float) -> tuple[Shape, ...]:
    spike = polygon((-0.06, -0.11), (0.27, 0), (-0.06, 0.11))
    return tuple(Shape(_placed(spike, anchor, size), "ink") for anchor in figure.spikes)


def _long_tail(figure: Figure, size: float) -> tuple[Shape, ...]:
    knots = [(-0.1, 0), (0.25, 0.1), (0.5, -0.1), (0.72, -0.42), (0.55, -0.68), (0.36, -0.52)]
    tail = stroke(knots, [0.17, 0.15, 0.14, 0.13, 0.12, 0.09])
    # The curl turns upwards on whichever side the tail starts.
    side = -1 if abs(figure.tail.angle) > 90 else 1
    return (Shape(_placed(tail * (1, side), figure.tail, size), "shade"),)


def _placed(points: Points, anchor: Anchor, size: float) -> Points:
    return np.array([anchor.x, anchor.y]) + turned(points * size, anchor.angle)


_PARTS: dict[str, Callable[[Figure, float], tuple[Shape, ...]]] = {
    "horns": _horns,
    "wings": _wings,
    "spikes": _spikes,
    "long tail": _long_tail,
}
