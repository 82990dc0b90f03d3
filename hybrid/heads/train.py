"""The training loop: class-balanced, mixed precision, early stopping, best epoch kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler, default_collate

from hybrid.config import HeadSettings
from hybrid.data.decode import read_and_decode
from hybrid.device import Compute
from hybrid.errors import DataError, HeadError, UnreadableImageError
from hybrid.heads.backbone import PhotoClassifier, Transform
from hybrid.heads.base import LabelledPhotos, TrainingSet


@dataclass(frozen=True)
class EpochLog:
    """One row of the training log; losses are mean cross-entropies in nats, the training one smoothed."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float


class _Photos(Dataset[tuple[torch.Tensor, int] | str]):
    """Photos with their classes; of one that cannot be read, what is wrong with it.

    An error would leave a loader process as the text of its traceback.
    """

    def __init__(self, photos: LabelledPhotos, transform: Transform) -> None:
        self._records, self._target, self._transform = photos.records, photos.target, transform

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int] | str:
        record = self._records[index]
        try:
            return self._transform(read_and_decode(record)), int(self._target[index])
        except UnreadableImageError as error:
            return f"{record.path}: {error.what}"


def _collate(items: list[tuple[torch.Tensor, int] | str]) -> Any:
    return next((item for item in items if isinstance(item, str)), None) or default_collate(items)


def training_compute(settings: HeadSettings, compute: Compute) -> Compute:
    """Apply ``mixed_precision`` to the device's own choice (fp16 on CUDA, bf16 where native, else fp32)."""
    chosen = {"off": "fp32"}.get(settings.mixed_precision, settings.mixed_precision)
    if chosen == "auto":
        return compute
    if chosen == "fp16" and not compute.is_cuda:
        raise HeadError("fp16 training needs CUDA", fix="--set mixed_precision=bf16 or off")
    return Compute(compute.device, chosen, f"mixed_precision={settings.mixed_precision} asked for")


def train(
    model: PhotoClassifier,
    data: TrainingSet,
    transforms: tuple[Transform, Transform],
    settings: HeadSettings,
    compute: Compute,
    on_epoch: Callable[[EpochLog, bool], None],
) -> tuple[PhotoClassifier, int]:
    """Train until the epochs or the patience end, and put the best epoch's weights back.

    Parameters
    ----------
    transforms : (augmenting, plain)
    compute : Compute
        From `training_compute`.
    on_epoch : callable
        Gets each epoch's row, and whether it is the best so far.

    Returns
    -------
    model, best_epoch

    Raises
    ------
    HeadError
        If the training loss stops being finite (says epoch, batch and learning rate), or the validation loss never
        is.
    DataError
        If a photo can no longer be read.
    """
    torch.manual_seed(settings.seed)
    model = model.to(compute.device).to(memory_format=torch.channels_last)
    loop = _Loop(model, settings, compute, len(data.classes))
    train_loader = _loader(data.train, transforms[0], settings, train=True)
    val_loader = _loader(data.val, transforms[1], settings, train=False)
    schedule = _schedule(loop.optimizer, settings, len(train_loader))
    best = _Best(settings)
    for epoch in range(1, settings.epochs + 1):
        row = loop.epoch(epoch, train_loader, val_loader, schedule)
        on_epoch(row, best.offer(row, model))
        if epoch - best.epoch >= settings.patience:
            break
    best.restore(model)
    return model.eval(), best.epoch


class _Best:
    """The best epoch so far and its weights."""

    def __init__(self, settings: HeadSettings) -> None:
        self.epoch = 0
        self._settings = settings
        self._score = math.inf
        self._state: dict[str, torch.Tensor] = {}

    def offer(self, row: EpochLog, model: PhotoClassifier) -> bool:
        """Keep the model's weights if the epoch is the best so far; says whether it is."""
        score = row.val_loss if self._settings.monitor == "loss" else -row.val_accuracy
        # Weights that overflowed in the last update can still be right by accident.
        if not math.isfinite(row.val_loss) or score >= self._score:
            return False
        self._score, self.epoch = score, row.epoch
        self._state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        return True

    def restore(self, model: PhotoClassifier) -> None:
        """Put the best epoch's weights back."""
        if not self._state:
            raise HeadError(
                "the validation loss was not finite in any epoch",
                got=f"learning rate {self._settings.learning_rate:.2g}",
                fix="lower --set learning_rate=..., or --set mixed_precision=off",
            )
        model.load_state_dict(self._state)


