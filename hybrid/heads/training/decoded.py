"""Images decoded once and kept in memory, from where batches are augmented on the network's device.

Loader processes (`hybrid.heads.training.loader`), which decode and augment every image anew in every epoch, keep up
with a CPU; a GPU would wait for them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from hybrid.config import HeadSettings
from hybrid.device import Compute, to_device
from hybrid.errors import HeadError
from hybrid.heads.augment import Augmentation, Floats, augment, draw, read_augmentation
from hybrid.heads.base import LabeledImages
from hybrid.heads.training.distributed import process_count
from hybrid.heads.training.loader import Batch, Draw, gone, loader_of, make_loader, min_side_of
from hybrid.heads.transforms import Transform
from hybrid.images.decode import Scaled
from hybrid.images.decoders import AnyDecoder, choose_decoder
from hybrid.images.pipeline import read_batches
from hybrid.images.preprocess import Preprocessor, read_steps
from hybrid.images.records import ImageRecord
from hybrid.images.steps import OVERSAMPLING
from hybrid.images.stream import ordered_map

Say = Callable[[str], None]
# Sides are kept at this many times the length at which the narrowest crop would have the network's own size.
KEPT_SIDE = 1.5
# Share of a memory's free bytes that images may take: the network's activations need the rest.
MOST = 0.4
CHUNK = 256
# Of an image: height and width of all of it; top, left, height and width of the part that is kept; and its size there.
_Geometry: TypeAlias = Floats
_WHOLE_HEIGHT, _PART_TOP, _PART_HEIGHT, _KEPT_HEIGHT, _COLUMNS = 0, 2, 4, 6, 8


@dataclass(frozen=True)
class Pixels:
    """Images in one tensor, each in its upper left corner.

    Attributes
    ----------
    rgb : (n, h, w, 3) uint8
    geometry : (n, 8) float64
    """

    rgb: torch.Tensor
    geometry: _Geometry


class View(Protocol):
    """How images look to the network.

    Attributes
    ----------
    min_side : int or None
        Shorter side that `prepare` needs of an image; None: full size.
    words : str
        For people: at which size images are kept, and what is done to a batch.
    """

    @property
    def min_side(self) -> int | None: ...  # noqa: D102  described above

    words: str

    def prepare(self, image: Scaled, record: ImageRecord) -> Any:
        """Make an image as small as it is kept; runs in reading threads."""

    def pack(self, prepared: Sequence[Any]) -> Pixels:
        """Join prepared images."""

    def batch(self, pixels: Pixels, seeds: Sequence[int]) -> torch.Tensor:
        """Make the network's input, (n, 3, height, width) float32; what is drawn for an image depends on its seed."""


