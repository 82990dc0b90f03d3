from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hybrid.config import HeadSettings
from hybrid.heads.base import TrainingSummary
from hybrid.images.preprocess import to_picture
from hybrid.tools.compare.results import ClassFigures, Result


class Fake:
    """A trainer that learns nothing but the file name: an image of `000.jpg` is always right."""

    def __init__(self):
        self.calls = []
        self.fail = None

    def __call__(self, data, settings, compute, log_folder, say, *, checkpoints):
        self.calls.append((settings, log_folder, checkpoints))
        if self.fail is not None and settings.schedule.epochs == self.fail[0]:
            raise self.fail[1]
        return FakeHead(data.classes, settings)


class FakeHead:
    encoder_identity = None
    min_side = None
    batch_size = 32
    notes = ()

    def __init__(self, classes, settings):
        self.classes = classes
        self.training = TrainingSummary(
            settings.schedule.epochs, 1, 0.5, 1000 * settings.schedule.epochs, 10 * settings.schedule.epochs
        )

    def prepare(self, image):
        """The mean color."""
        return torch.from_numpy(np.asarray(to_picture(image), dtype=np.float32).mean((0, 1)))

    def logits(self, prepared, embeddings):
        """The reddest is class 0, the greenest 1."""
        return np.stack(prepared)[:, : len(self.classes)]


@pytest.fixture
def trainer() -> Fake:
    return Fake()


@pytest.fixture
def result() -> Callable[..., Result]:
    def make(name="a", **changes) -> Result:
        keys = {"hybrid_version": "0", "settings": HeadSettings(), "key": "k", "dataset_key": "d", "encoder": None}
        images = {"device": "cpu fp32 (test)", "images": {"train": 8, "val": 2, "test": 4}}
        shares = {"accuracy": 0.75, "macro_precision": 0.7, "macro_recall": 0.6, "val_accuracy": 0.5}
        sizes = {"parameters": 4_010_000, "trainable": 12_345, "gflops": 0.789}
        times = {"epochs": 12, "best_epoch": 9, "seconds": 83.4, "resumed": False, "images_per_second": 456.7}
        classes = (ClassFigures(name="c", precision=0.7, recall=0.6, support=4),)
        values = {**keys, **images, **shares, **sizes, **times, "classes": classes}
        return Result(name=name, **values | changes)

    return make
