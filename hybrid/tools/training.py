"""What compare and tune share: how a recipe is trained, in one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.errors import ConfigError
from hybrid.heads.base import TrainingSet
from hybrid.heads.training.distributed import process_count
from hybrid.heads.training.progress import OnStep, show_nothing
from hybrid.heads.training.train import EpochLog

Say = Callable[[str], None]


class Train(Protocol):
    """How a backbone is trained: `hybrid.heads.training.fit.train_backbone_head`."""

    def __call__(
        self,
        data: TrainingSet,
        settings: HeadSettings,
        compute: Compute,
        log_folder: Path,
        say: Say,
        *,
        checkpoints: Path | None = None,
        on_epoch: Callable[[EpochLog], None] | None = None,
    ) -> Any:
        """Give a head with the attribute `training`, a `TrainingSummary`; what `on_epoch` raises passes through."""


def backbone_trainer(on_step: OnStep = show_nothing) -> Train:
    """Give the trainer of backbones, which loads torch and tells `on_step` of every batch."""
    from hybrid.heads.training.fit import train_backbone_head

    return partial(train_backbone_head, on_step=on_step)


def check_one_process(command: str) -> None:
    """Refuse to be one of several processes."""
    if process_count() > 1:
        raise ConfigError(f"{command} runs in one process", fix="start it without torchrun or accelerate launch")
