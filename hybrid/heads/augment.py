"""A recipe's augmentation on whole batches, where the network computes: every image by draws of its own.

torchvision's transforms draw one set of numbers for a batch, and applied image by image they would keep a GPU waiting:
here the draws are made for all images at once, and each step is a few operations on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from hybrid.device import to_device

Floats = NDArray[np.float64]
# Crops and patches that are drawn until one fits into the image, as timm does it.
TRIES = 10
# Every order in which brightness (0), contrast (1) and saturation (2) may be changed.
_ORDERS = np.array(list(permutations(range(3))))
# What gray is made of, as Pillow and torchvision have it.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Erasing:
    """Patches of noise: probability, shares of the area, and the logs of the shapes (height by width)."""

    probability: float
    area: tuple[float, float]
    log_shape: tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for a training image.

    Attributes
    ----------
    size : int
        Height and width of the result.
    scale, ratio : (float, float)
        Share of the area that a crop keeps, and its width by its height.
    flip : float
        Probability of a mirror image.
    degrees : (float, float)
        Of the rotation; what it uncovers is `fill`, in gray levels.
    jitter : tuple of 3 of (float, float)
        Factors of brightness, contrast and saturation, in an order that is drawn too.
    mean, std : tuple of float
        Of each channel, white being 1.
    erasing : Erasing or None
    """

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    degrees: tuple[float, float]
    fill: tuple[float, ...]
    jitter: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    erasing: Erasing | None

    @property
    def jitters(self) -> bool:
        """Whether colors change."""
        return any(span != (1.0, 1.0) for span in self.jitter)


def read_augmentation(transform: Any) -> Augmentation | None:
    """Read what a transform for training does; None if it does anything else than `Augmentation` can say."""
    found: dict[str, Any] = {"flip": 0.0, "degrees": (0.0, 0.0), "fill": (), "jitter": ((1.0, 1.0),) * 3}
    order = []
    for step in _steps(transform):
        read = _read(step)
        if read is None:
            return None
        order.append(read[0])
        found |= read[1]
    wanted = ["crop", "flip", "rotation", "jitter", "tensor", "normalize", "erasing"]
    if order != [name for name in wanted if name in order] or not {"crop", "tensor", "normalize"} <= {*order}:
        return None
    return Augmentation(**{"erasing": None} | found)


def _steps(transform: Any) -> list[Any]:
    parts = getattr(transform, "transforms", None)
    return [transform] if parts is None else [step for part in parts for step in _steps(part)]


def _read(step: Any) -> tuple[str, dict[str, Any]] | None:
    """Name a step and its part of an `Augmentation`."""
    from timm.data.random_erasing import RandomErasing
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision import transforms as tv

    if type(step) is RandomResizedCropAndInterpolation:
        plain = step.interpolation == tv.InterpolationMode.BILINEAR and step.size[0] == step.size[1]
        crop = {"size": step.size[0], "scale": tuple(step.scale), "ratio": tuple(step.ratio)}
        return ("crop", crop) if plain else None
    if type(step) is tv.RandomHorizontalFlip:
        return "flip", {"flip": float(step.p)}
    if type(step) is tv.RandomRotation:
        plain = step.interpolation == tv.InterpolationMode.BILINEAR and not step.expand and step.center is None
        turn = {"degrees": tuple(map(float, step.degrees)), "fill": tuple(map(float, step.fill))}
        return ("rotation", turn) if plain and len(step.fill) == 3 else None
    if type(step) is tv.ColorJitter:
        spans = (step.brightness, step.contrast, step.saturation)
        return None if step.hue else ("jitter", {"jitter": tuple(tuple(span or (1.0, 1.0)) for span in spans)})
    if type(step) is tv.Normalize:
        return "normalize", {"mean": tuple(map(float, step.mean)), "std": tuple(map(float, step.std))}
    if type(step) is RandomErasing:
        patch = Erasing(step.probability, (step.min_area, step.max_area), tuple(step.log_aspect_ratio))
        return ("erasing", {"erasing": patch}) if step.per_pixel and step.min_count == step.max_count == 1 else None
    return ("tensor", {}) if type(step).__name__ in ("ToTensor", "MaybeToTensor") else None


@dataclass(frozen=True)
class Draws:
    """What was drawn for n images.

    Attributes
    ----------
    crop : (n, 4) float64
        Top, left, height and width in pixels of each image.
    flip : (n,) bool
    angle : (n,) float64
        Degrees, counterclockwise.
    factors : (n, 3) float64
        Of brightness, contrast and saturation.
    order : (n, 3) int
        Which of these comes first, second and third.
    patch : (n, 4) float64
        Top, left, height and width of what is erased of the result; all 0 for nothing.
    """

    crop: Floats
    flip: NDArray[np.bool_]
    angle: Floats
    factors: Floats
    order: NDArray[np.intp]
    patch: Floats


