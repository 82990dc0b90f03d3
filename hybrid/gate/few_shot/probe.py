"""`Probe`: logistic regression on the images alone, and how much of an answer it may decide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybrid.gate.calibration import log_softmax, logsumexp
from hybrid.gate.few_shot.base import Shots
from hybrid.gate.gaussians import Floats, Indices

# Inverse strength of the penalty: CLIP's 0.316, for vectors of length 10, on unit vectors.
STRENGTH = 31.6
# The penalty makes its answers timid: so many times its logits are about calibrated.
SHARPNESS = 4.0
STEPS = 100
# Classes times images; more take longer than the answer is worth.
MOST_CELLS = 100_000


@dataclass(frozen=True)
class Probe:
    """L2 logistic regression over the classes that have images; texts take no part.

    Attributes
    ----------
    shown : (k,) int
        Those classes.
    weight : (k, d + 1) float64
        The last column is the bias.
    """

    shown: Indices
    weight: Floats

    @classmethod
    def fit(cls, shots: Shots) -> Probe | None:
        """Fit on the images; None where one class has all of them or there are too many (`MOST_CELLS`).

        Nesterov's accelerated descent, in the metric of Böhning's (1992) bound on the curvature, so that no step is
        too long; it starts anew where it overshoots (O'Donoghue & Candès 2015). scipy's searches find the same, but
        an exported run does without scipy.
        """
        shown = np.flatnonzero(shots.support)
        if len(shown) < 2 or len(shown) * len(shots.labels) > MOST_CELLS:
            return None
        design, target = _with_bias(shots.embeddings), shots.one_hot[:, shown]
        penalty = np.full(design.shape[1], 1 / STRENGTH)
        penalty[-1] = 0
        metric = np.linalg.inv(design.T @ design / 2 + np.diag(np.maximum(penalty, 1e-3)))
        weight = ahead = np.zeros((len(shown), design.shape[1]))
        momentum = 1.0
        for _ in range(STEPS):
            gradient = (np.exp(log_softmax(design @ ahead.T)) - target).T @ design + penalty * ahead
            found = ahead - gradient @ metric
            last = 1.0 if np.sum(gradient * (found - weight)) > 0 else momentum
            momentum = (1 + np.sqrt(1 + 4 * last**2)) / 2
            weight, ahead = found, found + (last - 1) / momentum * (found - weight)
        return cls(shown, weight)

    def divide(self, log_p: Floats, embeddings: Floats, share: float) -> Floats:
        """Divide a share of what the shown classes have of each answer by the probe.

        Parameters
        ----------
        log_p : (m, c) float64
            Log-probabilities by all else.
        embeddings : (m, d) float64
        share : float
            Below 1.

        Returns
        -------
        (m, c) float64
            Log-probabilities: classes without images keep theirs.
        """
        if not share:
            return log_p
        theirs, mixed = log_p[:, self.shown], log_p.copy()
        anew = log_softmax(SHARPNESS * (_with_bias(embeddings) @ self.weight.T)) + logsumexp(theirs)[:, None]
        mixed[:, self.shown] = np.logaddexp(np.log1p(-share) + theirs, np.log(share) + anew)
        return mixed


def _with_bias(embeddings: Floats) -> Floats:
    return np.column_stack([embeddings, np.ones(len(embeddings))])
