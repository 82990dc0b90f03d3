"""k-fold cross-validation over the training images, and the ensemble of its networks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from hybrid.errors import HeadError
from hybrid.heads.base import TrainingSet


class Ensemble(nn.Module):
    """Log of the members' mean probabilities.

    Parameters
    ----------
    members : sequence of nn.Module
        Each one (n, 3, h, w) to logits (n, n_classes).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) to log-probabilities (n, n_classes)."""
        votes = torch.stack([member(images).float().log_softmax(dim=1) for member in self.members])
        return votes.logsumexp(dim=0) - math.log(len(self.members))


def cross_validation(data: TrainingSet, folds: int, seed: int) -> list[TrainingSet]:
    """Cut the training images into stratified folds, each one in turn the validation set of the others.

    The validation images of `data` are in none of them: they are kept for the calibration of the ensemble. The one
    image of a class trains every fold.

    Raises
    ------
    HeadError
        If there are too few images for this many folds.
    """
    from sklearn.model_selection import StratifiedKFold

    target = data.train.target
    counts = np.bincount(target, minlength=len(data.classes))
    shared = np.flatnonzero(counts[target] == 1)
    dealt = np.flatnonzero(counts[target] > 1)
    if counts.max(initial=0) < folds:
        raise HeadError(
            f"too few photos for {folds} folds",
            expected=f"a class with {folds} training photos or more",
            got=f"{counts.max(initial=0)} in the largest",
            fix="--set folds=... with a smaller number",
        )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer images than folds is absent from some validation parts, which does no harm.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = list(splitter.split(np.zeros(len(dealt)), target[dealt]))
    return [
        replace(data, train=data.train.take(np.sort(np.r_[dealt[train], shared])), val=data.train.take(dealt[val]))
        for train, val in parts
    ]
