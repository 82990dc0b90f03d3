"""The ten body kinds and what may grow on them as outlines: about two units long, facing right, y pointing down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from hybrid.demo.geometry import Points, ellipse, polygon, smooth, stroke, turned


@dataclass(frozen=True, slots=True)
class Shape:
    """One area of one tone.

    Attributes
    ----------
    points : ndarray of shape (n, 2)
        Its outline.
    tone : str
        ``"shade"`` or ``"tint"``, the coat's color made darker or lighter, or one of the fixed tones:
        ``"cream"``, ``"ink"``, ``"white"``, ``"gray"``, ``"red"``, ``"rose"``.
    """

    points: Points
    tone: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a part is attached, and the direction in degrees in which it grows (-90 is up)."""

    x: float
    y: float
    angle: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A body kind.

    Attributes
    ----------
    behind, front : tuple of Shape
        What is painted before and after the coat.
    coat : tuple of ndarray
        The areas that bear the animal's color and pattern.
    horns, wings, spikes : tuple of Anchor
        One anchor for each horn, wing and spike.
    tail : Anchor
        Where a long tail starts.
    """

    behind: tuple[Shape, ...]
    coat: tuple[Points, ...]
    front: tuple[Shape, ...]
    horns: tuple[Anchor, ...]
    wings: tuple[Anchor, ...]
    spikes: tuple[Anchor, ...]
    tail: Anchor


@cache
def figure(kind: str) -> Figure:
    """Return the outlines of a body kind, one of `hybrid.demo.animals.KINDS`."""
    return _FIGURES[kind]()


def _eye(x: float, y: float, radius: float = 0.09) -> tuple[Shape, Shape]:
    pupil = ellipse(x + radius * 0.25, y, radius * 0.6, radius * 0.6)
    return Shape(ellipse(x, y, radius, radius), "white"), Shape(pupil, "ink")


def _rim(x: float, y: float, rx: float, ry: float, first: float, last: float, count: int) -> tuple[Anchor, ...]:
    """Set anchors on an ellipse between two angles, each pointing outwards."""
    angles = np.linspace(first, last, count)
    turns = np.radians(angles)
    return tuple(
        Anchor(x + rx * float(np.cos(turn)), y + ry * float(np.sin(turn)), float(angle))
        for angle, turn in zip(angles, turns, strict=True)
    )


def _fish() -> Figure:
    return Figure(
        behind=(
            Shape(smooth((-0.3, -0.3), (-0.1, -0.62), (0.25, -0.55), (0.3, -0.3)), "shade"),
            Shape(polygon((-0.1, 0.3), (-0.25, 0.62), (0.15, 0.38)), "shade"),
            Shape(smooth((-0.5, 0), (-0.95, -0.45), (-0.82, 0), (-0.95, 0.45)), "shade"),
        ),
        coat=(smooth((0.9, 0.02), (0.5, -0.36), (0, -0.44), (-0.6, -0.1), (-0.6, 0.1), (0, 0.44), (0.5, 0.36)),),
        front=(
            *_eye(0.58, -0.1, 0.1),
            Shape(stroke([(0.36, -0.26), (0.28, 0.0), (0.36, 0.26)], [0.05]), "shade"),
            Shape(stroke([(0.87, 0.1), (0.76, 0.13), (0.68, 0.1)], [0.05]), "ink"),
        ),
        horns=(Anchor(0.5, -0.33, -65), Anchor(0.28, -0.4, -85)),
        wings=(Anchor(0.05, -0.2, -115),),
        spikes=(*_rim(0.05, 0, 0.62, 0.42, -145, -40, 7), *_rim(0.05, 0, 0.62, 0.42, 55, 130, 4)),
        tail=Anchor(-0.78, 0, 180),
    )


def _bird() -> Figure:
    legs = tuple(Shape(stroke([(x, 0.35), (x + 0.02, 0.75), (x + 0.16, 0.76)], [0.07]), "ink") for x in (-0.12, 0.12))
    return Figure(
        behind=(*legs, Shape(polygon((-0.45, -0.05), (-0.98, 0.02), (-0.95, 0.3), (-0.4, 0.25)), "shade")),
        coat=(
            smooth((-0.6, 0.05), (-0.2, -0.3), (0.25, -0.32), (0.45, -0.05), (0.3, 0.35), (-0.1, 0.46)),
            ellipse(0.45, -0.42, 0.3, 0.28),
        ),
        front=(
            Shape(polygon((0.7, -0.53), (1.05, -0.38), (0.7, -0.3)), "cream"),
            *_eye(0.53, -0.48, 0.09),
            Shape(stroke([(0.15, -0.1), (-0.1, 0.2), (-0.45, 0.2)], [0.05, 0.06, 0.03]), "shade"),
        ),
        horns=(Anchor(0.52, -0.68, -70), Anchor(0.32, -0.66, -105)),
        wings=(Anchor(-0.1, -0.2, -115),),
        spikes=(*_rim(-0.05, 0.1, 0.5, 0.44, -165, -75, 6), *_rim(0.45, -0.42, 0.3, 0.28, -150, -120, 2)),
        tail=Anchor(-0.85, 0.15, 180),
    )


def _snake() -> Figure:
    knots = [(-0.95, 0.2), (-0.68, -0.22), (-0.35, 0.12), (-0.02, 0.42), (0.25, 0.05), (0.5, -0.3), (0.78, -0.24)]
    tongue = [stroke([(0.95, -0.2), (1.1, -0.18), (1.2, y)], [0.05, 0.05, 0.02]) for y in (-0.26, -0.1)]
    back = ((-0.82, -0.2, -120), (-0.6, -0.32, -80), (-0.38, -0.08, -50), (-0.2, 0.12, -65))
    neck = ((-0.02, 0.24, -90), (0.12, 0.0, -140), (0.24, -0.22, -130), (0.42, -0.42, -110))
    return Figure(
        behind=tuple(Shape(fork, "red") for fork in tongue),
        coat=(stroke(knots, [0.05, 0.26, 0.34, 0.34, 0.34, 0.3, 0.26]), ellipse(0.8, -0.22, 0.23, 0.18, 10)),
        front=_eye(0.85, -0.28, 0.08),
        horns=(Anchor(0.8, -0.38, -70), Anchor(0.66, -0.38, -100)),
        wings=(Anchor(0.1, 0.15, -110),),
        spikes=tuple(Anchor(*place) for place in back + neck),
        tail=Anchor(-0.95, 0.2, 150),
    )


def _turtle() -> Figure:
    legs = [Shape(ellipse(x, 0.42, 0.15, 0.22, tilt), "tint") for x, tilt in ((-0.42, 15), (0.4, -15))]
    return Figure(
        behind=(
            *legs,
            Shape(polygon((-0.6, 0.15), (-0.92, 0.4), (-0.5, 0.32)), "tint"),
            Shape(stroke([(0.4, 0.25), (0.7, 0.15), (0.85, -0.05)], [0.3, 0.24, 0.22]), "tint"),
            Shape(ellipse(0.86, -0.1, 0.22, 0.19), "tint"),
        ),
        coat=(smooth((-0.7, 0.3), (-0.62, -0.1), (-0.3, -0.45), (0.1, -0.48), (0.48, -0.2), (0.65, 0.3), (0, 0.36)),),
        front=(Shape(stroke([(-0.74, 0.3), (0, 0.38), (0.7, 0.3)], [0.1]), "shade"), *_eye(0.92, -0.15, 0.08)),
        horns=(Anchor(0.92, -0.27, -65), Anchor(0.76, -0.25, -100)),
        wings=(Anchor(-0.1, -0.2, -115),),
        spikes=_rim(-0.02, 0.1, 0.64, 0.56, -172, -15, 9),
        tail=Anchor(-0.75, 0.28, 170),
    )


def _spider() -> Figure:
    legs = []
    for side in (-1, 1):
        for root, knee, foot in ((0.3, 0.55, 0.9), (0.22, 0.25, 0.4), (0.1, -0.1, -0.25), (0.0, -0.4, -0.8)):
            knots = [(root, side * 0.1), (knee, side * 0.62), (foot, side * 0.95)]
            legs.append(Shape(stroke(knots, [0.11, 0.1, 0.04]), "ink"))
    return Figure(
        behind=tuple(legs),
        coat=(ellipse(-0.32, 0, 0.5, 0.44), ellipse(0.33, 0, 0.27, 0.25)),
        front=tuple(shape for y in (-0.1, 0.1) for shape in _eye(0.46, y, 0.08)),
        horns=(Anchor(0.5, -0.17, -25), Anchor(0.5, 0.17, 25)),
        wings=(Anchor(0.0, -0.2, -125), Anchor(0.0, 0.2, 125)),
        spikes=_rim(-0.32, 0, 0.48, 0.42, 65, 295, 9),
        tail=Anchor(-0.8, 0, 180),
    )


def _rabbit() -> Figure:
    return Figure(
        behind=(
            Shape(ellipse(-0.62, 0.35, 0.18, 0.17), "white"),
            Shape(ellipse(0.2, 0.72, 0.28, 0.1), "shade"),
            Shape(ellipse(-0.3, 0.72, 0.34, 0.11), "shade"),
        ),
        coat=(
            ellipse(0.28, -0.78, 0.11, 0.36, -14),
            ellipse(0.52, -0.76, 0.11, 0.36, 10),
            smooth((-0.62, 0.4), (-0.42, 0), (0.05, -0.18), (0.35, 0.1), (0.36, 0.6), (-0.1, 0.72), (-0.5, 0.68)),
            ellipse(0.42, -0.25, 0.32, 0.28, 8),
        ),
        front=(
            Shape(ellipse(0.28, -0.76, 0.05, 0.26, -14), "rose"),
            Shape(ellipse(0.52, -0.74, 0.05, 0.26, 10), "rose"),
            *_eye(0.5, -0.3, 0.085),
            Shape(ellipse(0.71, -0.18, 0.06, 0.05), "ink"),
        ),
        horns=(Anchor(0.68, -0.46, -45), Anchor(0.12, -0.4, -140)),
        wings=(Anchor(-0.15, 0.1, -130),),
        spikes=_rim(-0.12, 0.42, 0.52, 0.56, -190, -80, 7),
        tail=Anchor(-0.6, 0.45, 180),
    )


def _crab() -> Figure:
    legs = []
    claws = []
    for side in (-1, 1):
        for x, reach, drop in ((0.5, 0.95, 0.15), (0.42, 0.88, 0.45), (0.3, 0.7, 0.72)):
            knots = [(side * x, 0.15), (side * reach, drop - 0.12), (side * (reach + 0.04), drop + 0.15)]
            legs.append(Shape(stroke(knots, [0.12, 0.1, 0.04]), "shade"))
        legs.append(Shape(stroke([(side * 0.45, 0), (side * 0.8, -0.1), (side * 0.75, -0.4)], [0.16]), "shade"))
        legs.append(Shape(stroke([(side * 0.15, -0.2), (side * 0.18, -0.5)], [0.07]), "shade"))
        claws.append(ellipse(side * 0.72, -0.6, 0.25, 0.2, side * -60, (30, 330)))
        claws[-1] = np.concatenate([claws[-1], [[side * 0.74, -0.55]]])
    return Figure(
        behind=tuple(legs),
        coat=(*claws, ellipse(0, 0.12, 0.64, 0.4)),
        front=tuple(shape for x in (-0.18, 0.18) for shape in _eye(x, -0.5, 0.1)),
        horns=(Anchor(0.34, -0.2, -70), Anchor(-0.34, -0.2, -110)),
        wings=(Anchor(0.3, 0.0, -55), Anchor(-0.3, 0.0, -125)),
        spikes=(*_rim(0, 0.12, 0.62, 0.38, 25, 155, 7), *_rim(0, 0.12, 0.62, 0.38, -130, -50, 5)),
        tail=Anchor(0, 0.5, 90),
    )


def _butterfly() -> Figure:
    edge = ((0.72, 0.84, 45), (0.45, 0.7, 110), (-0.2, 0.68, 75), (-0.5, 0.72, 110), (-0.72, 0.45, 160))
    wings = []
    for side in (-1, 1):
        wings.append(smooth((0, side * 0.05), (0.25, side * 0.45), (0.75, side * 0.9), (0.75, side * 0.35)))
        wings.append(smooth((-0.05, side * 0.05), (-0.25, side * 0.7), (-0.72, side * 0.6), (-0.6, side * 0.15)))
    feelers = tuple(
        Shape(stroke([(0.45, side * 0.03), (0.75, side * 0.1), (0.95, side * 0.24)], [0.05]), "ink") for side in (-1, 1)
    )
    return Figure(
        behind=feelers,
        coat=tuple(wings),
        front=(Shape(ellipse(0.0, 0, 0.52, 0.09), "ink"), Shape(ellipse(0.5, 0, 0.12, 0.11), "ink")),
        horns=(Anchor(0.56, -0.1, -30), Anchor(0.56, 0.1, 30)),
        wings=(Anchor(0.0, -0.2, -125), Anchor(0.0, 0.2, 125)),
        spikes=tuple(Anchor(x, side * y, side * angle) for side in (-1, 1) for x, y, angle in edge),
        tail=Anchor(-0.5, 0, 180),
    )


def _snail() -> Figure:
    spiral = [(0.02, 0.0), (-0.12, -0.14), (-0.3, 0.0), (-0.15, 0.22), (0.14, 0.16), (0.22, -0.1), (0.05, -0.34)]
    foot = smooth((-0.98, 0.66), (-0.4, 0.4), (0.4, 0.4), (0.62, 0.05), (0.92, 0.1), (0.85, 0.55), (0.5, 0.7))
    stalks = tuple(Shape(stroke([(0.72, 0.1), (x, -0.38)], [0.07, 0.05]), "tint") for x in (0.62, 0.9))
    return Figure(
        behind=(*stalks, Shape(foot, "tint")),
        coat=(ellipse(-0.1, -0.04, 0.56, 0.53),),
        front=(Shape(stroke(spiral, [0.05]), "shade"), *_eye(0.62, -0.4), *_eye(0.9, -0.4)),
        horns=(Anchor(0.52, 0.12, -120), Anchor(0.92, 0.1, -35)),
        wings=(Anchor(-0.15, -0.1, -115),),
        spikes=_rim(-0.1, -0.04, 0.54, 0.51, -190, -10, 9),
        tail=Anchor(-0.9, 0.62, 180),
    )


def _horse() -> Figure:
    mane = smooth((0.2, -0.25), (0.22, -0.6), (0.42, -0.92), (0.52, -0.82), (0.4, -0.4))
    hooves = tuple(Shape(ellipse(x, 0.86, 0.1, 0.07), "ink") for x in (-0.5, -0.3, 0.2, 0.4))
    legs = [stroke([(x, 0.1), (x, 0.85)], [0.22, 0.12]) for x in (-0.5, -0.3, 0.2, 0.4)]
    return Figure(
        behind=(
            Shape(mane, "ink"),
            Shape(stroke([(-0.6, -0.1), (-0.78, 0.1), (-0.78, 0.42)], [0.12, 0.16, 0.05]), "ink"),
        ),
        coat=(
            *legs,
            smooth((-0.65, 0), (-0.4, -0.22), (0.1, -0.2), (0.5, -0.1), (0.48, 0.25), (0, 0.28), (-0.5, 0.3)),
            stroke([(0.3, 0.05), (0.48, -0.4), (0.58, -0.72)], [0.45, 0.3, 0.24]),
            smooth((0.48, -0.85), (0.66, -0.88), (1.0, -0.6), (0.95, -0.45), (0.78, -0.48), (0.52, -0.6)),
            polygon((0.48, -0.8), (0.5, -1.02), (0.62, -0.84)),
        ),
        front=(*hooves, *_eye(0.68, -0.71, 0.065)),
        horns=(Anchor(0.72, -0.85, -50), Anchor(0.6, -0.9, -85)),
        wings=(Anchor(-0.05, -0.1, -120),),
        spikes=_rim(-0.12, 0.1, 0.56, 0.32, -170, -40, 8),
        tail=Anchor(-0.62, -0.05, 180),
    )


_BODIES = (_fish, _bird, _snake, _turtle, _spider, _rabbit, _crab, _butterfly, _snail, _horse)
_FIGURES = {body.__name__.removeprefix("_"): body for body in _BODIES}


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
    match part:
        case "horns":
            return (), _horns(figure, size)
        case "wings":
            return (), _wings(figure, size)
        case "spikes":
            spike = polygon((-0.06, -0.11), (0.27, 0), (-0.06, 0.11))
            return tuple(Shape(_placed(spike, anchor, size), "ink") for anchor in figure.spikes), ()
        case "long tail":
            return (_long_tail(figure.tail, size),), ()
    return (), ()


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
        upper = ((0, -0.1), (0.3, -0.22), (0.8, -0.2), (0.95, 0.02))
        wing = smooth(*upper, (0.78, 0.12), (0.62, 0.22), (0.4, 0.26), (0.1, 0.14))
        quills = [stroke([(0.15, 0.02), (0.45, -0.04), (0.78, y)], [0.05]) for y in (-0.08, 0.04)]
        shapes.append(Shape(_placed(wing * (1, flip), anchor, size), "white"))
        shapes.extend(Shape(_placed(quill * (1, flip), anchor, size), "gray") for quill in quills)
    return tuple(shapes)


def _long_tail(anchor: Anchor, size: float) -> Shape:
    knots = [(-0.1, 0), (0.25, 0.1), (0.5, -0.1), (0.72, -0.42), (0.55, -0.68), (0.36, -0.52)]
    tail = stroke(knots, [0.17, 0.15, 0.14, 0.13, 0.12, 0.09])
    # The curl turns upwards on whichever side the tail starts.
    side = -1 if abs(anchor.angle) > 90 else 1
    return Shape(_placed(tail * (1, side), anchor, size), "shade")


def _placed(points: Points, anchor: Anchor, size: float) -> Points:
    return np.array([anchor.x, anchor.y]) + turned(points * size, anchor.angle)
