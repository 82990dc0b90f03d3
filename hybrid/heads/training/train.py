"""The training loop, on accelerate: mixed precision, several GPUs, early stopping, best epoch kept, resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.errors import HeadError, first_line
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.nets.backbone import ImageClassifier
from hybrid.heads.training.checkpoint import Checkpoint, training_key
from hybrid.heads.training.compiled import Compiled
from hybrid.heads.training.decoded import DecodedImages, keeps_in_memory, made_ahead, view_of
from hybrid.heads.training.distributed import Processes, process_count
from hybrid.heads.training.features import FrozenFeatures, parts_to_keep
from hybrid.heads.training.loader import Batch, batches_on, make_loader, seed_of
from hybrid.heads.training.optim import Schedule, make_optimizer
from hybrid.heads.training.progress import OnStep, Phase, Step, show_nothing
from hybrid.heads.training.stages import freeze, fully_unfrozen_epoch, is_progressive, unfrozen_at
from hybrid.heads.transforms import Transform

Say = Callable[[str], None]
# Batches between two looks at the losses: a look makes the CPU wait until the GPU has done all that it was given.
LOOK_EVERY = 50


@dataclass(frozen=True)
class EpochLog:
    """One row of the training log; losses are mean cross-entropies in nats, the training one as it is minimized."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float


OnEpoch = Callable[[EpochLog, bool], None]


def training_compute(settings: HeadSettings, compute: Compute) -> Compute:
    """Apply ``mixed_precision`` to the device's own choice (fp16 on CUDA, bf16 where native, else fp32)."""
    chosen = {"off": "fp32"}.get(settings.mixed_precision, settings.mixed_precision)
    if chosen == "auto":
        return compute
    if chosen == "fp16" and not compute.is_cuda:
        raise HeadError("fp16 training needs CUDA", fix="--set mixed_precision=bf16 or off")
    return Compute(compute.device, chosen, f"mixed_precision={settings.mixed_precision} asked for")


def train(
    model: ImageClassifier,
    data: TrainingSet,
    transforms: tuple[Transform, Transform],
    settings: HeadSettings,
    compute: Compute,
    on_epoch: OnEpoch,
    *,
    checkpoints: Path | None = None,
    say: Say = lambda line: None,
    on_step: OnStep = show_nothing,
) -> tuple[ImageClassifier, int]:
    """Train until the epochs or the patience end, and put the best epoch's weights back.

    Parameters
    ----------
    transforms : (augmenting, plain)
        The same one twice trains without augmentation; a backbone that is wholly frozen then sees each image once.
    compute : Compute
        From `training_compute`.
    on_epoch, on_step : callable
        Get each epoch's row, and whether it is the best so far, the rows of a checkpoint first; and each batch. What
        they raise ends the training.
    checkpoints : Path, optional
        Folder that keeps the last finished epoch; a killed training goes on from there.

    Returns
    -------
    model, best_epoch

    Raises
    ------
    HeadError
        If the training loss stops being finite (says epoch, batch and learning rate), or the validation loss never
        is.
    DataError
        If an image can no longer be read.
    """
    loop = _Loop(model, data, transforms, settings, compute, say, on_step)
    checkpoint = Checkpoint(checkpoints, training_key(data, settings, compute, in_memory=loop.in_memory))
    rows = loop.resume(checkpoint.load(say))
    for row in rows:
        on_epoch(row, row.epoch == loop.best.epoch)
    if rows:
        say(f"going on after epoch {rows[-1].epoch} of the checkpoint in {checkpoints}")
    # Patience counts the epochs in which all that may train did.
    since = fully_unfrozen_epoch(model, settings.model) - 1
    for epoch in range(len(rows) + 1, settings.schedule.epochs + 1):
        if rows and epoch - 1 - max(loop.best.epoch, since) >= settings.patience:
            break
        row = _in_memory(loop, epoch)
        rows.append(row)
        best = loop.best.offer(row, loop.kept())
        if loop.processes.is_main:
            checkpoint.save(loop.state(rows))
        on_epoch(row, best)
    loop.end()
    loop.best.restore(loop.model)
    return model.eval(), loop.best.epoch