class Augmented:
    """Images kept at a bounded size, from which each epoch's crops are made; see `View`."""

    def __init__(self, augmentation: Augmentation, min_side: int, compute: Compute) -> None:
        self._augmentation, self._device, self.min_side = augmentation, device_of(compute), min_side
        self._dtype = torch.float16 if compute.is_cuda and compute.precision != "fp32" else torch.float32
        self.side = math.ceil(KEPT_SIDE * min_side / OVERSAMPLING)
        self.words = f"at most {self.side} x {self.side} pixels, augmented there in batches"

    def prepare(self, image: Scaled, record: ImageRecord) -> tuple[Any, _Geometry]:
        """Give the pixels that crops are made of, no side longer than `side`."""
        _keep_alive(image)
        height, width = map(int, image.extent)
        top, left, tall, wide = _seen_part(height, width, self._augmentation)
        size = min(tall, self.side), min(wide, self.side)
        part = image.rgb[top : top + tall, left : left + wide]
        geometry = np.array([height, width, top, left, tall, wide, *size], dtype=np.float64)
        return (part if size == (tall, wide) else _smaller(part, size)), geometry

    def pack(self, prepared: Sequence[tuple[Any, _Geometry]]) -> Pixels:
        """Join images in the corner of what holds the largest."""
        parts = [part for part, _ in prepared]
        height, width = (max(part.shape[axis] for part in parts) for axis in (0, 1))
        device = next((part.device for part in parts if isinstance(part, torch.Tensor)), "cpu")
        rgb = torch.zeros((len(parts), height, width, 3), dtype=torch.uint8, device=device)
        for place, part in zip(rgb, parts, strict=True):
            # Writable: torch warns of memory that is lent for reading only.
            pixels = (
                torch.from_numpy(np.require(part, requirements=["C", "W"])) if isinstance(part, np.ndarray) else part
            )
            place[: part.shape[0], : part.shape[1]] = pixels
        return Pixels(rgb, np.stack([geometry for _, geometry in prepared]))

    def batch(self, pixels: Pixels, seeds: Sequence[int]) -> torch.Tensor:
        """Draw for each image, and augment all."""
        whole, start, length, kept = np.split(pixels.geometry, [_PART_TOP, _PART_HEIGHT, _KEPT_HEIGHT], axis=1)
        draws = draw(self._augmentation, seeds, whole)
        scale = kept / length
        crop = np.concatenate([(draws.crop[:, :2] - start) * scale, draws.crop[:, 2:] * scale], axis=1)
        rgb = pixels.rgb.to(self._device, non_blocking=True)
        return augment(rgb, replace(draws, crop=crop), self._augmentation, seeds[0], self._dtype)


class Plain:
    """Images as they are validated and used, resized and cropped once; see `View`."""

    def __init__(self, transform: Transform, compute: Compute) -> None:
        self._preprocess = Preprocessor(transform, compute.device, torch.float32)
        self.min_side = self._preprocess.min_side
        self.words = "resized and cropped"

    def prepare(self, image: Scaled, record: ImageRecord) -> Any:
        """Make an image as small as may wait."""
        _keep_alive(image)
        return self._preprocess.prepare(image)

    def pack(self, prepared: Sequence[Any]) -> Pixels:
        """Resize and crop."""
        return Pixels(self._preprocess.pixels(prepared), np.zeros((len(prepared), _COLUMNS)))

    def batch(self, pixels: Pixels, seeds: Sequence[int]) -> torch.Tensor:
        """Normalize."""
        return self._preprocess.normalized(pixels.rgb)


def view_of(transform: Transform, compute: Compute) -> View | None:
    """Say what a transform does as something that is done to batches; None where it cannot be."""
    if read_steps(transform) is not None:
        return Plain(transform, compute)
    augmentation, min_side = read_augmentation(transform), min_side_of(transform)
    return None if augmentation is None or min_side is None else Augmented(augmentation, min_side, compute)


def keeps_in_memory(transform: Transform, settings: HeadSettings, compute: Compute) -> bool:
    """Whether images are decoded into memory and augmented on the device.

    Raises
    ------
    HeadError
        If that was asked for, and the recipe's augmentation can only be done image by image.
    """
    if settings.loading == "processes" or (settings.loading == "auto" and not compute.is_cuda):
        return False
    if view_of(transform, compute) is not None:
        return True
    if settings.loading == "memory":
        raise HeadError(
            "this recipe prepares photos one by one, in loader processes",
            got="auto_augment, regions or a resizing of its own, with loading=memory",
            fix="--set loading=auto",
        )
    return False