class _Loop:
    """Model, loss and optimiser of one training."""

    def __init__(self, model: PhotoClassifier, settings: HeadSettings, compute: Compute, classes: int) -> None:
        self.model, self.compute = model, compute
        self.optimizer = _optimizer(model, settings)
        # fp16 gradients underflow without scaling; bf16 has the range of fp32.
        self.scaler = torch.amp.GradScaler(compute.device.split(":")[0], enabled=compute.precision == "fp16")
        self.loss = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)

    def epoch(self, number: int, train_set: DataLoader[Any], val_set: DataLoader[Any], schedule: Any) -> EpochLog:
        """Train one epoch, validate, and say how it went."""
        start = time.perf_counter()
        train_loss, train_accuracy, photos = self.train_epoch(train_set, schedule, number)
        seconds = time.perf_counter() - start
        val_loss, val_accuracy = self.validate(val_set)
        return EpochLog(
            epoch=number,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            seconds=seconds,
            images_per_second=photos / seconds,
        )

    def batches(self, loader: DataLoader[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches on the device."""
        for batch in loader:
            if isinstance(batch, str):
                raise DataError(
                    "a photo can no longer be read",
                    got=batch,
                    fix="run hybrid build-index with the same sources, then hybrid train-head again",
                )
            images, target = batch
            yield (
                images.to(self.compute.device, non_blocking=True),
                target.to(self.compute.device, non_blocking=True),
            )

    def train_epoch(self, loader: DataLoader[Any], schedule: Any, epoch: int) -> tuple[float, float, int]:
        """One pass; mean smoothed loss, accuracy, and the number of photos."""
        self.model.train()
        total, right, count = 0.0, 0, 0
        for number, (images, target) in enumerate(self.batches(loader), start=1):
            with self.compute.autocast():
                logits = self.model(images)
                loss = self.loss(logits.float(), target)
            if not torch.isfinite(loss):
                raise HeadError(
                    f"the training loss is {loss.item()}",
                    got=f"epoch {epoch}, batch {number}, learning rate {self.optimizer.param_groups[0]['lr']:.2g}",
                    fix="lower --set learning_rate=..., or --set mixed_precision=off",
                )
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if schedule is not None:
                schedule.step_update((epoch - 1) * len(loader) + number)
            total += loss.item() * len(target)
            right += int((logits.argmax(1) == target).sum())
            count += len(target)
        return total / count, right / count, count

    @torch.inference_mode()
    def validate(self, loader: DataLoader[Any]) -> tuple[float, float]:
        """Mean unsmoothed cross-entropy and mean per-class accuracy."""
        self.model.eval()
        losses, right, targets = [], [], []
        for images, target in self.batches(loader):
            with self.compute.autocast():
                logits = self.model(images).float()
            losses.append(nn.functional.cross_entropy(logits, target, reduction="none").cpu())
            right.append((logits.argmax(1) == target).cpu())
            targets.append(target.cpu())
        hits, labels = torch.cat(right).double().numpy(), torch.cat(targets).numpy()
        per_class = np.bincount(labels, hits) / np.maximum(np.bincount(labels), 1)
        return float(torch.cat(losses).mean()), float(per_class[np.unique(labels)].mean())


def _loader(photos: LabelledPhotos, transform: Transform, settings: HeadSettings, train: bool) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(settings.seed)
    sampler = None
    if train and settings.balanced_sampling:
        weights = 1.0 / np.bincount(photos.target)[photos.target]
        sampler = WeightedRandomSampler(weights.tolist(), len(photos), generator=generator)
    return DataLoader(
        _Photos(photos, transform),
        batch_size=settings.batch_size,
        sampler=sampler,
        shuffle=train and sampler is None,
        # A last batch of one photo would break the classifier's batch norm.
        drop_last=train and len(photos) % settings.batch_size == 1,
        collate_fn=_collate,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=generator,
    )


def _optimizer(model: PhotoClassifier, settings: HeadSettings) -> torch.optim.Optimizer:
    """AdamW; norms and biases without weight decay, the backbone at its own rate."""
    groups = []
    for part, scale in ((model.classifier, 1.0), (model.backbone, settings.backbone_rate)):
        trained = [p for p in part.parameters() if p.requires_grad]
        for decay, chosen in (
            (settings.weight_decay, [p for p in trained if p.ndim > 1]),
            (0.0, [p for p in trained if p.ndim <= 1]),
        ):
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "lr": settings.learning_rate * scale})
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _schedule(optimizer: torch.optim.Optimizer, settings: HeadSettings, updates: int) -> Any:
    if settings.schedule == "none":
        return None
    from timm.scheduler import CosineLRScheduler

    warmup = min(settings.warmup_epochs, settings.epochs - 1) * updates
    return CosineLRScheduler(
        optimizer,
        t_initial=settings.epochs * updates,
        warmup_t=warmup,
        warmup_lr_init=settings.learning_rate * 0.01 if warmup else 0.0,
        warmup_prefix=False,
        t_in_epochs=False,
    )