def uniforms(seeds: Sequence[int], count: int) -> Floats:
    """Draw (n, count) numbers from 0 to 1, each row by its own seed."""
    bits = np.random.Philox(0)
    generator, state = np.random.Generator(bits), bits.state
    drawn = np.empty((len(seeds), count))
    for row, seed in zip(drawn, seeds, strict=True):
        state["state"]["key"][0] = seed  # four times as fast as a generator of each image's own
        bits.state = state
        generator.random(out=row)
    return drawn


def draw(augmentation: Augmentation, seeds: Sequence[int], extents: Floats) -> Draws:
    """Draw for images of these heights and widths, (n, 2), with the distributions of timm and torchvision."""
    drawn = uniforms(seeds, 2 * (2 * TRIES + 2) + 7)
    crop, patch, (flip, angle, *jitter) = *np.split(drawn[:, :-7], 2, axis=1), drawn[:, -7:-1].T
    factors = [low + u * (high - low) for (low, high), u in zip(augmentation.jitter, jitter[:3], strict=True)]
    low, high = augmentation.degrees
    return Draws(
        _crops(augmentation, crop, extents),
        flip < augmentation.flip,
        low + angle * (high - low),
        np.stack(factors, axis=1),
        _ORDERS[(jitter[3] * len(_ORDERS)).astype(np.intp)],
        _patches(augmentation, patch, drawn[:, -1]),
    )


