"""Batches of labeled images; what is drawn for an image depends on seed and epoch alone, not on the loader."""

from __future__ import annotations

import math
import random
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from hybrid.config import HeadSettings
from hybrid.errors import DataError
from hybrid.heads.base import LabeledImages
from hybrid.heads.training.distributed import process_count
from hybrid.heads.transforms import Transform
from hybrid.images.decode import Scaled
from hybrid.images.pipeline import decode_bytes, read
from hybrid.images.steps import OVERSAMPLING

# An image's place, and the seed of its augmentation.
Draw = tuple[int, int]
# Images, or features of them, and their classes.
Batch = tuple[torch.Tensor, torch.Tensor]


def seed_of(*key: int) -> int:
    """Mix numbers, such as seed and epoch, into one seed."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed all that augmentations draw from, and put it back.

    Image by image, so that a training that goes on after a kill, or has other loaders, draws the same.
    """
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU's dropout too
    random.seed(seed)  # timm's erasing and policies
    np.random.seed(seed)  # noqa: NPY002  timm's augmix
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])  # noqa: NPY002


class ImageDataset(Dataset[tuple[torch.Tensor, int] | str]):
    """Images with their classes; of one that cannot be read, what is wrong with it.

    An error would leave a loader process as the text of its traceback.
    """

    def __init__(self, images: LabeledImages, transform: Transform) -> None:
        self._records, self._target, self._transform = images.records, images.target, transform
        self._min_side = min_side_of(transform)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, int] | str:
        index, seed = draw
        record = self._records[index]
        image = read(record, lambda scaled, _: scaled.to_picture(), min_side=self._min_side, decoder=_WholePixels())
        if image.reason:
            return f"{record.path}: {image.reason}"
        with _seeded(seed):
            return self._transform(image.prepared), int(self._target[index])


class _WholePixels:
    """The default decoder, at full size where the last row or column would stand for less than a whole pixel.

    Library transforms would take parts of a pixel for whole ones, and shift all others.
    """

    name = "whole-pixels"

    def decode(self, data: bytes, min_side: int | None) -> Scaled:
        scaled = decode_bytes(data, min_side)
        return scaled if scaled.extent == scaled.rgb.shape[:2] else decode_bytes(data, None)


def min_side_of(transform: Transform) -> int | None:
    """Shorter side, in pixels, that an image should be decoded at for a preprocessing; None: full size."""
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision.transforms import Resize

    first: Any = transform
    while hasattr(first, "transforms"):
        first = first.transforms[0]
    if isinstance(first, RandomResizedCropAndInterpolation):
        # Its narrowest crop has the smallest area and the longest shape.
        narrow: float = first.scale[0] * min(first.ratio[0], 1 / first.ratio[1])
        longest: int = max(first.size)
        return math.ceil(OVERSAMPLING * longest / math.sqrt(narrow))
    # What begins with regions of an image may take a small one.
    return OVERSAMPLING * int(np.max(first.size)) if isinstance(first, Resize) else None


class EpochSampler(Sampler[Draw]):
    """Places of images with seeds, in an order of each epoch's own.

    Parameters
    ----------
    target : (n,) int
        Class index of each image.
    balanced : bool
        Draw with replacement, so that every class comes as often.
    shuffle : bool
        False: in the images' own order.
    """

    def __init__(self, target: Any, *, balanced: bool, shuffle: bool, seed: int) -> None:
        self._target, self._balanced, self._shuffle, self._seed = target, balanced, shuffle, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose whose epoch's order comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._target)

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(seed_of(self._seed, self._epoch))
        count = len(self._target)
        if self._balanced:
            weights = torch.from_numpy(1.0 / np.bincount(self._target)[self._target])
            order = torch.multinomial(weights, count, replacement=True, generator=generator)
        else:
            order = torch.randperm(count, generator=generator) if self._shuffle else torch.arange(count)
        seeds = torch.randint(2**31, (count,), generator=generator)
        return iter(list(zip(order.tolist(), seeds.tolist(), strict=True)))


def make_loader(
    images: LabeledImages, transform: Transform, settings: HeadSettings, train: bool, *, pin: bool = False
) -> DataLoader[Any]:
    """Batches of (n, 3, h, w) float32 and (n,) int64; a str instead where an image could not be read.

    Parameters
    ----------
    pin : bool
        Keep batches in page-locked memory, from where they go to a GPU while it computes.
    """
    return loader_of(
        ImageDataset(images, transform),
        images,
        settings,
        train,
        collate_fn=_collate,
        num_workers=settings.workers,
        worker_init_fn=_leave_signals_to_the_main_process,
        persistent_workers=settings.workers > 0,
        pin_memory=pin,
    )


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C goes to all processes of a terminal; the main one ends the others, which have nothing to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def loader_of(
    dataset: Dataset[Any], images: LabeledImages, settings: HeadSettings, train: bool, **more: Any
) -> DataLoader[Any]:
    """Batches of what a dataset holds at the images' places, shuffled and balanced by the recipe where they train."""
    size, balanced = settings.schedule.batch_size, train and settings.schedule.balanced_sampling
    sampler = EpochSampler(images.target, balanced=balanced, shuffle=train, seed=settings.seed)
    return DataLoader(
        dataset,
        batch_size=size,
        sampler=sampler,
        # A last batch of one image would break the classifier's batch norm. Of several processes accelerate fills it.
        drop_last=train and process_count() == 1 and len(images) > 1 and len(images) % size == 1,
        # Its own: the loader's draws would move those of dropout, more or less of them by the number of workers.
        generator=torch.Generator().manual_seed(settings.seed),
        **more,
    )


def batches_on(device: str, loader: Iterable[Any]) -> Iterator[Batch]:
    """Bring a loader's batches to the device, images with the channels last, as the networks' weights are.

    Raises
    ------
    DataError
        If an image could not be read.
    """
    for batch in loader:
        if isinstance(batch, str):
            raise gone(batch)
        inputs, target = (tensor.to(device, non_blocking=True) for tensor in batch)
        yield inputs.to(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs, target


def gone(what: str) -> DataError:
    """Make the error for an image that was in the index and can no longer be read."""
    return DataError(
        "a photo can no longer be read",
        got=what,
        fix="run hybrid build-index with the same sources, then hybrid train-head again",
    )


def _collate(items: list[tuple[torch.Tensor, int] | str]) -> Any:
    return next((item for item in items if isinstance(item, str)), None) or default_collate(items)
