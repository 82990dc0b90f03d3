"""A search without a network: a trainer whose loss is a known function of the recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, event

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.training.train import EpochLog
from hybrid.images.records import ImageRecord
from hybrid.tools.tune.study import tune

CPU = Compute("cpu", "fp32", "test")


def images(name: str, count: int) -> LabeledImages:
    records = tuple(ImageRecord(f"{name}/{i}.png", name, "ab"[i % 2], None, 1, 1) for i in range(count))
    hashes = tuple(f"{name}-{i}" for i in range(count))
    return LabeledImages(records, hashes, np.arange(count, dtype=np.intp) % 2, np.zeros((count, 0), np.float32))


def make_data(name: str = "data") -> TrainingSet:
    return TrainingSet(("a", "b"), images(name, 6), images(f"{name}-val", 4), ())


def loss_of(settings: HeadSettings) -> float:
    """Lowest, 0.1, at a learning rate of 0.01 without smoothing."""
    return 0.1 + math.log10(settings.optim.learning_rate / 0.01) ** 2 + settings.optim.label_smoothing


class FakeTrainer:
    """Reports `epochs` epochs that fall to `loss_of`; keeps what it was asked for."""

    def __init__(self, loss: Callable[[HeadSettings], float] = loss_of, before=lambda number, settings: None):
        self.loss, self.before, self.asked, self.reported = loss, before, [], []

    def __call__(self, data, settings, compute, log_folder, say, *, checkpoints=None, on_epoch=None):
        self.asked.append(settings)
        self.reported.append(0)
        assert log_folder.is_dir()
        self.before(len(self.asked) - 1, settings)
        say("setup")
        for epoch in range(1, settings.schedule.epochs + 1):
            loss = self.loss(settings) + (settings.schedule.epochs - epoch) * 0.05
            self.reported[-1] += 1
            on_epoch(EpochLog(epoch, loss, 0.5, loss, 1 / (1 + loss), 1e-3, 1.0, 10.0))


@pytest.fixture(scope="session", autouse=True)
def no_sync():
    """A study in a test need not survive a power cut: do not wait for the disk."""

    def configure(connection, record):
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", configure)
    yield
    event.remove(Engine, "connect", configure)


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tune: `search(trials=4)`; gives the tuning, the trainer and the log.

    The importance of the settings, which takes longer than the search, is computed where it is asked for.
    """

    def run(trials=4, trainer=None, settings=None, data=None, out=None, *, compute=CPU, label="mine", weigh=False):
        trainer, log = trainer or FakeTrainer(), []
        data, settings, out = data or make_data(), settings or HeadSettings(epochs=3), out or tmp_path / "out"
        with monkeypatch.context() as patch:
            if not weigh:
                patch.setattr("hybrid.tools.tune.study._importance", lambda study, rows: (None, "not computed"))
            tuning = tune(data, settings, label, trials, out, compute, say=log.append, train=trainer)
        return tuning, trainer, log

    return run
