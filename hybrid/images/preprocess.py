"""A model's own preprocessing on 8-bit pixels: resized, cropped and normalized where the model computes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from hybrid.device import to_device
from hybrid.images.decode import Pixels, Scaled
from hybrid.images.resample import Resampler
from hybrid.images.steps import Steps

AnyImage: TypeAlias = Image.Image | Pixels | torch.Tensor | Scaled
# Grows when the same file comes to look different to a model, so that vectors of both kinds stay apart.
PIXELS = 2
# Images that are larger (PNG, TIFF, ...) are made small before they wait for a GPU, so that what waits stays small.
LARGEST_WAITING = 4 * 2**20
# Steps of a transform that change how pixels are held, not what they are.
_SAME_PIXELS = ("ToTensor", "MaybeToTensor", "MaybeConvertMode", "_convert_to_rgb")


def read_steps(transform: Any) -> Steps | None:
    """Read what a transform of open_clip's or timm's does; None if it does anything else than `Steps` can say."""
    from torchvision import transforms as tv

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    normalize, interpolation = None, ""
    for step in getattr(transform, "transforms", ()):
        if type(step) is tv.Resize and resize is None and crop is None and step.max_size is None:
            size = (step.size,) if isinstance(step.size, int) else tuple(int(side) for side in step.size)
            resize, interpolation = size if len(size) == 2 else size[0], step.interpolation.value
        elif type(step) is tv.CenterCrop and crop is None:
            crop = (int(step.size[0]), int(step.size[1]))
        elif type(step) is tv.Normalize and normalize is None:
            normalize = step
        elif getattr(step, "__name__", type(step).__name__) not in _SAME_PIXELS:
            return None
    if crop is None and isinstance(resize, tuple):
        crop = resize
    if resize is None or crop is None or normalize is None or interpolation not in ("bicubic", "bilinear"):
        return None
    shorter = (resize, resize) if isinstance(resize, int) else resize
    if crop[0] > shorter[0] or crop[1] > shorter[1]:
        return None  # the crop would have to be filled up
    mean, std = (tuple(float(value) for value in values) for values in (normalize.mean, normalize.std))
    return Steps(resize, crop, interpolation, mean, std)


class Preprocessor:
    """Turns decoded images into a model's input.

    `prepare` runs in reading threads, `batch` where the model runs. On a CPU the threads resize, because they know one
    image each and the CPU is the device; a GPU resizes itself.

    Parameters
    ----------
    transform : callable
        The model library's own, PIL RGB to float32 (3, height, width). One that `read_steps` cannot read is used as it
        is.
    device : str
    dtype : torch.dtype
        Of the batches.
    """

    def __init__(self, transform: Callable[[Any], torch.Tensor], device: str, dtype: torch.dtype) -> None:
        self._transform, self._steps = transform, read_steps(transform)
        self._device, self._dtype = torch.device(device), dtype
        self._resampler = Resampler(self._steps, self._device) if self._steps is not None else None

    @property
    def steps(self) -> Steps | None:
        """What it does in numbers; None for a transform that `read_steps` cannot read."""
        return self._steps

    @property
    def min_side(self) -> int | None:
        """Shorter side that images should be decoded at; None: full size."""
        return None if self._steps is None else self._steps.min_side

    def prepare(self, image: AnyImage) -> Any:
        """Prepare one upright RGB image for `batch`."""
        if self._steps is None:
            return self._transform(to_picture(image))
        scaled = self._steps.middle_of(to_scaled(image))
        if self._device.type == "cuda" and scaled.rgb.nbytes <= LARGEST_WAITING:
            return scaled
        if isinstance(scaled.rgb, torch.Tensor):
            return self._shrunk(scaled.rgb, scaled, self._steps)
        return _fit_array(scaled.rgb, scaled.extent, self._steps)

    def _shrunk(self, rgb: torch.Tensor, image: Scaled, steps: Steps) -> torch.Tensor:
        """Resize an image where a decoder left it."""
        if self._resampler is not None and rgb.is_cuda:
            # Where its memory does not suffice, as for one image between two batches, the CPU's does.
            with suppress(torch.cuda.OutOfMemoryError):
                return self._resampler.shrink(image)
        return _fit(rgb[None].cpu(), image.extent, steps)[0].contiguous()

    def batch(self, prepared: Sequence[Any]) -> torch.Tensor:
        """Join prepared images, at least one, to (n, 3, height, width), normalized, channels last, on the device."""
        if self._steps is None:
            return to_device(torch.stack(list(prepared)), self._device).to(self._dtype)
        return self.normalized(self.pixels(prepared))

    def pixels(self, prepared: Sequence[Any]) -> torch.Tensor:
        """Join prepared images of a transform that `read_steps` can read to (n, height, width, 3) uint8."""
        if self._steps is None or self._resampler is None:
            raise TypeError("a transform that cannot be read has no pixels before its normalization")
        if self._device.type != "cpu":
            return self._resampler.levels(prepared).to(torch.uint8).permute(0, 2, 3, 1)
        height, width = self._steps.crop
        images = torch.empty((len(prepared), height, width, 3), dtype=torch.uint8)
        # Places of the images that can be resized at once; those without an extent need not be.
        groups = defaultdict[tuple[Any, type], list[int]](list)
        for place, image in enumerate(prepared):
            rgb, extent = (image.rgb, image.extent) if isinstance(image, Scaled) else (image, None)
            groups[extent, type(rgb)].append(place)
        for (extent, kind), places in groups.items():
            same = [getattr(prepared[place], "rgb", prepared[place]) for place in places]
            pixels = torch.from_numpy(np.stack(same)) if kind is np.ndarray else torch.stack(same)
            images[torch.tensor(places)] = pixels if extent is None else _fit(pixels, extent, self._steps)
        return images

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bring what `pixels` gave to the device as a batch."""
        images = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        scale, shift = self._scale_and_shift
        return torch.addcmul(shift, images.float(), scale).to(self._dtype, memory_format=torch.channels_last)

    @cached_property
    def _scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(value / 255 - mean) / std as a product and a sum; on the device once, as a plain copy there waits for it."""
        if self._steps is None:
            raise TypeError("a transform that cannot be read has no normalization of its own")
        scale = [1 / (255 * std) for std in self._steps.std]
        shift = [-mean / std for mean, std in zip(self._steps.mean, self._steps.std, strict=True)]
        tensors = (torch.tensor(values, device=self._device)[:, None, None] for values in (scale, shift))
        return next(tensors), next(tensors)


def to_scaled(image: AnyImage) -> Scaled:
    """Take an image of any kind as `Scaled`; a picture, array or tensor stands for all of itself."""
    if isinstance(image, Scaled):
        return image
    if isinstance(image, torch.Tensor):
        return Scaled.whole(image.contiguous())
    # A copy of memory that is lent for reading only, as Pillow's is: torch warns of it.
    return Scaled.whole(
        np.array(image) if isinstance(image, Image.Image) else np.require(image, requirements=["C", "W"])
    )


def to_picture(image: AnyImage) -> Image.Image:
    """Take an image of any kind as a PIL image."""
    return image if isinstance(image, Image.Image) else to_scaled(image).to_picture()


def _fit(images: torch.Tensor, extent: tuple[float, float], steps: Steps) -> torch.Tensor:
    """Resize and crop (n, h, w, 3) uint8 images of one extent on a CPU; as Pillow does it, to a gray level."""
    size = steps.size_of(*extent)
    resized = _resize(images.permute(0, 3, 1, 2), extent, size, steps.interpolation)
    height, width = size
    top, left = steps.start_of((height, width))
    return resized[:, :, top : top + steps.crop[0], left : left + steps.crop[1]].permute(0, 2, 3, 1)


def _fit_array(rgb: Pixels, extent: tuple[float, float], steps: Steps) -> Pixels:
    """Resize and crop an image in a reading thread.

    By numpy but for one step: every step of torch gives up Python's lock, which many threads wait for, and copies by
    threads of its own.
    """
    size = height, width = steps.size_of(*extent)
    # By reshape: with a stride of 0, as None would give, torch takes the slow way.
    planes = torch.from_numpy(rgb.reshape(1, *rgb.shape).transpose(0, 3, 1, 2))
    resized: Pixels = _resize(planes, extent, size, steps.interpolation).numpy()[0].transpose(1, 2, 0)
    top, left = steps.start_of((height, width))
    return np.ascontiguousarray(resized[top : top + steps.crop[0], left : left + steps.crop[1]])


def _resize(
    images: torch.Tensor, extent: tuple[float, float], size: tuple[int, int], interpolation: str
) -> torch.Tensor:
    if extent == size:
        return images
    if extent == tuple(images.shape[2:]):
        return F.interpolate(images, size=size, mode=interpolation, antialias=True)
    # By factors: the last row and column count in part. torch rounds the resulting size down, so that a factor must not
    # fall below the quotient.
    factors = [(wanted / own) * (1 + 1e-9) for wanted, own in zip(size, extent, strict=True)]
    resized = F.interpolate(
        images, scale_factor=factors, mode=interpolation, antialias=True, recompute_scale_factor=False
    )
    return resized[:, :, : size[0], : size[1]]
