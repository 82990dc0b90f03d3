"""Which classes and images benchmarks.few_shot learns from and is scored on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.kit.vectors import Data
from hybrid.errors import DataError, listing
from hybrid.gate.gaussians import LabeledEmbeddings


@dataclass(frozen=True)
class Scene:
    """The classes with a text vector, in order, and the images of them with indices in that order."""

    classes: tuple[int, ...]
    texts: NDArray[np.float32]
    train: LabeledEmbeddings
    test: LabeledEmbeddings
    logit_scale: float


def cut(data: Data) -> Scene:
    """Keep the classes with a text vector."""
    classes = data.named
    position = np.full(len(data.names), -1, np.intp)
    position[classes] = np.arange(len(classes))

    def keep(split: str) -> LabeledEmbeddings:
        images = data.images[split]
        rows = position[images.target] >= 0
        return LabeledEmbeddings(images.embeddings[rows], position[images.target[rows]])

    train, test = keep("train"), keep("test")
    if not len(train) or not len(test):
        raise DataError("too few photos of classes with a text vector", got=f"{len(train)} train, {len(test)} test")
    if lacking := sorted(set(range(len(classes))) - set(train.target.tolist())):
        names = listing([data.names[classes[index]] for index in lacking])
        Console(stderr=True).print(f"no train photo, known by text alone: {names}", markup=False)
    return Scene(tuple(classes), data.texts[classes], train, test, data.logit_scale)


def draw(target: NDArray[np.intp], classes: int, shots: int, seed: int) -> NDArray[np.intp]:
    """Rows of `shots` images of each class (all it has, where fewer), sorted; more shots keep those of fewer."""
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(target == c))[:shots] for c in range(classes)]))