def _in_memory(loop: _Loop, epoch: int) -> EpochLog:
    try:
        return loop.epoch(epoch)
    except torch.cuda.OutOfMemoryError as error:
        raise HeadError(
            "the GPU's memory is too small for this recipe",
            got=first_line(error),
            fix="lower --batch-size or --set image_size=..., or --set loading=processes",
        ) from error


class _Tally:
    """Losses and right answers of an epoch's batches; they stay on the device until they are looked at."""

    def __init__(self, epoch: int) -> None:
        self._epoch, self._seen = epoch, 0
        self.images, self._looked = 0, 0.0
        self._losses: list[torch.Tensor] = []
        self._right: list[torch.Tensor] = []
        self._images: list[int] = []
        self._rates: list[float] = []

    def add(self, loss: torch.Tensor, right: torch.Tensor, rate: float) -> None:
        """Note a batch: its loss, which of its images are right, (n,) bool, and the learning rate."""
        self._losses.append(loss.detach())
        self._right.append(right.sum())
        self._images.append(len(right))
        self.images += len(right)
        self._rates.append(rate)

    def look(self) -> None:
        """Raise HeadError for the first batch since the last look whose loss is not finite."""
        for loss in torch.stack(self._losses[self._seen :]).tolist():
            if not math.isfinite(loss):
                raise HeadError(
                    f"the training loss is {loss}",
                    got=f"epoch {self._epoch}, batch {self._seen + 1}, learning rate {self._rates[self._seen]:.2g}",
                    fix="lower --set learning_rate=..., or --set mixed_precision=off",
                )
            self._seen += 1
            self._looked += loss

    @property
    def mean(self) -> float | None:
        """Mean over the batches that were looked at."""
        return self._looked / self._seen if self._seen else None

    def sums(self) -> list[float]:
        """Sums over the images: losses, right answers, and how many images there were."""
        if self._seen < len(self._losses):
            self.look()
        losses = torch.stack(self._losses).tolist()
        total = sum(loss * images for loss, images in zip(losses, self._images, strict=True))
        return [total, float(torch.stack(self._right).sum()), float(sum(self._images))]


class _Best:
    """The best epoch so far and its weights."""

    def __init__(self, settings: HeadSettings) -> None:
        self.epoch = 0
        self.score = math.inf
        self.weights: dict[str, torch.Tensor] = {}
        self._settings = settings

    def offer(self, row: EpochLog, model: nn.Module) -> bool:
        """Keep the model's weights if the epoch is the best so far; says whether it is."""
        score = row.val_loss if self._settings.monitor == "loss" else -row.val_accuracy
        # Weights that overflowed in the last update can still be right by accident.
        if not math.isfinite(row.val_loss) or score >= self.score:
            return False
        self.score, self.epoch = score, row.epoch
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        return True

    def restore(self, model: nn.Module) -> None:
        """Put the best epoch's weights back."""
        if not self.weights:
            raise HeadError(
                "the validation loss was not finite in any epoch",
                got=f"learning rate {self._settings.optim.learning_rate:.2g}",
                fix="lower --set learning_rate=..., or --set mixed_precision=off",
            )
        model.load_state_dict(self.weights)


