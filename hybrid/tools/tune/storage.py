"""The study in its SQLite file: one process at a time, and only for the recipe and the images it began with."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.errors import ArtifactError, ConfigError, first_line, listing
from hybrid.heads.base import TrainingSet
from hybrid.heads.training.checkpoint import FREE, training_key
from hybrid.tools.training import Say
from hybrid.tools.tune.space import search_space

NAME = "hybrid"
# Attributes of the study: what it is of. Attribute of a trial: that it has the recipe's own values.
KEY, RECIPE, OWN = "key", "recipe", "own"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep a second process out: it would take this one's running trial for a killed one.

    A lock of SQLite's own, because it goes with the process however that ends, on every system.
    """
    lock = sqlite3.connect(out / "study.lock", timeout=0, isolation_level=None)
    try:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise ConfigError(
                f"another hybrid tune is at work in {out}", got=str(error), fix="wait for it, or another --out"
            ) from error
        yield
    finally:
        lock.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's own log: every trial is told in our words."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def open_study(file: Path, settings: HeadSettings, data: TrainingSet, compute: Compute) -> Any:
    """Open or make the study, and see that it is of this recipe, these images and this device.

    Raises
    ------
    ArtifactError
        If the file cannot be read.
    ConfigError
        If the study is another one.
    """
    import optuna
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    # The learning rate is warmed up and stages may thaw: what the first epochs say of it comes after. Hyperband prunes
    # earlier and saves more, but needs more trials than the tens that an image classifier is given.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=settings.schedule.warmup_epochs + 2)
    direction = "minimize" if settings.monitor == "loss" else "maximize"
    # As JSON gives it back: lists for tuples.
    key, recipe = training_key(data, settings, compute), msgspec.json.decode(msgspec.json.encode(settings.flat()))
    try:
        url = URL.create("sqlite", database=str(file.absolute())).render_as_string()
        storage = optuna.storages.RDBStorage(url)
        study = optuna.create_study(
            storage=storage, study_name=NAME, direction=direction, pruner=pruner, load_if_exists=True
        )
        if KEY not in study.user_attrs and not study.trials:
            study.set_user_attr(RECIPE, recipe)
            study.set_user_attr(KEY, key)
        attributes = study.user_attrs
    except (SQLAlchemyError, RuntimeError) as error:  # the second: the schema of another version of Optuna
        raise ArtifactError(
            f"the study {file} cannot be read", got=first_line(error), fix="delete it, or another --out"
        ) from error
    if attributes.get(KEY) != key:
        before = attributes.get(RECIPE, {})
        changed = [name for name, value in recipe.items() if name not in FREE and before.get(name) != value]
        raise ConfigError(
            f"the study {file} is of another recipe, other photos or another device: scores would not compare",
            got=f"another {listing(changed)}" if changed else "the same settings, but other photos, classes or device",
            fix="another --out",
        )
    return study


def clean(study: Any, settings: HeadSettings, say: Say) -> None:
    """Mark trials failed whose process was killed, and queue the recipe's own values if they are not finished."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        say(f"note: trial {trial.number} was interrupted; it does not count and is run anew")
    trials = [*finished(study), *study.get_trials(states=(TrialState.WAITING,))]
    if not any(trial.user_attrs.get(OWN) for trial in trials):
        inside = {name: max(bounds.own, bounds.low) for name, bounds in search_space(settings).items()}
        study.enqueue_trial(inside, user_attrs={OWN: True})


def finished(study: Any) -> list[Any]:
    """Trials that count: run to their end, or pruned."""
    from optuna.trial import TrialState

    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))
