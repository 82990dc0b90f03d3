"""Resize, crop and join images where a GPU computes: two matrix products for images of all sizes.

A resized row is a weighted sum of the row's pixels: a product with a matrix that has few values beside zeros. Tensor
cores compute it three times as fast as torch interpolates, and each image of a batch may have a matrix of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from hybrid.images.decode import Pixels, Scaled

if TYPE_CHECKING:
    from hybrid.images.preprocess import Steps

# An image that was resized and cropped before has no extent.
Waiting: TypeAlias = "Scaled | Pixels | torch.Tensor"
# Values that are held in half precision at once.
_MOST_VALUES = 2**28
# Images of other shapes are joined to larger ones as long as the frame around them takes no more than this.
_MOST_PADDED = 1.5
# Matrices of so many shapes are kept.
_KEPT = 16
# Half the width of each filter, in pixels of the result.
_RADIUS = {"bilinear": 1.0, "bicubic": 2.0}


@dataclass(frozen=True, slots=True)
class _Place:
    """An image of a batch: where it stands there, its pixels, and how they are taken.

    Attributes
    ----------
    number : int
    rgb : (h, w, 3) uint8
    scale : (float, float)
        Pixels of the image for each of the result, down and across.
    start : (float, float)
        The first row and column of the result that is kept.
    """

    number: int
    rgb: Pixels | torch.Tensor
    scale: tuple[float, float]
    start: tuple[int, int]

    @property
    def shape(self) -> tuple[bool, int, int]:
        """Images of one shape are joined without a frame."""
        height, width = self.rgb.shape[:2]
        return isinstance(self.rgb, torch.Tensor), int(height), int(width)


class Resampler:
    """Brings images to the size that a model takes, as Pillow does it, to a gray level.

    Parameters
    ----------
    steps : Steps
    device : torch.device
        Where it is computed: in half precision, on a CPU in single precision.
    """

    def __init__(self, steps: Steps, device: torch.device) -> None:
        self._steps, self._device = steps, device
        self._dtype = torch.float32 if device.type == "cpu" else torch.float16
        self._kept: dict[tuple[object, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def shrink(self, image: Scaled) -> torch.Tensor:
        """Resize and crop an image that lies on the device to (height, width, 3) uint8."""
        fitted = self.levels([image])[0].to(torch.uint8)
        if isinstance(image.rgb, torch.Tensor) and image.rgb.is_cuda:
            # Before this has been computed, the stream that it was decoded in may not use its memory again.
            image.rgb.record_stream(torch.cuda.current_stream(self._device))
        return fitted.permute(1, 2, 0)

    def levels(self, images: Sequence[Waiting]) -> torch.Tensor:
        """Resize and crop images of any sizes to (n, 3, height, width) of gray levels, whole numbers from 0 to 255."""
        parts, order = [], []
        for places in self._sets([self._place(number, image) for number, image in enumerate(images)]):
            parts.append(self._fit(places))
            order += [place.number for place in places]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        if order == list(range(len(order))):
            return joined
        return joined[self._to_device(torch.from_numpy(np.argsort(order)))]

    def _place(self, number: int, image: Waiting) -> _Place:
        if not isinstance(image, Scaled):
            return _Place(number, image, (1.0, 1.0), (0, 0))
        size, crop = self._steps.size_of(*image.extent), self._steps.crop
        scale = image.extent[0] / size[0], image.extent[1] / size[1]
        return _Place(number, image.rgb, scale, (round((size[0] - crop[0]) / 2), round((size[1] - crop[1]) / 2)))

    def _sets(self, places: Sequence[_Place]) -> Iterator[list[_Place]]:
        """Cut a batch into sets of images that are of one shape, or nearly so."""
        joined: list[_Place] = []
        own = height = width = 0
        for place in sorted(places, key=lambda place: place.shape):
            is_tensor, h, w = place.shape
            values = (len(joined) + 1) * max(h, height) * max(w, width)
            if joined and (
                is_tensor != joined[0].shape[0] or values > _MOST_PADDED * (own + h * w) or 3 * values > _MOST_VALUES
            ):
                yield joined
                joined, own, height, width = [], 0, 0, 0
            joined.append(place)
            own, height, width = own + h * w, max(h, height), max(w, width)
        if joined:
            yield joined

    def _fit(self, places: Sequence[_Place]) -> torch.Tensor:
        alike = all((place.shape, place.scale, place.start) == _kind(places[0]) for place in places)
        pixels = self._joined(places)
        n, _, height, width = pixels.shape
        down, across = self._weights(places[:1] if alike else places, height, width)
        # Along the rows first, rounded and clipped, then along the columns: Pillow's way.
        rows = pixels.view(n, 3 * height, width) @ across
        rows = rows.round_().clamp_(0, 255).view(n, 3, height, -1)
        fitted = torch.matmul(down[0] if alike else down[:, None], rows)
        return fitted.round_().clamp_(0, 255)

    def _joined(self, places: Sequence[_Place]) -> torch.Tensor:
        """Give the pixels (n, 3, h, w) of a set, those of smaller images at the top left."""
        images = [place.rgb for place in places]
        height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
        same = all(image.shape[:2] == (height, width) for image in images)
        if isinstance(images[0], torch.Tensor):
            planes = [image.permute(2, 0, 1) for image in images if isinstance(image, torch.Tensor)]
            if same:
                return torch.stack(planes).to(self._dtype)
            canvas = torch.zeros((len(images), 3, height, width), dtype=torch.uint8, device=self._device)
            parts = [canvas[n, :, : image.shape[0], : image.shape[1]] for n, image in enumerate(images)]
            torch._foreach_copy_(parts, planes)
            return canvas.to(self._dtype)
        joined = np.stack(images) if same else np.zeros((len(images), height, width, 3), np.uint8)
        if not same:
            for n, image in enumerate(images):
                joined[n, : image.shape[0], : image.shape[1]] = image
        on_device = self._to_device(torch.from_numpy(joined))
        return on_device.permute(0, 3, 1, 2).to(self._dtype, memory_format=torch.contiguous_format)

    def _weights(self, places: Sequence[_Place], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the matrices of a set, (n, out, height) and (n, width, out); one for all if there is one place."""
        key = (height, width, places[0].scale, places[0].start) if len(places) == 1 else ()
        if key in self._kept:
            return self._kept[key]
        sizes, scales, starts = (
            np.array(values, np.float32)
            for values in zip(*((place.shape[1:], place.scale, place.start) for place in places), strict=True)
        )
        # (3, 2, n): of each image, down and across.
        given = self._to_device(torch.from_numpy(np.stack([sizes, scales, starts]).transpose(0, 2, 1).copy()))
        down, across = (
            self._weights_along(given[:, axis], length, self._steps.crop[axis])
            for axis, length in enumerate((height, width))
        )
        found = down, across.transpose(1, 2).contiguous()
        if key:
            if len(self._kept) == _KEPT:
                self._kept.clear()
            self._kept[key] = found
        return found

    def _weights_along(self, given: torch.Tensor, length: int, out: int) -> torch.Tensor:
        """Weights (n, out, length) of pixels by torch's and Pillow's formula, each row's sum being 1.

        Parameters
        ----------
        given : (3, n) float32
            Of each image its pixels, its scale and its start.
        """
        size, scale, start = given[:, :, None, None]
        stretch = scale.clamp(min=1)
        places = torch.arange(out, device=self._device, dtype=torch.float32)[:, None]
        pixels = torch.arange(length, device=self._device, dtype=torch.float32)
        center = (places + start + 0.5) * scale
        reach = _RADIUS[self._steps.interpolation] * stretch
        inside = (pixels >= (center - reach + 0.5).floor()) & (pixels < (center + reach + 0.5).floor().minimum(size))
        weights: torch.Tensor = _filter((pixels + 0.5 - center) / stretch, self._steps.interpolation) * inside
        return (weights / weights.sum(dim=2, keepdim=True)).to(self._dtype)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # else the copy would wait for everything that the GPU still has to do
        return tensor.to(self._device, non_blocking=True)


def _kind(place: _Place) -> tuple[object, ...]:
    return place.shape, place.scale, place.start


def _filter(distance: torch.Tensor, interpolation: str) -> torch.Tensor:
    """Keys' cubic filter with a = -1/2, or the triangle."""
    x: torch.Tensor = distance.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    near: torch.Tensor = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