class _Loop:
    """Network, loss, optimizer, schedule and loaders of one training.

    ``model`` is what the training changes: the network, or its classifier alone where the backbone's features stay as
    they are. The validation images then pass the backbone once, and so do training images that nothing augments.
    """

    def __init__(
        self,
        model: ImageClassifier,
        data: TrainingSet,
        transforms: tuple[Transform, Transform],
        settings: HeadSettings,
        compute: Compute,
        say: Say = lambda line: None,
        on_step: OnStep = show_nothing,
    ) -> None:
        self.settings, self.compute, self.best = settings, compute, _Best(settings)
        self._on_step, self._epoch, self._sizes = on_step, 1, {"training": len(data.train), "validating": len(data.val)}
        model = model.to(compute.device).to(memory_format=torch.channels_last)
        progressive = is_progressive(settings.model)
        # An autoencoder's decoder has no part in a loss without reconstruction.
        idle = hasattr(model.backbone, "reconstruction_loss") and not settings.optim.reconstruction
        self.processes = Processes(compute, find_unused=progressive or idle)
        self.optimizer = self.processes.optimizer(make_optimizer(model, settings.optim))
        train_kept, val_kept = parts_to_keep(model, data, settings, compute, augmented=transforms[0] != transforms[1])
        self.network, self.model = model, model.classifier if val_kept else model
        self.average = _average(self.model, settings.ema_decay)
        self.wrapped = self.processes.model(model.classifier if train_kept else model)

        self.in_memory = not train_kept and keeps_in_memory(transforms[0], settings, compute)

        def loader(part: LabeledImages, transform: Transform, kept: bool, train: bool) -> Any:
            if kept:
                on_features = partial(self._tell, "features", total=len(part))
                return FrozenFeatures(model, part, transform, settings, compute, say, on_features).loader(train)
            view = view_of(transform, compute) if self.in_memory else None
            if view is None:
                return make_loader(part, transform, settings, train, pin=compute.is_cuda)
            on_decoded = partial(self._tell, "decoding", total=len(part))
            what = f"{'training' if train else 'validation'} on {compute.device}"
            return DecodedImages(part, view, settings, compute, say, what, on_decoded).loader(train)

        self.train_set = self.processes.loader(loader(data.train, transforms[0], train_kept, train=True))
        self.val_set = self.processes.loader(loader(data.val, transforms[1], val_kept, train=False))
        self.schedule = Schedule(self.optimizer, settings.schedule, len(self.train_set))
        self.mix, self.loss = _loss(settings, len(data.classes))
        self.compiled = _compiled(model, settings, say) if settings.compile and not train_kept else None

    def _tell(self, phase: Phase, images: int, loss: float | None = None, total: int | None = None) -> None:
        """Tell how many of a phase's images this process has done; of several processes each does its share."""
        expected = total or -(-self._sizes[phase] // process_count())
        done = min(images, expected)
        self._on_step(Step(phase, self._epoch, self.settings.schedule.epochs, done, expected, loss))

    def end(self) -> None:
        """Undo what only the training needs of the network."""
        if self.compiled is not None:
            self.compiled.end()
        self.processes.end()

    def kept(self) -> nn.Module:
        """The network that is validated and kept: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    def state(self, rows: list[EpochLog]) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {
            "rows": [asdict(row) for row in rows],
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.processes.scaler_state(),
            "best": {"epoch": self.best.epoch, "score": self.best.score, "weights": self.best.weights},
        }

    def resume(self, state: dict[str, Any] | None) -> list[EpochLog]:
        """Take up a checkpoint; gives the rows of its epochs."""
        if state is None:
            return []
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.processes.load_scaler_state(state["scaler"])
        best = state["best"]
        self.best.epoch, self.best.score, self.best.weights = best["epoch"], best["score"], best["weights"]
        return [EpochLog(**row) for row in state["rows"]]

    def epoch(self, number: int) -> EpochLog:
        """Train one epoch, validate, and say how it went."""
        self._epoch = number
        if is_progressive(self.settings.model):
            freeze(self.network, unfrozen_at(number, self.network, self.settings.model))
        # Dropout draws from here; seeded by epoch, so that a resumed training draws the same.
        torch.manual_seed(seed_of(self.settings.seed, number, self.processes.index))
        self.train_set.set_epoch(number)
        start = time.perf_counter()
        train_loss, train_accuracy, images = self.train_epoch(number)
        seconds = time.perf_counter() - start
        rate = float(self.optimizer.param_groups[0]["lr"])
        # All processes validate, and keep, one network.
        self.processes.share_buffers(self.model)
        self.processes.share_buffers(self.kept())
        val_loss, val_accuracy = self.validate()
        self.schedule.after_epoch(val_loss)
        return EpochLog(
            number, train_loss, train_accuracy, val_loss, val_accuracy, rate, seconds, images / max(seconds, 1e-9)
        )

    def train_epoch(self, epoch: int) -> tuple[float, float, int]:
        """One pass; mean loss, accuracy (by the larger share of a mixed pair), and the number of images."""
        self.wrapped.train()
        tally = _Tally(epoch)
        # A CPU has each loss at once, so that it can be looked at before it spoils a weight.
        every = 1 if self.compute.device == "cpu" else LOOK_EVERY
        for number, (images, target) in enumerate(self.batches(self.train_set), start=1):
            if self.mix is not None:
                # timm mixes even batches only, and draws from numpy's global generator.
                images, target = images[: len(images) // 2 * 2], target[: len(target) // 2 * 2]
                np.random.seed(seed_of(self.settings.seed, epoch, number, self.processes.index))  # noqa: NPY002
                images, target = self.mix(images, target)
            logits, loss = self.forward(images, target)
            truth = target.argmax(1) if target.ndim > 1 else target
            tally.add(loss, logits.argmax(1) == truth, float(self.optimizer.param_groups[0]["lr"]))
            if number % every == 0:
                tally.look()
            self.update(loss, epoch, number)
            self._tell("training", tally.images, tally.mean)
        total, right, count = self.processes.sum(tally.sums())
        return total / count, right / count, int(count)

    def batches(self, loader: Any) -> Iterator[Batch]:
        """A loader's batches on the device."""
        images = getattr(loader, "dataset", None)
        waits = isinstance(images, DecodedImages) and images.waits
        return batches_on(self.compute.device, made_ahead(loader) if waits else loader)

    def forward(self, images: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and the loss that is minimized."""
        if not self.settings.optim.reconstruction:
            logits = self.wrapped(images).float()
            return logits, self.loss(logits, target)
        logits, rebuilt = self.wrapped(images, reconstruct=True)
        return logits, self.loss(logits.float(), target) + self.settings.optim.reconstruction * rebuilt.float()

    def update(self, loss: torch.Tensor, epoch: int, number: int) -> None:
        """One step of optimizer, schedule and moving average."""
        self.optimizer.zero_grad(set_to_none=True)
        self.processes.backward(loss)
        if self.settings.optim.clip_grad is not None:
            self.processes.clip(self.model, self.settings.optim.clip_grad)
        self.optimizer.step()
        self.schedule.after_update(epoch, number)
        if self.average is not None:
            self.average.update(self.model, step=(epoch - 1) * len(self.train_set) + number)

    @torch.inference_mode()
    def validate(self) -> tuple[float, float]:
        """Mean unsmoothed cross-entropy and mean per-class accuracy of the network that is kept."""
        model = self.kept().eval()
        losses: list[torch.Tensor] = []
        right: list[torch.Tensor] = []
        targets: list[torch.Tensor] = []
        done = 0
        for images, target in self.batches(self.val_set):
            with self.compute.autocast():
                logits = model(images).float()
            loss = nn.functional.cross_entropy(logits, target, reduction="none")
            parts = self.processes.gather([loss, logits.argmax(1) == target, target])
            for gathered, part in zip((losses, right, targets), parts, strict=True):
                gathered.append(part)
            done += len(target)
            self._tell("validating", done)
        # Fetched from the device once: each fetch waits for all that was asked of it.
        hits, labels = torch.cat(right).cpu().double().numpy(), torch.cat(targets).cpu().numpy()
        per_class = np.bincount(labels, hits) / np.maximum(np.bincount(labels), 1)
        return float(torch.cat(losses).cpu().mean()), float(per_class[np.unique(labels)].mean())


def _compiled(model: ImageClassifier, settings: HeadSettings, say: Say) -> Compiled:
    say("the backbone is compiled by torch.compile: the first batch takes a minute or more")
    size, mixes = settings.schedule.batch_size, settings.augment.mixup or settings.augment.cutmix
    return Compiled(model.backbone, size // 2 * 2 if mixes else size)  # timm mixes even batches


def _average(model: nn.Module, ema_decay: float | None) -> Any:
    if ema_decay is None:
        return None
    from timm.utils import ModelEmaV3

    # Warm-up: without it the average of a short training would still hold its first weights.
    return ModelEmaV3(model, decay=ema_decay, use_warmup=True)


def _loss(settings: HeadSettings, classes: int) -> tuple[Any, nn.Module]:
    """The batch mixer, None without mixing, and the loss over its targets."""
    if not settings.augment.mixup and not settings.augment.cutmix:
        return None, nn.CrossEntropyLoss(label_smoothing=settings.optim.label_smoothing)
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy

    mix = Mixup(
        mixup_alpha=settings.augment.mixup,
        cutmix_alpha=settings.augment.cutmix,
        label_smoothing=settings.optim.label_smoothing,
        num_classes=classes,
    )
    return mix, SoftTargetCrossEntropy()
