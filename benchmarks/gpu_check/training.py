"""Training all of a network of timm: the product's loop against a plain one around timm's, at the same precision.

Both get the same recipe, so that their losses can be compared: which of two photographs a crop is from.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_check import names
from benchmarks.gpu_check.report import PHOTOS, Report
from benchmarks.throughput.images import MEDIUM, ORIGINALS, elsewhere, original
from benchmarks.throughput.peers import ImageFiles
from benchmarks.throughput.processes import Setup
from hybrid.config import HeadSettings

if TYPE_CHECKING:
    from hybrid.heads.base import TrainingSet

# The first epoch starts processes, chooses kernels and fills caches; its loss is that of no training.
WARM_EPOCHS = 1
# Nats within which two runs of the same loop differ, at least; more where they did.
NOISE, RATE = 0.03, 2e-4


@dataclass(frozen=True)
class Epoch:
    """Images per second, and the mean training loss in nats."""

    rate: float
    loss: float


def train(report: Report, setup: Setup, files: Sequence[str], epochs: int, seeds: int) -> None:
    """Train by the plain loop and by ours with each seed, each in a process of its own.

    Parameters
    ----------
    setup : Setup
        Its model is timm's name of the network.
    """
    kept: dict[str, list[list[Epoch]]] = {names.TIMM: [], names.TRAIN: []}
    seconds: dict[str, list[float]] = {name: [] for name in kept}
    for seed in range(seeds):
        for name, loop in ((names.TIMM, plain_timm), (names.TRAIN, hybrid_training)):
            start = time.perf_counter()
            kept[name].append(elsewhere(loop, setup, tuple(files), epochs, seed))
            seconds[name].append(time.perf_counter() - start)
            rates = [epoch.rate for run in kept[name] for epoch in run[WARM_EPOCHS:]]
            report.figure(name, statistics.median(rates), PHOTOS, rates)
    for number in range(epochs):
        for name, title in ((names.LOSS_TIMM, names.TIMM), (names.LOSS, names.TRAIN)):
            losses = [run[number].loss for run in kept[title]]
            report.figure(name.format(number + 1), statistics.fmean(losses), "nats", losses)
    for name, taken in seconds.items():
        report.figure(f"{name}, {epochs} epochs with the start", min(taken), "s", taken)
    plain, ours = (
        [statistics.fmean(epoch.loss for epoch in run[WARM_EPOCHS:]) for run in kept[name]]
        for name in (names.TIMM, names.TRAIN)
    )
    report.figure(names.LOSS_GAP, abs(statistics.fmean(plain) - statistics.fmean(ours)), "nats")
    report.figure(names.LOSS_NOISE, max(NOISE, *(max(one) - min(one) for one in (plain, ours))), "nats")


def hybrid_training(setup: Setup, files: Sequence[str], epochs: int, seed: int) -> list[Epoch]:
    """Each epoch of `train-head`'s loop."""
    from tempfile import TemporaryDirectory

    import hybrid.cli.main  # noqa: F401
    from hybrid.device import resolve
    from hybrid.heads.training.fit import train_backbone_head

    found: list[Epoch] = []
    with TemporaryDirectory() as log:
        train_backbone_head(
            labeled(setup, files),
            recipe(setup, epochs, seed),
            resolve(setup.device),
            Path(log),
            lambda line: None,
            on_epoch=lambda row: found.append(Epoch(row.images_per_second, row.train_loss)),
        )
    return found


def plain_timm(setup: Setup, files: Sequence[str], epochs: int, seed: int) -> list[Epoch]:
    """The same by a plain loop: timm's model and transform, torch's loader, AdamW and mixed precision."""
    import timm
    import torch
    from torch.utils.data import DataLoader

    from hybrid.device import resolve
    from hybrid.heads.training.train import training_compute

    settings = recipe(setup, epochs, seed)
    compute = training_compute(settings, resolve(setup.device))
    torch.manual_seed(seed)
    model = timm.create_model(setup.model, num_classes=len(ORIGINALS))
    model = model.to(setup.device).to(memory_format=torch.channels_last).train()
    transform = timm.data.create_transform(
        input_size=(3, settings.model.image_size, settings.model.image_size),
        is_training=True,
        scale=(settings.augment.crop_scale, 1.0),
        hflip=settings.augment.flip,
        color_jitter=settings.augment.color_jitter,
        interpolation="bilinear",
    )
    images: Any = Labeled(files, transform)
    loader = DataLoader(
        images,
        batch_size=settings.schedule.batch_size,
        shuffle=True,
        num_workers=settings.workers,
        pin_memory=compute.is_cuda,
        persistent_workers=settings.workers > 0,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.optim.learning_rate, weight_decay=settings.optim.weight_decay
    )
    scaler = torch.amp.GradScaler(setup.device, enabled=compute.precision == "fp16")
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=settings.optim.label_smoothing)
    found = []
    for _ in range(epochs):
        start, total = time.perf_counter(), torch.zeros((), device=setup.device)
        for pictures, target in loader:
            pictures = pictures.to(setup.device, memory_format=torch.channels_last, non_blocking=True)
            target = target.to(setup.device, non_blocking=True)
            optimizer.zero_grad(set_to_none=True)
            with compute.autocast():
                loss = criterion(model(pictures), target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach() * len(target)  # looked at once an epoch, as ours is
        loss_of_epoch = total.item() / len(files)
        found.append(Epoch(len(files) / (time.perf_counter() - start), loss_of_epoch))
    return found


class Labeled(ImageFiles):
    """Files with their classes."""

    def __init__(self, files: Sequence[str], transform: Any) -> None:
        super().__init__(files, transform)
        self._targets = [target_of(file) for file in files]

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index), self._targets[index]


def target_of(file: str) -> int:
    """Class of a file of `write_images`, whose name is its number."""
    return original(MEDIUM, int(Path(file).stem))


def recipe(setup: Setup, epochs: int, seed: int) -> HeadSettings:
    """The recipe of both loops, which is what the plain one can do: one rate, no rotation, no hidden layer."""
    return HeadSettings(
        backbone=setup.model,
        pretrained=False,
        unfreeze="all",
        hidden=0,
        dropout=(0.0, 0.0),
        learning_rate=RATE,
        backbone_rate=1.0,
        schedule="none",
        warmup_epochs=0,
        rotation=0.0,
        seed=seed,
        epochs=epochs,
        patience=epochs,
        batch_size=max(2, setup.batch // 2),
        workers=setup.workers,
        balanced_sampling=False,
    )


def labeled(setup: Setup, files: Sequence[str]) -> TrainingSet:
    """The files with their classes; a batch of them validates too."""
    import numpy as np

    from hybrid.heads.base import LabeledImages, TrainingSet
    from hybrid.images.sources import scan

    wanted = frozenset(files)
    records = [one for one in scan([Path(files[0]).parent], labeled=False).records if one.path in wanted]
    target = np.array([target_of(one.path) for one in records], dtype=np.intp)
    images = LabeledImages(
        tuple(records), tuple(one.path for one in records), target, np.empty((len(records), 0), dtype=np.float32)
    )
    return TrainingSet(ORIGINALS, images, images.take(range(min(len(images), setup.batch))), ())
