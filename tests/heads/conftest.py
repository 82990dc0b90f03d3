"""Images of one color a class: what the smallest network learns in a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.nets.backbone import ImageClassifier, build_model
from hybrid.heads.training.stages import freeze
from hybrid.heads.training.train import _Loop, train
from hybrid.heads.transforms import transforms
from hybrid.images.records import ImageRecord

CPU = Compute("cpu", "fp32", "test")
COLORS = {"red": (200, 40, 40), "green": (40, 180, 40), "blue": (40, 40, 200)}


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than they give on nets this small, and sums in another order are other sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(folder: Path, sizes: tuple[int, ...], seed: int) -> LabeledImages:
    rng = np.random.default_rng(seed)
    records, target = [], []
    for number, (name, size) in enumerate(zip(COLORS, sizes, strict=True)):
        (folder / name).mkdir(parents=True)
        for index in range(size):
            pixels = rng.normal(COLORS[name], 30, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            path = folder / name / f"{index:03d}.png"
            Image.fromarray(pixels).save(path)
            records.append(ImageRecord(str(path), str(folder), name, None, path.stat().st_size, 1))
            target.append(number)
    embeddings = np.zeros((len(target), 4), dtype=np.float32)
    hashes = tuple(record.path for record in records)
    return LabeledImages(tuple(records), hashes, np.array(target, dtype=np.intp), embeddings)


@pytest.fixture
def colored(tmp_path) -> Callable[..., TrainingSet]:
    """Class folders of red, green and blue images: `colored((8, 8, 8), val=(3, 3, 3))`."""

    def make(train: tuple[int, ...] = (8, 8, 8), val: tuple[int, ...] = (3, 4, 5), seed: int = 0) -> TrainingSet:
        folder = tmp_path / f"coloured-{seed}"
        return TrainingSet(
            tuple(COLORS), write(folder / "train", train, seed), write(folder / "val", val, seed + 1), ()
        )

    return make


@pytest.fixture
def recipe() -> Callable[..., HeadSettings]:
    """A recipe that trains in a second: a small net from nothing, with changes."""
    small = {
        "backbone": "test_resnet",
        "pretrained": False,
        "unfreeze": "all",
        "image_size": 24,
        "hidden": 16,
        "dropout": (0.1, 0.1),
        "learning_rate": 3e-3,
        "backbone_rate": 1.0,
        "epochs": 5,
        "batch_size": 8,
        "workers": 0,
    }
    return lambda **changes: HeadSettings(**small | changes)


def start_model(settings: HeadSettings, classes: int = 3) -> ImageClassifier:
    torch.manual_seed(settings.seed)
    model = build_model(settings.model, classes)
    freeze(model, settings.model.unfreeze)
    return model


@pytest.fixture
def start() -> Callable[..., ImageClassifier]:
    """A recipe's network as its training starts: `start(settings, classes=3)`."""
    return start_model


@pytest.fixture
def run(start):
    """Train; gives the model, the best epoch, and every (row, is best, weights) as the epochs end."""

    def training(data, settings, compute=CPU, model=None, change=None, **more):
        model = model or start(settings, len(data.classes))
        log = []

        def on_epoch(row, best):
            log.append((row, best, {name: tensor.clone() for name, tensor in model.state_dict().items()}))

        both = (change or (lambda augment, plain: (augment, plain)))(*transforms(model, settings))
        trained, best_epoch = train(model, data, both, settings, compute, on_epoch, **more)
        return trained, best_epoch, log

    return training


@pytest.fixture
def loop(colored, start):
    """The inside of a training: `loop(settings)`."""
    data = colored()

    def make(settings):
        model = start(settings)
        return _Loop(model, data, transforms(model, settings), settings, CPU)

    return make


@pytest.fixture
def script(monkeypatch):
    """Let validation find these (loss, accuracy), an epoch after another."""

    def write_script(scores):
        rest = iter(scores)
        monkeypatch.setattr(_Loop, "validate", lambda self: next(rest))

    return write_script
