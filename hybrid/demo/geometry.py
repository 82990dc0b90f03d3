"""Outlines as arrays of points: the few curves that all drawings are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0, arc: tuple[float, float] = (0, 360)) -> Points:
    """Outline an ellipse, or the part of it between two angles.

    Parameters
    ----------
    x, y, rx, ry : float
        Center and half axes.
    tilt : float
        Rotation in degrees; y points down, so that positive turns clockwise.
    arc : tuple of float
        First and last angle in degrees.
    """
    angle = np.radians(np.linspace(*arc, 33))
    return np.array([x, y]) + turned(np.stack([rx * np.cos(angle), ry * np.sin(angle)], axis=1), tilt)


def turned(points: Points, degrees: float) -> Points:
    """Rotate points about the origin; y points down, so that positive turns clockwise."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotated: Points = points @ np.array([[cos, sin], [-sin, cos]])
    return rotated


def smooth(*knots: tuple[float, float]) -> Points:
    """Run a closed Catmull-Rom curve through the knots."""
    points = np.array(knots, dtype=np.float64)
    return _catmull(np.concatenate([points[-1:], points, points[:2]]))


def stroke(knots: Sequence[tuple[float, float]], widths: Sequence[float]) -> Points:
    """Outline a bent tube: a Catmull-Rom curve through the knots, as wide as `widths` say along it."""
    points = np.array(knots, dtype=np.float64)
    line = _catmull(np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]]))
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    half = np.interp(np.linspace(0, 1, len(line)), np.linspace(0, 1, len(widths)), widths)[:, None] / 2
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    return np.concatenate([line + half * normal, (line - half * normal)[::-1]])


def polygon(*corners: tuple[float, float]) -> Points:
    """Turn corners into an array."""
    return np.array(corners, dtype=np.float64)


def _catmull(points: Points) -> Points:
    """Interpolate between all but the first and the last point, eight steps a piece."""
    t = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    a, b, c, d = points[:-3, None], points[1:-2, None], points[2:-1, None], points[3:, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.concatenate([curve.reshape(-1, 2), points[-2:-1]])
