"""The product's head and gate on cached vectors: the calls that `hybrid train-head --head linear` makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.kit.vectors import Split
from hybrid.config import HeadSettings
from hybrid.errors import HeadError
from hybrid.gate.episodes import Calibration, calibrate, class_folds
from hybrid.gate.gaussians import LabeledEmbeddings
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.linear import C_GRID, LinearHead, train_linear_head, without_validation


def train_probe(split: Split) -> LinearHead:
    """Train the product's linear head on the seen classes; C by validation NLL, then with these images too."""
    return _probe(split.train, split.val, range(len(split.seen)), HeadSettings(kind="linear"))


def train_fold(split: Split, kept: Sequence[int], strength: float | None) -> LinearHead:
    """Train a head with C = `strength` without the held-out classes; a weaker C where this one does not converge."""
    weaker = [c for c in C_GRID if strength is not None and c < strength]
    try:
        return _probe(split.train, split.val, kept, HeadSettings(kind="linear", l2_c=strength, refit=False))
    except HeadError:
        if not weaker:
            raise
        return train_fold(split, kept, weaker[-1])


def _probe(train: LabeledEmbeddings, val: LabeledEmbeddings, kept: Sequence[int], settings: HeadSettings) -> LinearHead:
    def labeled(images: LabeledEmbeddings) -> LabeledImages:
        rows = np.isin(images.target, kept)
        return LabeledImages((), (), np.searchsorted(kept, images.target[rows]), images.embeddings[rows])

    chosen = TrainingSet(tuple(map(str, kept)), labeled(train), labeled(val), ())
    return train_linear_head(chosen, settings, "file", lambda line: None)


def calibrated(split: Split, head: LinearHead) -> Calibration:
    """What the gate is fitted on: the validation images and the episodes, of seen classes alone."""
    seen = len(split.seen)
    logits = without_validation(head).logits([], split.val.embeddings)
    return calibrate(split.train, split.val, split.texts[:seen], split.logit_scale, logits, class_folds(seen))
