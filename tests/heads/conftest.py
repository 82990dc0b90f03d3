"""Photos of one colour a class: what the smallest network learns in a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid.config import HeadSettings
from hybrid.data.records import ImageRecord
from hybrid.heads.base import LabelledPhotos, TrainingSet

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 40), "blue": (40, 40, 200)}


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than they give on nets this small, and sums in another order are other sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(folder: Path, sizes: tuple[int, ...], seed: int) -> LabelledPhotos:
    rng = np.random.default_rng(seed)
    records, target = [], []
    for number, (name, size) in enumerate(zip(COLOURS, sizes, strict=True)):
        (folder / name).mkdir(parents=True)
        for index in range(size):
            pixels = rng.normal(COLOURS[name], 30, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            path = folder / name / f"{index:03d}.png"
            Image.fromarray(pixels).save(path)
            records.append(ImageRecord(str(path), str(folder), name, None, path.stat().st_size, 1))
            target.append(number)
    embeddings = np.zeros((len(target), 4), dtype=np.float32)
    hashes = tuple(record.path for record in records)
    return LabelledPhotos(tuple(records), hashes, np.array(target, dtype=np.intp), embeddings)


@pytest.fixture
def coloured(tmp_path) -> Callable[..., TrainingSet]:
    """Class folders of red, green and blue photos: `coloured((8, 8, 8), val=(3, 3, 3))`."""

    def make(train: tuple[int, ...] = (8, 8, 8), val: tuple[int, ...] = (3, 4, 5), seed: int = 0) -> TrainingSet:
        folder = tmp_path / f"coloured-{seed}"
        return TrainingSet(
            tuple(COLOURS), write(folder / "train", train, seed), write(folder / "val", val, seed + 1), ()
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
