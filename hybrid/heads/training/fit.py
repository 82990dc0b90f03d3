"""`train_backbone_head`: train a recipe, once or fold by fold, and say how it goes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.errors import HeadError
from hybrid.files import atomic_write
from hybrid.heads.base import TrainingSet, TrainingSummary
from hybrid.heads.nets.backbone import ImageClassifier, build_model, weights_note
from hybrid.heads.nets.backbone_head import BackboneHead
from hybrid.heads.nets.ensemble import Ensemble, cross_validation
from hybrid.heads.nets.lora import add_adapters, merge_adapters
from hybrid.heads.training import curves
from hybrid.heads.training.decoded import keeps_in_memory
from hybrid.heads.training.progress import OnStep, as_part, show_nothing
from hybrid.heads.training.stages import freeze, fully_unfrozen_epoch, is_progressive
from hybrid.heads.training.train import EpochLog, train, training_compute
from hybrid.heads.transforms import augments, transforms

Say = Callable[[str], None]
Watch = Callable[[EpochLog], None]


def train_backbone_head(
    data: TrainingSet,
    settings: HeadSettings,
    compute: Compute,
    log_folder: Path,
    say: Say,
    *,
    checkpoints: Path | None = None,
    on_epoch: Watch | None = None,
    on_step: OnStep = show_nothing,
) -> BackboneHead:
    """Train a recipe and write ``log.csv`` (a row an epoch, as it ends) and ``curves.png`` to `log_folder`.

    With ``folds`` above 1 each fold has its own folder ``fold_N`` of these, and the head is the folds' ensemble.

    Parameters
    ----------
    checkpoints : Path, optional
        Folder of checkpoints; a killed training goes on from its last finished epoch.
    on_epoch : callable, optional
        Gets each epoch's row; what it raises ends the training.
    on_step : callable
        Gets each batch.

    Raises
    ------
    HybridError
        If the recipe cannot be built or trained, or an image is gone.
    """
    if settings.folds == 1:
        model, summary = _train_one(data, settings, compute, log_folder, say, checkpoints, (on_epoch, on_step))
        return BackboneHead(model, data.classes, settings, compute, summary)
    members, summaries = [], []
    for number, part in enumerate(cross_validation(data, settings.folds, settings.seed), start=1):
        say(f"fold {number} of {settings.folds}: {len(part.train)} training and {len(part.val)} validation photos")
        name = f"fold_{number}"
        log, saved = log_folder / name, None if checkpoints is None else checkpoints / name
        log.mkdir(parents=True, exist_ok=True)
        own = settings.replace(seed=settings.seed + number - 1)
        watch = on_epoch, as_part(on_step, f"fold {number} of {settings.folds}")
        model, summary = _train_one(part, own, compute, log, say, saved, watch)
        members.append(model)
        summaries.append(summary)
    scores = np.array([summary.val_accuracy for summary in summaries])
    say(f"{settings.folds}-fold cross-validation: accuracy {scores.mean():.3f} +- {scores.std(ddof=1):.3f} (mean, sd)")
    joint = TrainingSummary(
        epochs=sum(s.epochs for s in summaries),
        best_epoch=round(float(np.mean([s.best_epoch for s in summaries]))),
        val_accuracy=float(scores.mean()),
        parameters=sum(s.parameters for s in summaries),
        trainable=sum(s.trainable for s in summaries),
    )
    return BackboneHead(Ensemble(members), data.classes, settings, compute, joint)


def _train_one(
    data: TrainingSet,
    settings: HeadSettings,
    compute: Compute,
    log_folder: Path,
    say: Say,
    checkpoints: Path | None,
    watch: tuple[Watch | None, OnStep],
) -> tuple[ImageClassifier, TrainingSummary]:
    torch.manual_seed(settings.seed)  # the classifier's first weights are random
    model = build_model(settings.model, len(data.classes))
    if settings.optim.reconstruction and not hasattr(model.backbone, "reconstruction_loss"):
        raise HeadError(
            f"{settings.model.backbone} is not an autoencoder, it cannot reconstruct",
            fix="--set reconstruction=0, or --backbone hybrid_autoencoder",
        )
    say(weights_note(settings.model))
    frozen = add_adapters(model, settings) if settings.model.lora_rank else freeze(model, settings.model.unfreeze)
    trainable, parameters = _count(model)
    training = training_compute(settings, compute)
    _say_setup(model, settings, frozen, say)
    say(f"{trainable / 1e6:.2f} of {parameters / 1e6:.2f} M parameters train")
    both = transforms(model, settings)
    if not augments(settings.augment, settings.regions):
        both = both[1], both[1]  # trained on what is then validated and answered
    in_memory = keeps_in_memory(both[0], settings, training)
    loaded = "no loader processes" if in_memory else f"{settings.workers} loader processes"
    say(f"training on {training}, {loaded}, optimizer {settings.optim.optimizer}")
    if training.is_cuda and not in_memory:
        say("note: a GPU waits for loader processes; auto_augment, regions and loading=processes need them")
    rows: list[EpochLog] = []
    on_epoch, on_step = watch

    def note(row: EpochLog, best: bool) -> None:
        rows.append(row)
        _write(log_folder / "log.csv", rows)
        say(
            f"epoch {row.epoch:3d}/{settings.schedule.epochs}  loss {row.train_loss:.3f}  val loss {row.val_loss:.3f}  "
            f"val accuracy {row.val_accuracy:.3f}  {row.images_per_second:.0f} photos/s{'  *' if best else ''}"
        )
        if on_epoch is not None:
            on_epoch(row)

    model, best_epoch = train(
        model, data, both, settings, training, note, checkpoints=checkpoints, say=say, on_step=on_step
    )
    if settings.model.lora_rank:
        model = merge_adapters(model)
    early = " (early stopping)" if len(rows) < settings.schedule.epochs else ""
    say(f"kept epoch {best_epoch} of {len(rows)}{early}, the best by validation {settings.monitor}")
    curves.draw(rows, best_epoch, log_folder / "curves.png")
    best = rows[best_epoch - 1]
    return model, TrainingSummary(len(rows), best_epoch, best.val_accuracy, _count(model)[1], trainable)


def _say_setup(model: ImageClassifier, settings: HeadSettings, frozen: str, say: Say) -> None:
    say(frozen)
    if is_progressive(settings.model):
        every, last = settings.model.unfreeze_every, fully_unfrozen_epoch(model, settings.model)
        say(f"progressive: the classifier alone at first, one stage more every {every} epochs, all from epoch {last}")
        if last > settings.schedule.epochs:
            say(f"note: {settings.schedule.epochs} epochs end before that")
    if (
        settings.model.unfreeze == "none"
        and not settings.model.lora_rank
        and augments(settings.augment, settings.regions)
    ):
        say(
            "note: without augmentation (--set crop_scale=1 --set flip=0 --set rotation=0 --set color_jitter=0) a "
            "frozen backbone would see each photo once, not once an epoch"
        )
    random = not settings.model.pretrained and settings.model.backbone_weights is None
    if random and (settings.model.unfreeze != "all" or settings.model.lora_rank):
        say("note: random weights stay frozen; --set unfreeze=all trains them all")


def _count(model: ImageClassifier) -> tuple[int, int]:
    """Numbers of parameters that train, and of all."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def _write(file: Path, rows: list[EpochLog]) -> None:
    """Write the whole log: the rows of a checkpoint may not be in it yet."""
    with atomic_write(file, sync=False) as part, part.open("w", newline="", encoding="utf-8") as stream:
        table = [msgspec.to_builtins(row) for row in rows]
        writer = csv.DictWriter(stream, fieldnames=list(table[0]))
        writer.writeheader()
        for values in table:
            writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in values.items()})
