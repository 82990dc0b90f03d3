"""A model's preprocessing by numpy: the pixels that torch gives on a CPU (`hybrid.images.preprocess`), without torch.

torch resizes 8-bit images by weights of 16 bits and rounds after each direction. The same sums in floating point are
exact, as products of matrices: a row of the result needs few pixels, so that they are computed in blocks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid.images.decode import Pixels, Scaled
from hybrid.images.steps import Steps

# Half the width of each filter, in pixels of the result.
RADIUS = {"bilinear": 1.0, "bicubic": 2.0}
# Rows of the result that one product computes, and rows of an image that are held in double precision at once.
BLOCK, STRIP = 32, 64


class Along(NamedTuple):
    """How an image is resized in one direction.

    Attributes
    ----------
    first, last : int
        Its pixels that the result needs.
    blocks : tuple of (slice, slice, (rows, pixels) float64)
        Rows of the result, the pixels after `first` that these need, and their weights.
    """

    first: int
    last: int
    blocks: tuple[tuple[slice, slice, NDArray[np.float64]], ...]


def fit(image: Scaled, steps: Steps) -> Pixels:
    """Resize and crop an image to (height, width, 3) uint8; normalization is the network's own first step."""
    image = steps.middle_of(image)
    rgb, size = np.asarray(image.rgb), steps.size_of(*image.extent)
    start, crop = steps.start_of(size), steps.crop
    if image.extent == size:
        return np.ascontiguousarray(rgb[start[0] : start[0] + crop[0], start[1] : start[1] + crop[1]])
    shape = rgb.shape[0], rgb.shape[1]
    extents = (None, None) if image.extent == shape else image.extent
    down, across = (
        _along(pixels, extent, *kept, steps.interpolation)
        for pixels, extent, *kept in zip(shape, extents, size, start, crop, strict=True)
    )
    rows = np.empty((3, down.last - down.first, crop[1]))
    for top in range(0, rows.shape[1], STRIP):
        strip = rgb[down.first : down.last][top : top + STRIP, across.first : across.last]
        planes = strip.transpose(2, 0, 1).astype(np.float64, order="C")
        for place, pixels, weights in across.blocks:
            rows[:, top : top + STRIP, place] = planes[..., pixels] @ weights.T
    _round(rows)
    fitted = np.empty((3, *crop))
    for place, pixels, weights in down.blocks:
        fitted[:, place] = weights @ rows[:, pixels]
    _round(fitted)
    return np.ascontiguousarray(fitted.astype(np.uint8).transpose(1, 2, 0))


def _round(levels: NDArray[np.float64]) -> None:
    levels += 0.5
    np.floor(levels, out=levels)
    np.clip(levels, 0, 255, out=levels)


@lru_cache(64)
def _along(pixels: int, extent: float | None, size: int, start: int, crop: int, interpolation: str) -> Along:
    """Compute the weights of one direction, for the part of the result that is kept."""
    places, weights = (kept[start : start + crop] for kept in _weights(pixels, extent, size, interpolation))
    first, last = int(places[0]), min(int(places[-1]) + weights.shape[1], pixels)
    blocks = []
    for at in range(0, crop, BLOCK):
        rows = slice(at, min(at + BLOCK, crop))
        own = places[rows, None] - places[at] + np.arange(weights.shape[1])
        dense = np.zeros((len(own), int(own.max()) + 1))
        np.put_along_axis(dense, own, weights[rows], 1)
        # Weights beyond the image's end are 0.
        dense = dense[:, : last - int(places[at])]
        begin = int(places[at]) - first
        blocks.append((rows, slice(begin, begin + dense.shape[1]), dense))
    return Along(first, last, tuple(blocks))


def _weights(
    pixels: int, extent: float | None, size: int, interpolation: str
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Compute the first pixel and the weights of each row of the result, as torch does: rounded to 16 bits."""
    scale, count = pixels / size, size
    if extent is not None:  # by a factor, as `hybrid.images.preprocess` asks torch for it
        factor = (size / extent) * (1 + 1e-9)
        scale, count = 1 / factor, int(pixels * factor)
    if count == pixels:
        return np.arange(count), np.ones((count, 1))
    radius = RADIUS[interpolation] * max(scale, 1)
    centers = scale * (np.arange(count) + 0.5)
    first = np.maximum((centers - radius + 0.5).astype(np.intp), 0)
    length = np.minimum((centers + radius + 0.5).astype(np.intp), pixels) - first
    taps = np.arange(length.max())
    distance = (taps + first[:, None] - centers[:, None] + 0.5) / max(scale, 1)
    weights = np.where(taps < length[:, None], _filter(np.abs(distance), interpolation), 0)
    weights /= weights.sum(1, keepdims=True)
    bits = next((bits for bits in range(22) if int(0.5 + weights.max() * 2 ** (bits + 1)) >= 2**15), 22)
    return first, np.trunc(weights * 2**bits + np.copysign(0.5, weights)) / 2**bits


def _filter(x: NDArray[np.float64], interpolation: str) -> NDArray[np.float64]:
    """Weight at a distance from the middle (Keys 1981, a = -0.5)."""
    if interpolation == "bilinear":
        return np.clip(1 - x, 0, None)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))
