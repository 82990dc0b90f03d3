"""Class-held-out episodes: a part of the seen classes plays the unseen ones, so that a gate can be fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.fusion.evidence import out_of_fold
from hybrid.fusion.fit import Labelled
from hybrid.fusion.memory import ClassMemory, Indices

FOLDS = 5
# Three folds of two classes each: fewer leave nothing to choose between in a fold, or nothing to stay seen.
MIN_CLASSES = 6
MIN_PHOTOS = 30


@dataclass(frozen=True)
class Photos:
    """Labelled embeddings: (n, d) unit norm, (n,) class index of a seen class."""

    embeddings: NDArray[Any]
    target: Indices

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Calibration:
    """What a gate is fitted on.

    Attributes
    ----------
    memory : ClassMemory
        Of the training and the validation photos.
    validation : Labelled
        The validation photos over the seen classes; what the memory says of each leaves its own fold out.
    episodes : tuple of Labelled
    """

    memory: ClassMemory
    validation: Labelled
    episodes: tuple[Labelled, ...]


def check_enough(classes: int, photos: int) -> None:
    """Raise GateError, with the numbers needed, where a fit would be guesswork."""
    if classes < MIN_CLASSES or photos < MIN_PHOTOS:
        raise GateError(
            "too little to fit a gate on",
            expected=f"at least {MIN_CLASSES} seen classes and {MIN_PHOTOS} validation photos",
            got=f"{classes} classes and {photos} photos",
            fix="more classes or photos; until then the documented prior serves",
        )


def class_folds(classes: int, seed: int = 0, folds: int = FOLDS) -> tuple[tuple[int, ...], ...]:
    """Deal classes into folds of at least two, at random; every class is in one."""
    count = max(min(folds, classes // 2), 1)
    order = np.random.default_rng(seed).permutation(classes)
    return tuple(tuple(sorted(order[fold::count].tolist())) for fold in range(count))


def photo_folds(target: Indices, seed: int = 0, folds: int = FOLDS) -> Indices:
    """Deal photos into folds, (n,), each class's photos spread evenly."""
    rng = np.random.default_rng(seed)
    assigned = np.empty(len(target), dtype=np.intp)
    for label in np.unique(target):
        rows = np.flatnonzero(target == label)
        assigned[rows] = (np.arange(len(rows)) + rng.integers(folds)) % folds
    return assigned


def calibrate(
    train: Photos,
    validation: Photos,
    texts: NDArray[Any],
    logit_scale: float,
    head_logits: NDArray[Any],
    held_out: Sequence[Sequence[int]],
    fold_logits: Sequence[NDArray[Any]] | None = None,
    seed: int = 0,
) -> Calibration:
    """Gather the evidence of the validation photos, as it is and in every episode.

    Parameters
    ----------
    train, validation : Photos
        Of the s seen classes. Both join the memory.
    texts : (s, d)
        Text embeddings of the seen classes.
    head_logits : (n, s)
        The head's, of the validation photos.
    held_out : sequence of sequences of int
        The classes that play the unseen ones, a group an episode.
    fold_logits : sequence of (n, s - held), optional
        A head's that never saw the held-out classes, over the others in their order. Without it the episodes ask
        no head, and the gate must not either.
    """
    every = Photos(
        np.concatenate([train.embeddings, validation.embeddings]), np.concatenate([train.target, validation.target])
    )
    folds = photo_folds(validation.target, seed)

    def labelled(order: list[int], logits: NDArray[Any]) -> Labelled:
        position = np.argsort(order)
        old, new = position[train.target], position[validation.target]
        kept = old < logits.shape[1]
        evidence = out_of_fold(
            (train.embeddings[kept], old[kept]),
            (validation.embeddings, new),
            logits,
            folds,
            texts[order],
            logit_scale,
        )
        return Labelled(evidence, new)

    episodes = []
    for number, held in enumerate(held_out):
        kept = [c for c in range(len(texts)) if c not in set(held)]
        logits = fold_logits[number] if fold_logits is not None else np.zeros((len(validation), len(kept)))
        episodes.append(labelled([*kept, *held], logits))
    memory = ClassMemory.fit(every.embeddings, every.target, len(texts))
    return Calibration(memory, labelled(list(range(len(texts))), head_logits), tuple(episodes))