class DecodedImages(Dataset[Batch]):
    """Images and their classes, by the images' places, decoded into memory when they are first asked for.

    They are kept where the network computes, or else in the machine's memory; where they fit neither, each batch is
    decoded anew.

    Parameters
    ----------
    view : View
    what : str
        For people: ``training`` or ``validation``.
    on_images : callable
        Gets the number of images that are decoded, after every chunk.
    """

    def __init__(
        self,
        images: LabeledImages,
        view: View,
        settings: HeadSettings,
        compute: Compute,
        say: Say,
        what: str,
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._images, self._view, self._settings, self._compute = images, view, settings, compute
        self._say, self._what, self._on_images = say, what, on_images
        self._device = device_of(compute)
        self._target = torch.from_numpy(images.target.astype(np.int64))

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """A whole batch at once: (n, 3, height, width) float32 and (n,) int64, on the device."""
        places = [place for place, _ in draws]
        pixels = self._decode_all(places) if self._kept is None else _take(self._kept, places, self._device)
        images = self._view.batch(pixels, [seed for _, seed in draws])
        return images, to_device(self._target[places], self._device)

    @property
    def waits(self) -> bool:
        """Whether making a batch takes the CPU's time, so that it is better made while the one before computes."""
        return self._device.type == "cuda" and (self._kept is None or self._kept.rgb.device != self._device)

    def loader(self, train: bool) -> DataLoader[Any]:
        """Batches in the order in which `make_loader` would give them."""
        return loader_of(self, self._images, self._settings, train, collate_fn=lambda batch: batch)

    @cached_property
    def _decoder(self) -> tuple[AnyDecoder, str]:
        """The decoder, and for people which one it is; loaded when there is something to decode."""
        return choose_decoder("auto", self._compute.device)

    @cached_property
    def _kept(self) -> Pixels | None:
        """All images, None where they do not fit."""
        start, done = time.perf_counter(), 0
        kept: Pixels | None = None
        for chunk in self._chunks(range(len(self))):
            kept = self._with_room(kept, chunk)
            if kept is None:
                return None
            rows = slice(done, done + len(chunk.rgb))
            kept.rgb[rows, : chunk.rgb.shape[1], : chunk.rgb.shape[2]] = chunk.rgb.to(kept.rgb.device)
            kept.geometry[rows] = chunk.geometry
            done = rows.stop
            self._on_images(done)
        if kept is not None:
            place = self._compute.device if kept.rgb.device == self._device else "this machine"
            self._say(
                f"{self._what}: {len(self)} photos decoded once in {time.perf_counter() - start:.1f} s "
                f"({self._decoder[1]}), {_size(kept.rgb.nbytes)} kept in the memory of {place}: {self._view.words}"
            )
        return kept

    def _with_room(self, kept: Pixels | None, chunk: Pixels) -> Pixels | None:
        """Make room for all images where there is none yet, or where a larger image comes; None without memory."""
        height, width = chunk.rgb.shape[1:3]
        if kept is not None:
            if height <= kept.rgb.shape[1] and width <= kept.rgb.shape[2]:
                return kept
            height, width = max(height, kept.rgb.shape[1]), max(width, kept.rgb.shape[2])
        needed = len(self) * height * width * 3
        for device in dict.fromkeys((self._device, torch.device("cpu"))):
            if needed <= MOST * free_bytes(device):
                grown = torch.zeros((len(self), height, width, 3), dtype=torch.uint8, device=device)
                if kept is None:
                    return Pixels(grown, np.zeros((len(self), _COLUMNS)))
                grown[:, : kept.rgb.shape[1], : kept.rgb.shape[2]] = kept.rgb.to(device)
                return Pixels(grown, kept.geometry)
        self._say(
            f"{self._what}: {len(self)} photos would take {_size(needed)}, more than {MOST:.0%} of what is free "
            f"on {self._compute.device} and in this machine's memory: each epoch decodes them anew ({self._decoder[1]})"
        )
        return None

    def _chunks(self, places: Sequence[int]) -> Iterator[Pixels]:
        records = [self._images.records[place] for place in places]
        return decoded(records, self._view, CHUNK, self._decoder[0])

    def _decode_all(self, places: Sequence[int]) -> Pixels:
        """A batch that is not kept."""
        records = [self._images.records[place] for place in places]
        (pixels,) = decoded(records, self._view, len(records), self._decoder[0])
        return pixels


def decoded(records: Sequence[ImageRecord], view: View, batch_size: int, decoder: AnyDecoder) -> Iterator[Pixels]:
    """Read and decode images in batches; DataError for one that can no longer be read."""
    for batch in read_batches(records, view.prepare, min_side=view.min_side, batch_size=batch_size, decoder=decoder):
        for image in batch:
            if image.reason:
                raise gone(f"{image.record.path}: {image.reason}")
        yield view.pack([image.prepared for image in batch])


def plain_batches(
    images: LabeledImages, transform: Transform, settings: HeadSettings, compute: Compute
) -> Iterable[Any]:
    """Batches of images that are seen once, in their order, for `batches_on`."""
    view = view_of(transform, compute) if keeps_in_memory(transform, settings, compute) else None
    if view is None:
        return make_loader(images, transform, settings, train=False, pin=compute.is_cuda)
    return _seen_once(images, view, settings.schedule.batch_size, compute)


def _seen_once(images: LabeledImages, view: View, size: int, compute: Compute) -> Iterator[Batch]:
    decoder, done = choose_decoder("auto", compute.device)[0], 0
    for pixels in decoded(images.records, view, size, decoder):
        count = len(pixels.rgb)
        yield view.batch(pixels, [0] * count), torch.from_numpy(images.target[done : done + count].astype(np.int64))
        done += count


def made_ahead(loader: Iterable[Any]) -> Iterator[Any]:
    """Make a loader's batches in a thread, up to two before they are asked for."""
    batches, end = iter(loader), object()
    for batch in ordered_map(lambda _: next(batches, end), repeat(None), 1, 2):
        if batch is end:
            return
        yield batch


def device_of(compute: Compute) -> torch.device:
    """The device with its number, as its tensors have it: ``cuda`` alone equals none of theirs."""
    device = torch.device(compute.device)
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def free_bytes(device: torch.device) -> int:
    """Memory of a device that is free, of the machine this process's share."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return _free_in_machine() // process_count()


def _free_in_machine() -> int:
    """What the system says is available, or less where a container's limit is lower."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        return free if limit == "max" else max(0, min(free, int(limit) - used))
    except (OSError, ValueError):
        return free


def _take(kept: Pixels, places: Sequence[int], device: torch.device) -> Pixels:
    index = torch.tensor(places)
    if kept.rgb.device.type == "cpu" and device.type == "cuda":
        rgb = torch.empty((len(places), *kept.rgb.shape[1:]), dtype=torch.uint8, pin_memory=True)
        torch.index_select(kept.rgb, 0, index, out=rgb)
    else:
        rgb = kept.rgb[to_device(index, kept.rgb.device)]
    return Pixels(rgb, kept.geometry[index.numpy()])


def _seen_part(height: int, width: int, augmentation: Augmentation) -> tuple[int, int, int, int]:
    """Top, left, height and width of what crops can show: of a strip only its middle, which is each of its crops."""
    least, (narrow, wide) = augmentation.scale[0], augmentation.ratio
    if round(math.sqrt(least * height * width / wide)) > height:
        seen = round(height * wide)
        return 0, (width - seen) // 2, height, seen
    if round(math.sqrt(least * height * width * narrow)) > width:
        seen = round(width / narrow)
        return (height - seen) // 2, 0, seen, width
    return 0, 0, height, width


def _smaller(rgb: Any, size: tuple[int, int]) -> Any:
    """Resize (h, w, 3) uint8 pixels to a height and width, sharply: the crop's own filter comes after."""
    if isinstance(rgb, np.ndarray):
        return np.array(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BICUBIC))
    resized = F.interpolate(rgb.permute(2, 0, 1)[None].float(), size=size, mode="bicubic", antialias=True)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)


def _keep_alive(image: Scaled) -> None:
    """Let memory that a decoder's own stream allocated stay until it has been read in this one."""
    if isinstance(image.rgb, torch.Tensor) and image.rgb.is_cuda:
        image.rgb.record_stream(torch.cuda.current_stream(image.rgb.device))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
