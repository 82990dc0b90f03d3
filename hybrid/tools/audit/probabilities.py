"""Class probabilities of labeled images, each by a model that never met the image, joined with zero-shot."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.gate.calibration import fit_temperature, log_softmax
from hybrid.gate.gaussians import ClassGaussians

FOLDS = 5
# Images of a label that can be judged. Of labels with two, each judged by the other one, more than half of the right
# ones were held to be wrong (Caltech-101, 30 of 100 classes cut to two images); of three a quarter, of four a tenth.
LEAST = 3
# The least that a logit may lie below the best, in units of their median spread; on Caltech-101 all lie above -10.
FLOOR = -100.0
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class ZeroShot:
    """What the encoder's texts say of images.

    Attributes
    ----------
    logits : (n, m) float32
        Over the m labels that the encoder can name.
    named : (c,) bool
        Which of the c labels these are.
    """

    logits: FloatArray
    named: NDArray[np.bool_]


def held_out_logits(
    embeddings: FloatArray, target: Indices, seed: int = 0, step: Callable[[int], None] = lambda count: None
) -> Floats:
    """Score every image by Gaussian discriminant analysis that was fitted without it (see `ClassGaussians.logits`).

    Stratified folds, five unless no class has so many images.

    Parameters
    ----------
    embeddings : (n, dim) float32, unit norm
        No image twice: a copy with the same wrong label would vouch for it.
    target : (n,) int
        Class index, 0 to c - 1; `LEAST` images or more of each.
    step : callable
        Told how many images were just scored.

    Returns
    -------
    (n, c) float64
    """
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(target)
    logits = np.empty((len(target), len(counts)))
    folds = StratifiedKFold(min(FOLDS, int(counts.max())), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # It warns of classes with fewer images than folds: they have one in each of as many folds.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = list(folds.split(target, target))
    for rest, held in parts:
        logits[held] = ClassGaussians.fit(embeddings[rest], target[rest], len(counts)).logits(embeddings[held])
        step(len(held))
    return logits


def class_probabilities(logits: Floats, target: Indices, zero_shot: ZeroShot | None = None) -> Floats:
    """Calibrate held-out logits, and multiply them with zero-shot's probabilities (product of experts, Hinton 2002).

    Each of the two gets a temperature, and so does what comes out. Zero-shot is asked only which of the labels that it
    can name it is; how likely it is one of these at all, the images alone decide.

    Parameters
    ----------
    logits : (n, c) float64
        From `held_out_logits`.
    target : (n,) int
        Given labels; that a few of them are wrong makes the probabilities more cautious.
    zero_shot : ZeroShot, optional

    Returns
    -------
    (n, c) float64
        Rows add up to 1.

    Raises
    ------
    GateError
        If a temperature cannot be found.
    """
    from scipy.special import logsumexp

    log_p = _calibrated(logits, target)
    rows = zero_shot.named[target] if zero_shot is not None else np.zeros(len(target), np.bool_)
    if zero_shot is None or zero_shot.named.sum() < 2 or not rows.any():
        return np.exp(log_p)
    named = zero_shot.named
    scaled = _scaled(np.asarray(zero_shot.logits, np.float64))
    position = np.cumsum(named) - 1
    theirs = log_softmax(scaled / fit_temperature(scaled[rows], position[target[rows]]))
    joined = log_p.copy()
    joined[:, named] = logsumexp(log_p[:, named], axis=1, keepdims=True) + log_softmax(log_p[:, named] + theirs)
    return np.exp(_calibrated(joined, target))


def _calibrated(logits: Floats, target: Indices) -> Floats:
    """Log-probabilities at the temperature that fits the given labels."""
    scaled = _scaled(logits)
    return log_softmax(scaled / fit_temperature(scaled, target))


def _scaled(logits: Floats) -> Floats:
    """Bring logits to a common spread, the best at 0, so that the temperature lies within the bounds of its search.

    Where the images of a class hardly differ, the discriminant takes any size, and another in every fold.
    """
    below = logits - logits.max(axis=1, keepdims=True)
    spread = float(np.median(below.std(axis=1)))
    return np.asarray(np.maximum(below / spread if spread > 0 else below, FLOOR))
