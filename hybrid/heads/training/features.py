"""Features of a frozen backbone: the same in every epoch, so they are computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from hybrid.config import HeadSettings
from hybrid.device import Compute, to_device
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.nets.backbone import ImageClassifier
from hybrid.heads.training.decoded import plain_batches
from hybrid.heads.training.distributed import process_count
from hybrid.heads.training.loader import Batch, Draw, batches_on, loader_of
from hybrid.heads.training.stages import is_progressive
from hybrid.heads.transforms import Transform

# Features of more bytes than this are not kept; 700,000 images of ConvNeXt-Tiny's 768 numbers are as many.
MOST_BYTES = 2 * 2**30


class FrozenFeatures(Dataset[Batch]):
    """Pooled features of images and their classes, by the images' places; computed when they are first asked for.

    Parameters
    ----------
    model : ImageClassifier
        On the device of `compute`; its backbone `is_steady`.
    transform : Transform
        The plain one.
    on_images : callable
        Gets the number of images whose features are computed, after every batch.
    """

    def __init__(
        self,
        model: ImageClassifier,
        images: LabeledImages,
        transform: Transform,
        settings: HeadSettings,
        compute: Compute,
        say: Callable[[str], None],
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._on_images = on_images
        self._model, self._images, self._transform = model, images, transform
        self._settings, self._compute, self._say = settings, compute, say

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """A whole batch at once: (n, features) in the precision that the classifier would get, and (n,) int64."""
        features, target = self._rows
        rows = to_device(torch.tensor([index for index, _ in draws]), target.device)
        return features[rows], target[rows]

    @cached_property
    def _rows(self) -> Batch:
        self._say(f"the backbone is frozen: features of {len(self)} photos are computed once")
        # In the images' order: cut into the same batches they are the same bits again when a killed training goes on.
        loader = plain_batches(self._images, self._transform, self._settings, self._compute)
        features, targets = [], []
        done = 0
        backbone = self._model.backbone.eval()
        for images, target in batches_on(self._compute.device, loader):
            with torch.no_grad(), self._compute.autocast():
                features.append(backbone(images))
            targets.append(target)
            done += len(target)
            self._on_images(done)
        return torch.cat(features), torch.cat(targets)

    def loader(self, train: bool) -> DataLoader[Any]:
        """Batches of features, in the order in which `make_loader` would give the images."""
        return loader_of(self, self._images, self._settings, train, collate_fn=lambda batch: batch)


def parts_to_keep(
    model: ImageClassifier, data: TrainingSet, settings: HeadSettings, compute: Compute, *, augmented: bool
) -> tuple[bool, bool]:
    """Whether the features of the training and of the validation images can be kept without changing a figure.

    Parameters
    ----------
    augmented : bool
        Whether the training images differ from epoch to epoch.
    """
    # Several processes share out images, and an autoencoder's error needs them.
    if process_count() > 1 or settings.optim.reconstruction or not is_steady(model, settings, compute):
        return False, False
    size = 4 * int(model.backbone.head_hidden_size)
    val, train = size * len(data.val), size * len(data.train)
    mixed = settings.augment.mixup or settings.augment.cutmix
    return not augmented and not mixed and train + val <= MOST_BYTES, val <= MOST_BYTES


def is_steady(model: ImageClassifier, settings: HeadSettings, compute: Compute) -> bool:
    """Whether an image's features stay the same for the whole training.

    They do if no weight of the backbone trains, now or later, and its forward pass in training draws nothing at random
    (dropout, stochastic depth), gathers no statistics (batch norm) and gives what it gives in use. The last three are
    asked of the backbone itself, with two pictures of noise, so that no kind of layer has to be known here.

    Parameters
    ----------
    model : ImageClassifier
        On the device of `compute`; neither its weights and statistics nor the generators are changed.
    """
    if is_progressive(settings.model) or any(p.requires_grad for p in model.backbone.parameters()):
        return False
    device = torch.device(compute.device)
    noise = torch.rand(
        2, 3, settings.model.image_size, settings.model.image_size, generator=torch.Generator().manual_seed(0)
    )
    images = noise.to(device).to(memory_format=torch.channels_last)
    buffers = {name: buffer.clone() for name, buffer in model.backbone.named_buffers()}
    drawn = _generator_states(device)
    with torch.no_grad(), compute.autocast():
        expected = model.eval().backbone(images).float()
        trained = model.train().backbone(images).float()
    draws = any(not torch.equal(a, b) for a, b in zip(drawn, _generator_states(device), strict=True))
    gathers = any(not torch.equal(buffer, buffers[name]) for name, buffer in model.backbone.named_buffers())
    torch.set_rng_state(drawn[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(drawn[1], device)
    for name, buffer in model.backbone.named_buffers():
        buffer.copy_(buffers[name])
    return not draws and not gathers and torch.allclose(trained, expected, rtol=1e-3, atol=1e-5)


def _generator_states(device: torch.device) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
