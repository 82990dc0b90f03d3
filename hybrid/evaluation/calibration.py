"""Whether a probability can be trusted: reliability bins, calibration errors, likelihood and Brier score.

Shapes: n images, c classes, b bins. A figure that does not apply is None, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.evaluation.arrays import (
    Bools,
    Floats,
    Ints,
    check_confidence,
    check_sums,
    checked_scores,
    finite_mean,
    sum_at,
)

BINS = 15  # of Guo et al. and of most published figures


@dataclass(frozen=True, eq=False)
class Reliability:
    """Images in bins of like confidence, confidence rising; a bin without an image is left out.

    Attributes
    ----------
    low, high : ndarray of float64, shape (b,)
        The bin's edges for equal-width bins, its least and largest confidence for adaptive ones.
    count : ndarray of int, shape (b,)
        Images in the bin, 1 or more.
    confidence, accuracy : ndarray of float64, shape (b,)
        Mean probability of the predicted class, and share of predictions that are right.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: NDArray[np.integer[Any]]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float | None:
        """Mean gap between confidence and accuracy, weighted by images; None without images."""
        if not self.count.size:
            return None
        return float((self.count * np.abs(self.confidence - self.accuracy)).sum() / self.count.sum())


def equal_width_bins(confidence: Floats, correct: Bools, bins: int = BINS) -> Reliability:
    """Put images into bins of equal width from 0 to 1.

    Parameters
    ----------
    confidence : ndarray of float, shape (n,)
        Probability of the predicted class.
    correct : ndarray of bool, shape (n,)
        Whether the predicted class is the true one.
    bins : int
        Number of bins; bin k is open below and closed above, the first one holds 0 too.

    Raises
    ------
    MetricError
        If the arrays do not fit together, hold no probabilities, or `bins` is below 1.
    """
    check_confidence(confidence, correct, bins)
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(bin_of, minlength=bins)
    kept = count > 0
    return Reliability(
        low=edges[:-1][kept],
        high=edges[1:][kept],
        count=count[kept],
        confidence=sum_at(bin_of, confidence.astype(np.float64), bins)[kept] / count[kept],
        accuracy=sum_at(bin_of, correct.astype(np.float64), bins)[kept] / count[kept],
    )


def adaptive_bins(confidence: Floats, correct: Bools, bins: int = BINS) -> Reliability:
    """Put images into bins that hold equally many of them, give or take one.

    Parameters and errors are those of `equal_width_bins`. Where images of equal confidence fall into two bins,
    each bin counts their common accuracy, so that the order of the images does not matter.
    """
    check_confidence(confidence, correct, bins)
    values, group = np.unique(confidence.astype(np.float64), return_inverse=True)
    common = sum_at(group, correct.astype(np.float64), len(values)) / np.bincount(group, minlength=len(values))
    rank = np.sort(group)
    parts = [part for part in np.array_split(rank, bins) if part.size]
    return Reliability(
        low=np.array([values[part[0]] for part in parts]),
        high=np.array([values[part[-1]] for part in parts]),
        count=np.array([part.size for part in parts], dtype=np.intp),
        confidence=np.array([values[part].mean() for part in parts]),
        accuracy=np.array([common[part].mean() for part in parts]),
    )


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = BINS) -> float | None:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by images per bin.

    Parameters and errors are those of `equal_width_bins`; None without images.

    Notes
    -----
    Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
    """
    return equal_width_bins(confidence, correct, bins).error


def adaptive_calibration_error(confidence: Floats, correct: Bools, bins: int = BINS) -> float | None:
    """Mean gap between confidence and accuracy over bins that hold equally many images.

    Parameters and errors are those of `equal_width_bins`; None without images.

    Notes
    -----
    Nguyen & O'Connor (2015); the top-label form of Nixon et al., "Measuring Calibration in Deep Learning"
    (2019).
    """
    return adaptive_bins(confidence, correct, bins).error


def negative_log_likelihood(log_probabilities: Floats, target: Ints) -> float | None:
    """Mean of minus the log-probability of the true class, in nats.

    Parameters
    ----------
    log_probabilities : ndarray of float, shape (n, c)
        Natural logarithms of the probabilities, -inf allowed.
    target : ndarray of int, shape (n,)
        True class indices.

    Returns
    -------
    float or None
        None when it is infinite, that is when some image's true class has probability zero (JSON knows no
        infinity, and a clipped value would be the clip's figure), or without images.
    """
    scores = checked_scores(log_probabilities, target)
    check_sums(np.exp(scores))
    return finite_mean(-scores[np.arange(len(scores)), target])


def brier(probabilities: Floats, target: Ints) -> float | None:
    """Squared distance between an image's probabilities and its one-hot truth, averaged: 0 best, 2 worst.

    Parameters are shaped as in `negative_log_likelihood`; None without images.

    Notes
    -----
    Brier, "Verification of Forecasts Expressed in Terms of Probability" (1950): the sum over all classes.
    """
    checked = checked_scores(probabilities, target)
    check_sums(checked)
    errors = checked.copy()
    errors[np.arange(len(errors)), target] -= 1.0
    return finite_mean(np.square(errors).sum(axis=1))
