"""`Tracking`: curves, settings and final figures of a training for a tracker, by accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from time import strftime
from typing import TYPE_CHECKING, Any

import msgspec

from hybrid.config import HeadSettings
from hybrid.errors import ConfigError
from hybrid.heads.training.distributed import process_count

if TYPE_CHECKING:
    from hybrid.heads.training.train import EpochLog

# Trackers of accelerate, by the package that each needs.
TRACKERS = ("tensorboard", "wandb", "mlflow")


class Tracking:
    """Tells a tracker of one training; the first process alone does.

    Parameters
    ----------
    name : {"tensorboard", "wandb", "mlflow"}
    folder : Path
        Gets TensorBoard's files, and those that wandb keeps here.
    project : str
        Name of wandb's project, and of mlflow's experiment.

    Raises
    ------
    ConfigError
        If the tracker is unknown or not installed.
    """

    def __init__(self, name: str, folder: Path, project: str) -> None:
        if name not in TRACKERS:
            raise ConfigError("unknown tracker", expected=", ".join(TRACKERS), got=name, fix="take one of these")
        if find_spec(name) is None:
            raise ConfigError(
                f"the tracker {name} needs the package {name}, which is not installed", fix=f"pip install {name}"
            )
        self._name, self._folder, self._project = name, folder, project
        self._settings: HeadSettings | None = None
        self._tracker: Any = None
        self._part, self._last = 1, 0

    def begin(self, settings: HeadSettings) -> None:
        """Start a training; of several processes at its first epoch, when these have found each other."""
        self._settings = settings
        if process_count() == 1:
            self._start()

    def epoch(self, row: EpochLog) -> None:
        """Take an epoch's row; where their numbers begin anew, it is of the next fold."""
        self._start()
        self._part += row.epoch <= self._last
        self._last = row.epoch
        before = f"fold_{self._part}/" if self._settings is not None and self._settings.folds > 1 else ""
        self._log({f"{before}{key}": value for key, value in msgspec.to_builtins(row).items() if key != "epoch"})

    def end(self, figures: Mapping[str, float]) -> None:
        """Take the final figures."""
        self._start()
        self._log({f"final/{key}": value for key, value in figures.items()})

    def close(self) -> None:
        """Finish, however the training ended."""
        if self._tracker is not None:
            self._tracker.finish()

    def _log(self, values: dict[str, float]) -> None:
        # wandb drops a step that is lower than the last one, as the next fold's first epoch is; it counts by itself.
        self._tracker.log(values, step=None if self._name == "wandb" else self._last)

    def _start(self) -> None:
        if self._tracker is not None or self._settings is None:
            return
        from accelerate import PartialState, tracking

        PartialState()  # a head that needs no accelerate has none yet, and the trackers log by it
        stamp = strftime("%Y%m%d-%H%M%S")
        if self._name == "tensorboard":
            self._tracker = tracking.TensorBoardTracker(stamp, self._folder)
        elif self._name == "wandb":
            self._folder.mkdir(parents=True, exist_ok=True)
            self._tracker = tracking.WandBTracker(self._project, name=stamp, dir=str(self._folder))
        else:
            self._tracker = tracking.MLflowTracker(self._project, run_name=stamp)
        if hasattr(self._tracker, "start"):  # of accelerate 1.8 on; before, they started themselves
            self._tracker.start()
        self._tracker.store_init_configuration({key: _plain(value) for key, value in self._settings.flat().items()})


def _plain(value: object) -> bool | int | float | str:
    """What every tracker takes."""
    return value if isinstance(value, bool | int | float | str) else str(value)
