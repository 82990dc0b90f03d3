"""What lies around an animal: the background, the light and the grain of the image."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]

_SKY, _WATER, _GRASS = (176, 206, 226), (140, 178, 186), (158, 180, 126)
_SAND, _DUSK, _STONE = (216, 198, 158), (186, 164, 186), (172, 172, 168)
_GROUNDS = np.array([_SKY, _WATER, _GRASS, _SAND, _DUSK, _STONE], dtype=np.float64)


def background(rng: Generator, size: int) -> Pixels:
    """Paint a background.

    Parameters
    ----------
    rng : numpy.random.Generator
        Where every choice comes from.
    size : int
        Width and height in pixels.

    Returns
    -------
    ndarray of shape (size, size, 3)
        Float32 colors between 0 and 255.
    """
    first, second, third = (_muted(rng) for _ in range(3))
    y, x = _grid(size)
    turn = rng.uniform(0, 2 * np.pi)
    slope = np.clip(0.5 + 0.5 * (np.cos(turn) * x + np.sin(turn) * y), 0, 1)[..., None]
    scene = first + slope * (second - first)
    kind = rng.integers(4)
    if kind == 1:
        scene = scene + 0.8 * _clouds(rng, size, 6) * (third - scene)
    elif kind == 2:
        for depth, color in ((0.0, third), (0.45, third * 0.75)):
            crest = depth + 0.14 * np.sin(x * rng.uniform(2, 5) + rng.uniform(0, 6))
            scene = scene + np.clip((y - crest) * size / 3, 0, 1)[..., None] * (color - scene)
    elif kind == 3:
        for _ in range(int(rng.integers(3, 7))):
            cx, cy, radius = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.1, 0.35)
            blob = np.clip((radius - np.hypot(x - cx, y - cy)) * size / 6, 0, 1)[..., None]
            scene = scene + 0.7 * blob * (_muted(rng) - scene)
    texture = 14 * (_clouds(rng, size, int(rng.integers(8, 24))) - 0.5)
    painted: Pixels = np.clip(scene + texture, 0, 255).astype(np.float32)
    return painted


def photographed(pixels: Pixels, rng: Generator) -> Pixels:
    """Add what a camera adds: uneven light, its tint, exposure and grain.

    Parameters
    ----------
    pixels : ndarray of shape (size, size, 3)
        Colors between 0 and 255.
    rng : numpy.random.Generator
        Where every choice comes from.
    """
    y, x = _grid(len(pixels))
    turn = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0.82, 1.12) + rng.uniform(0, 0.22) * (np.cos(turn) * x + np.sin(turn) * y)
    tint = rng.uniform(0.93, 1.07, 3)
    grain = rng.normal(0, rng.uniform(3, 11), pixels.shape)
    lit: Pixels = np.clip(pixels * light[..., None] * tint + grain, 0, 255).astype(np.float32)
    return lit


def _grid(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    return axis[:, None], axis[None, :]


def _muted(rng: Generator) -> NDArray[np.float64]:
    """Draw the color of a ground: grayer than any coat, which stands out."""
    ground = _GROUNDS[rng.integers(len(_GROUNDS))] * rng.uniform(0.7, 1.12)
    jittered: NDArray[np.float64] = np.clip(ground + rng.uniform(-14, 14, 3), 0, 255)
    return jittered


def _clouds(rng: Generator, size: int, cells: int) -> NDArray[np.float64]:
    """Make soft noise between 0 and 1 with about `cells` lumps across."""
    lumps = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    cloud = np.asarray(lumps.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    return cloud[..., None] / 255
