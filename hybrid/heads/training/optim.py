"""Optimizer and learning-rate schedule of a recipe, from timm's factories."""

from __future__ import annotations

from typing import Any

import torch

from hybrid.config import OptimSettings, ScheduleSettings
from hybrid.errors import HeadError, first_line
from hybrid.heads.nets.backbone import ImageClassifier
from hybrid.heads.training.stages import parameter_groups

# Torch's own, which update all weights in one pass over memory; the others make several, with copies.
# Not SGD: it would read momentum that was never written where weights are unfrozen later or a scaled step is skipped.
FUSED = ("adam", "adamw")


def make_optimizer(model: ImageClassifier, settings: OptimSettings) -> torch.optim.Optimizer:
    """Make the recipe's optimizer over what may train; HeadError if timm does not know it or it cannot be made."""
    from timm.optim import create_optimizer_v2

    devices = {parameter.device.type for parameter in model.parameters()}
    fused = settings.optimizer.lower() in FUSED and devices <= {"cpu", "cuda"}
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            parameter_groups(model, settings),
            opt=settings.optimizer,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            **({"fused": True} if fused else {}),
        )
    except (ValueError, AssertionError, TypeError, RuntimeError) as error:
        raise HeadError(
            f"cannot make the optimizer {settings.optimizer}",
            expected="a name of timm's, such as adamw, adam, sgd, lamb",
            got=first_line(error),
            fix="correct --set optimizer=...",
        ) from error
    return optimizer


class Schedule:
    """Learning rates of all groups, by update or by epoch.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its groups carry ``lr_scale``.
    settings : ScheduleSettings
    updates : int
        Updates in an epoch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: ScheduleSettings, updates: int) -> None:
        self._by_update: Any = None
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._updates = updates
        if settings.kind in ("cosine", "step"):
            self._by_update = _scheduler(optimizer, settings, updates)
            return
        for group in optimizer.param_groups:  # timm's schedulers apply the scale themselves
            group["lr"] *= group["lr_scale"]
        if settings.kind == "plateau":
            # torch's own: timm's is deprecated, and does not save its state.
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=settings.decay_rate, patience=settings.decay_epochs - 1
            )

    def after_update(self, epoch: int, batch: int) -> None:
        """Note that update `batch` (from 1) of an epoch (from 1) is done."""
        if self._by_update is not None:
            self._by_update.step_update((epoch - 1) * self._updates + batch)

    def after_epoch(self, val_loss: float) -> None:
        """Note an epoch's validation loss."""
        if self._plateau is not None:
            self._plateau.step(val_loss)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: timm's schedulers are functions of the update alone."""
        return self._plateau.state_dict() if self._plateau is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's state."""
        if self._plateau is not None:
            self._plateau.load_state_dict(state)


def _scheduler(optimizer: torch.optim.Optimizer, settings: ScheduleSettings, updates: int) -> Any:
    from timm.scheduler import create_scheduler_v2

    warmup = min(settings.warmup_epochs, settings.epochs - 1)
    return create_scheduler_v2(
        optimizer,
        sched=settings.kind,
        num_epochs=settings.epochs,
        decay_epochs=settings.decay_epochs,
        decay_rate=settings.decay_rate,
        warmup_epochs=warmup,
        warmup_lr=float(optimizer.defaults["lr"]) * 0.01,
        step_on_epochs=False,
        updates_per_epoch=updates,
    )[0]
