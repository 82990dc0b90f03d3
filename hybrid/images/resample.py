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

from hybrid.device import to_device
from hybrid.images.decode import Pixels, Scaled

if TYPE_CHECKING:
    from hybrid.images.steps import Steps

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
class _Kind:
    """What images have in common that are resized by the same matrices.

    Attributes
    ----------
    is_tensor : bool
    height, width : int
        In pixels.
    scale : (float, float)
        Pixels of the image for each of the result, down and across.
    start : (int, int)
        The first row and column of the result that is kept.
    """

    is_tensor: bool
    height: int
    width: int
    scale: tuple[float, float]
    start: tuple[int, int]


# Places of images in their batch, and their kind.
_Group: TypeAlias = tuple[_Kind, list[int]]


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
        self._kept: dict[tuple[int, int, _Kind], tuple[torch.Tensor, torch.Tensor]] = {}

    def shrink(self, image: Scaled) -> torch.Tensor:
        """Resize and crop an image that lies on the device to (height, width, 3) uint8."""
        fitted = self.levels([image])[0].to(torch.uint8)
        if isinstance(image.rgb, torch.Tensor) and image.rgb.is_cuda:
            # Before this has been computed, the stream that it was decoded in may not use its memory again.
            image.rgb.record_stream(torch.cuda.current_stream(self._device))
        return fitted.permute(1, 2, 0)

    def levels(self, images: Sequence[Waiting]) -> torch.Tensor:
        """Resize and crop images of any sizes to (n, 3, height, width) of gray levels, whole numbers from 0 to 255."""
        pixels = [image.rgb if isinstance(image, Scaled) else image for image in images]
        parts, order = [], []
        for groups in self._sets(self._groups(images)):
            places = [place for _, group in groups for place in group]
            parts.append(self._fit(groups, [pixels[place] for place in places]))
            order += places
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        if order == list(range(len(order))):
            return joined
        return joined[to_device(torch.from_numpy(np.argsort(order)), self._device)]

    def _groups(self, images: Sequence[Waiting]) -> list[_Group]:
        """Find images of one kind: by as little work as can be, as thousands a second come here."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, image in enumerate(images):
            rgb, extent = (image.rgb, image.extent) if isinstance(image, Scaled) else (image, None)
            groups.setdefault((type(rgb), rgb.shape, extent), []).append(place)
        kinds = [self._kind(images[places[0]]) for places in groups.values()]
        return sorted(zip(kinds, groups.values(), strict=True), key=lambda group: _shape(group[0]))

    def _kind(self, image: Waiting) -> _Kind:
        rgb = image.rgb if isinstance(image, Scaled) else image
        height, width = int(rgb.shape[0]), int(rgb.shape[1])
        if not isinstance(image, Scaled):
            return _Kind(isinstance(rgb, torch.Tensor), height, width, (1.0, 1.0), (0, 0))
        size, crop = self._steps.size_of(*image.extent), self._steps.crop
        scale = image.extent[0] / size[0], image.extent[1] / size[1]
        start = round((size[0] - crop[0]) / 2), round((size[1] - crop[1]) / 2)
        return _Kind(isinstance(rgb, torch.Tensor), height, width, scale, start)

    def _sets(self, groups: Sequence[_Group]) -> Iterator[list[_Group]]:
        """Cut a batch into sets of images that are of one shape, or nearly so."""
        joined: list[_Group] = []
        count = own = height = width = 0
        for kind, places in groups:
            most = max(1, _MOST_VALUES // (3 * kind.height * kind.width))
            for part in (places[start : start + most] for start in range(0, len(places), most)):
                more = len(part) * kind.height * kind.width
                padded = (count + len(part)) * max(kind.height, height) * max(kind.width, width)
                alike = not joined or kind.is_tensor == joined[0][0].is_tensor
                if joined and (not alike or padded > _MOST_PADDED * (own + more) or 3 * padded > _MOST_VALUES):
                    yield joined
                    joined, count, own, height, width = [], 0, 0, 0, 0
                joined.append((kind, part))
                count, own = count + len(part), own + more
                height, width = max(height, kind.height), max(width, kind.width)
        if joined:
            yield joined

    def _fit(self, groups: Sequence[_Group], images: Sequence[Pixels | torch.Tensor]) -> torch.Tensor:
        height, width = (max(getattr(kind, side) for kind, _ in groups) for side in ("height", "width"))
        same = all((kind.height, kind.width) == (height, width) for kind, _ in groups)
        pixels = self._joined(images, (height, width), same=same)
        # One matrix for all, or one for each.
        kinds = [groups[0][0]] if len(groups) == 1 else [kind for kind, places in groups for _ in places]
        down, across = self._weights(kinds, height, width)
        # Along the rows first, rounded and clipped, then along the columns: Pillow's way.
        n = len(images)
        rows = (pixels.view(n, height * 3, width) @ across).round_().clamp_(0, 255)
        fitted = torch.matmul(down, rows.view(n, height, -1)).round_().clamp_(0, 255)
        return fitted.view(n, fitted.shape[1], 3, -1).transpose(1, 2)

    def _joined(self, images: Sequence[Pixels | torch.Tensor], size: tuple[int, int], *, same: bool) -> torch.Tensor:
        """Give the pixels (n, h, 3, w) of a set, those of smaller images at the top left."""
        tensors = [image for image in images if isinstance(image, torch.Tensor)]
        if tensors:
            # Not by permuting each: that gives up Python's lock for every image, and this does not.
            rows = [image.mT for image in tensors]
            if same:
                return torch.stack(rows).to(self._dtype)
            canvas = torch.zeros((len(images), size[0], 3, size[1]), dtype=torch.uint8, device=self._device)
            parts = [canvas[n, : row.shape[0], :, : row.shape[2]] for n, row in enumerate(rows)]
            torch._foreach_copy_(parts, rows)
            return canvas.to(self._dtype)
        arrays = [image for image in images if isinstance(image, np.ndarray)]
        joined = np.stack(arrays) if same else np.zeros((len(images), *size, 3), np.uint8)
        if not same:
            for n, image in enumerate(arrays):
                joined[n, : image.shape[0], : image.shape[1]] = image
        return to_device(torch.from_numpy(joined), self._device).mT.to(
            self._dtype, memory_format=torch.contiguous_format
        )

    def _weights(self, kinds: Sequence[_Kind], height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the matrices of a set, (n, out, height) and (n, width, out); of one kind without n."""
        key = (height, width, kinds[0]) if len(kinds) == 1 else None
        # Several threads do this at once.
        if key is not None and (kept := self._kept.get(key)) is not None:
            return kept
        numbers = np.array([((kind.height, kind.width), kind.scale, kind.start) for kind in kinds], np.float32)
        # (3, 2, n): pixels, scale and start, down and across.
        given = to_device(torch.from_numpy(numbers.transpose(1, 2, 0).copy()), self._device)
        down, across = (
            self._weights_along(given[:, axis], length, self._steps.crop[axis])
            for axis, length in enumerate((height, width))
        )
        across = across.transpose(1, 2).contiguous()
        if key is None:
            return down, across
        if len(self._kept) == _KEPT:
            self._kept.clear()
        kept = self._kept[key] = down[0], across[0]
        return kept

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


def _shape(kind: _Kind) -> tuple[bool, int, int]:
    return kind.is_tensor, kind.height, kind.width


def _filter(distance: torch.Tensor, interpolation: str) -> torch.Tensor:
    """Keys' cubic filter with a = -1/2, or the triangle."""
    x: torch.Tensor = distance.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    near: torch.Tensor = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
