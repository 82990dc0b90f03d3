"""The part of benchmarks.throughput that only a GPU makes worth its time.

build-index against the lower of its two ceilings, decoding and the encoder, for two models; how far half precision
moves the embeddings; and training a ConvNeXt-Tiny against a plain loop around timm's. Nothing here needs CUDA to run:
the tests run it small on a CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.throughput import table as names
from benchmarks.throughput.images import MEDIUM, elsewhere
from benchmarks.throughput.ours import HEAD, hybrid_build_index, hybrid_ceiling, load, reader
from benchmarks.throughput.peers import ImageFiles
from benchmarks.throughput.processes import CONSOLE, Setup, Work
from hybrid.config import HeadSettings

if TYPE_CHECKING:
    from benchmarks.throughput.parts import Scene
    from hybrid.heads.base import TrainingSet

# The first epoch starts processes and chooses kernels.
WARM_EPOCHS = 1
COSINE_IMAGES = 512


def cuda(scene: Scene) -> None:
    """All of it."""
    from benchmarks.throughput.parts import row

    images = scene.images("medium", MEDIUM, scene.sizes.build)
    rows = [row(names.DECODE_ALL, hybrid_decode_all, scene.setup(), images)]
    # The large model has time for a quarter of the images.
    for model, files in zip(names.MODELS, (images, images[: max(1, len(images) // 4)]), strict=True):
        setup = scene.setup(model)
        rows.append(row(names.MODEL_BUILD.format(model), hybrid_build_index, setup, files))
        rows.append(row(names.MODEL_CEILING.format(model), hybrid_ceiling, setup, files))
    scene.measure(rows)
    found = elsewhere(cosines, scene.setup(), images[:COSINE_IMAGES])
    scene.figures.others["lowest cosine to fp32"] = min(found)
    scene.figures.others["mean cosine to fp32"] = statistics.fmean(found)
    train(scene, images[: max(8, len(images) // 2)])


def train(scene: Scene, files: Sequence[str]) -> None:
    """Train with both loops in turn, and keep their images per second."""
    passes: dict[str, list[float]] = {names.TRAINING: [], names.PLAIN_TIMM: []}
    for _ in range(scene.sizes.repeats):
        for name, loop in ((names.PLAIN_TIMM, plain_timm), (names.TRAINING, hybrid_training)):
            rates = elsewhere(loop, scene.setup(), tuple(files), WARM_EPOCHS + 1)
            passes[name] += rates[WARM_EPOCHS:]
            CONSOLE.print(f"  {name}: {passes[name][-1]:.4g} photos/s")
    scene.figures.passes |= passes
    scene.figures.rates |= {name: statistics.median(rates) for name, rates in passes.items()}


def cuda_name() -> str | None:
    """The GPU's name and torch's CUDA; None where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def hybrid_decode_all(setup: Setup) -> Work:
    """Read and decode as build-index does, with its number of threads, and nothing else."""
    from hybrid.images.stream import default_workers

    read = reader(setup)

    def one(file: str) -> bool:
        # Kept no longer than this: all images at once would not fit into memory.
        return read(Path(file).read_bytes()) is not None

    def work(files: Sequence[str], option: object) -> None:
        with ThreadPoolExecutor(default_workers()) as pool:
            done = sum(pool.map(one, files))
        if done != len(files):
            raise RuntimeError(f"{done} of {len(files)} photos were read")

    return work


def cosines(setup: Setup, files: Sequence[str]) -> list[float]:
    """Cosine of each image's embedding in the device's own precision to that in fp32."""
    read = reader(setup)
    own, exact = load(setup), load(replace(setup, precision="fp32"))
    found = []
    for start in range(0, len(files), setup.batch):
        prepared = [read(Path(file).read_bytes()) for file in files[start : start + setup.batch]]
        found += (own.encode_images(prepared) * exact.encode_images(prepared)).sum(axis=1).tolist()
    return found


def hybrid_training(setup: Setup, files: Sequence[str], epochs: int) -> list[float]:
    """Images per second of each epoch of `train-head`'s loop, all layers training."""
    from tempfile import TemporaryDirectory

    import hybrid.cli.main  # noqa: F401
    from hybrid.device import resolve
    from hybrid.heads.training.fit import train_backbone_head

    rates: list[float] = []
    with TemporaryDirectory() as log:
        train_backbone_head(
            labeled(setup, files),
            recipe(setup, epochs),
            resolve(setup.device),
            Path(log),
            lambda line: None,
            on_epoch=lambda row: rates.append(row.images_per_second),
        )
    return rates


def plain_timm(setup: Setup, files: Sequence[str], epochs: int) -> list[float]:
    """The same by a plain loop: timm's model and transform, torch's loader, AdamW and mixed precision."""
    import time

    import timm
    import torch
    from torch.utils.data import DataLoader

    from hybrid.device import resolve
    from hybrid.heads.training.train import training_compute

    settings, compute = recipe(setup, epochs), training_compute(recipe(setup, epochs), resolve(setup.device))
    model = timm.create_model(HEAD, num_classes=len(setup.names))
    model = model.to(setup.device).to(memory_format=torch.channels_last).train()
    transform = timm.data.create_transform(
        input_size=(3, settings.model.image_size, settings.model.image_size),
        is_training=True,
        scale=(settings.augment.crop_scale, 1.0),
        hflip=settings.augment.flip,
        color_jitter=settings.augment.color_jitter,
        interpolation="bilinear",
    )
    images: Any = Labeled(files, transform, len(setup.names))
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
    rates = []
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
            total += loss.detach()  # looked at once an epoch, as ours is
        total.item()
        rates.append(len(files) / (time.perf_counter() - start))
    return rates


class Labeled(ImageFiles):
    """Files with classes in turn."""

    def __init__(self, files: Sequence[str], transform: Any, classes: int) -> None:
        super().__init__(files, transform)
        self._classes = classes

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index), index % self._classes


def recipe(setup: Setup, epochs: int) -> HeadSettings:
    """The recipe of both loops: all of a ConvNeXt-Tiny of random weights, the default augmentation."""
    return HeadSettings(
        backbone=HEAD,
        pretrained=False,
        unfreeze="all",
        epochs=epochs,
        patience=epochs,
        batch_size=max(2, setup.batch // 2),
        workers=setup.workers,
        balanced_sampling=False,
    )


def labeled(setup: Setup, files: Sequence[str]) -> TrainingSet:
    """The files with classes in turn; a batch of them validates too."""
    import numpy as np

    from hybrid.heads.base import LabeledImages, TrainingSet
    from hybrid.images.sources import scan

    wanted = frozenset(files)
    records = [one for one in scan([Path(files[0]).parent], labeled=False).records if one.path in wanted]
    target = np.arange(len(records)) % len(setup.names)
    images = LabeledImages(
        tuple(records), tuple(one.path for one in records), target, np.empty((len(records), 0), dtype=np.float32)
    )
    return TrainingSet(setup.names, images, images.take(range(min(len(images), setup.batch))), ())