def _crops(augmentation: Augmentation, drawn: Floats, extents: Floats) -> Floats:
    """RandomResizedCrop's boxes: the first of `TRIES` that fits, or the middle of the image."""
    height, width = extents.T
    low, high = map(math.log, augmentation.ratio)
    area = (augmentation.scale[0] + drawn[:, :TRIES] * (augmentation.scale[1] - augmentation.scale[0])).T
    found = _first_fitting(area * height * width, np.exp(low - drawn[:, TRIES:-2].T * (low - high)), extents)
    shape = width / height
    narrow, wide = augmentation.ratio
    middle_height = np.where(shape < narrow, np.rint(width / narrow), height)
    middle_width = np.where(shape > wide, np.rint(height * wide), width)
    box = np.where(np.isnan(found), [middle_height, middle_width], found)
    free = extents.T - box
    places = np.floor(drawn[:, -2:].T * (free + 1))
    return np.concatenate([np.where(np.isnan(found), free // 2, places), box]).T


def _patches(augmentation: Augmentation, drawn: Floats, chance: Floats) -> Floats:
    """Boxes of timm's random erasing; one that does not fit in `TRIES` is left out."""
    erasing = augmentation.erasing
    if erasing is None:
        return np.zeros((len(drawn), 4))
    size = np.full((len(drawn), 2), float(augmentation.size))
    (low, high), (flat, tall) = erasing.area, erasing.log_shape
    area = (low + drawn[:, :TRIES] * (high - low)).T * augmentation.size**2
    box = _first_fitting(area, np.exp(-flat - drawn[:, TRIES:-2].T * (tall - flat)), size - 1)
    places = np.floor(drawn[:, -2:].T * (size.T - box + 1))
    return np.where((chance < erasing.probability) & ~np.isnan(box[0]), np.concatenate([places, box]), 0.0).T


def _first_fitting(area: Floats, shape: Floats, extents: Floats) -> Floats:
    """(2, n) height and width of the first of the tries, (tries, n) each, that is not larger; NaN where none is."""
    boxes = np.rint(np.sqrt([area / shape, area * shape]))
    fits = (boxes <= extents.T[:, None]).all(axis=0)
    first = np.take_along_axis(boxes, fits.argmax(axis=0)[None, None], axis=1)[:, 0]
    return np.where(fits.any(axis=0), first, np.nan)


def augment(
    pixels: torch.Tensor, draws: Draws, augmentation: Augmentation, seed: int, dtype: torch.dtype
) -> torch.Tensor:
    """Augment images.

    Parameters
    ----------
    pixels : (n, h, w, 3) uint8
        On any device.
    draws : Draws
        Its crops in pixels of `pixels`; parts of a pixel are allowed.
    seed : int
        Of the noise in erased patches.
    dtype : torch.dtype
        What crops are resized and colors are changed in; float16 is within a gray level of float32.

    Returns
    -------
    (n, 3, size, size) float32, normalized, channels last
    """
    numbers = [draws.crop, draws.flip[:, None], draws.angle[:, None], draws.factors, draws.order, draws.patch]
    # One copy that nobody waits for: a constant made on a GPU would make Python wait until all before it is done.
    constants = np.array([augmentation.fill or augmentation.mean, augmentation.mean, augmentation.std])
    numbers.append(np.broadcast_to(constants.reshape(1, 9), (len(pixels), 9)))
    on_device = to_device(torch.from_numpy(np.concatenate(numbers, axis=1).astype(np.float32)), pixels.device)
    crop, flip, angle, factors, order, patch, _ = torch.split(on_device, [4, 1, 1, 3, 3, 4, 9], dim=1)
    fill, mean, std = on_device[0, -9:].view(3, 3, 1, 1)
    images = crop_and_resize(pixels, crop, flip, augmentation.size, dtype)
    if augmentation.degrees != (0.0, 0.0):
        images = rotate(images, angle[:, 0], fill)
    if augmentation.jitters:
        images = jitter_colors(images.to(dtype), factors.to(dtype), order)
    images = torch.addcmul(-mean / std, images, 1 / (255 * std))
    if augmentation.erasing is not None and draws.patch.any():
        images = erase(images, patch, seed)
    return images.contiguous(memory_format=torch.channels_last)


def crop_and_resize(
    pixels: torch.Tensor, crop: torch.Tensor, flip: torch.Tensor, size: int, dtype: torch.dtype
) -> torch.Tensor:
    """Crop (n, h, w, 3) images by boxes (n, 4) and resize them, bilinear and antialiased, to (n, 3, size, size).

    As two products with matrices, one for the rows and one for the columns, which mirror too where `flip`, (n, 1), is.
    """
    count, height, width, channels = pixels.shape
    top, left, tall, wide = torch.split(crop, 1, dim=1)
    rows = _weights(top, tall, torch.zeros_like(flip), height, size, dtype)
    columns = _weights(left, wide, flip, width, size, dtype)
    images = rows @ pixels.reshape(count, height, width * channels).to(dtype)
    images = images.view(count, size, width, channels).transpose(2, 3).reshape(count, size * channels, width)
    images = (images @ columns.mT).view(count, size, channels, size)
    return images.transpose(1, 2).float().contiguous()


def _weights(
    start: torch.Tensor, length: torch.Tensor, flip: torch.Tensor, total: int, size: int, dtype: torch.dtype
) -> torch.Tensor:
    """What each of `total` pixels gives to each of `size`, (n, size, total), as Pillow and torch weigh them."""
    scale = length / size
    reach = scale.clamp(min=1)
    place = torch.arange(size, device=start.device)
    centers = (start + (torch.where(flip > 0, size - 1 - place, place) + 0.5) * scale)[..., None]
    # Few pixels are within reach: the rest of a row stays 0.
    near = torch.arange(math.ceil(2 * max(1, total / size)) + 1, device=start.device)
    pixel = (centers - reach[..., None] - 0.5).floor() + 1 + near
    weights = (1 - (pixel + 0.5 - centers).abs() / reach[..., None]).clamp(min=0)
    # What lies beyond the crop is not seen.
    weights = weights * ((pixel + 1 > start[..., None]) & (pixel < (start + length)[..., None]))
    weights = (weights / weights.sum(2, keepdim=True)).to(dtype)
    rows = torch.zeros(len(start), size, total, dtype=dtype, device=start.device)
    return rows.scatter_add_(2, pixel.clamp(0, total - 1).long(), weights)


def rotate(images: torch.Tensor, angles: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Rotate square images, (n, 3, h, h), counterclockwise by degrees (n,) about their centers; bilinear.

    What is uncovered has the color `fill`, (3, 1, 1).
    """
    turn = torch.deg2rad(angles)
    cos, sin, zero = turn.cos(), turn.sin(), torch.zeros_like(turn)
    inverse = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(inverse, list(images.shape), align_corners=False)
    return F.grid_sample(images - fill, grid, align_corners=False).add_(fill)


def jitter_colors(images: torch.Tensor, factors: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast and saturation of (n, 3, h, w) images of 0 to 255, each in its own order.

    Each change leads away from, or to, another image: black, the mean gray, or every pixel's gray.
    """
    for place in range(3):
        which = order[:, place].long()
        factor = factors.gather(1, which[:, None])[..., None, None]
        which = which[:, None, None, None]
        red, green, blue = torch.split(images, 1, dim=1)
        gray = (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
        # Rounded, as both libraries take it.
        other = torch.where(which == 1, gray.mean((2, 3), keepdim=True).round(), gray) * (which > 0)
        images = torch.lerp(other, images, factor).clamp_(0, 255)
    return images


def erase(images: torch.Tensor, patch: torch.Tensor, seed: int) -> torch.Tensor:
    """Put noise, normal around the mean, into a patch (n, 4) of each of the normalized images."""
    height, width = images.shape[2:]
    top, left, tall, wide = torch.split(patch, 1, dim=1)
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    inside = ((rows >= top) & (rows < top + tall))[:, None, :, None]
    inside = inside & ((columns >= left) & (columns < left + wide))[:, None, None, :]
    noise = torch.randn(images.shape, generator=torch.Generator(images.device).manual_seed(seed), device=images.device)
    return torch.where(inside, noise, images)
