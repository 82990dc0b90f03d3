"""Whether a probability can be trusted: reliability, calibration errors, likelihood, Brier score, risk and coverage.

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
        """Calibration error: mean gap between confidence and accuracy, weighted by images; None without images."""
        if not self.count.size:
            return None
        return float((self.count * np.abs(self.confidence - self.accuracy)).sum() / self.count.sum())

    @property
    def debiased_error(self) -> float | None:
        """Root of the mean squared gap less what chance adds to it; None where no bin holds two images.

        `error` is above 0 even if every probability is true, the more so the fewer images a bin holds. The mean square
        that this is the root of has no such bias, so it may fall below 0: then its size gets a minus sign, which says
        that the gaps are smaller than chance alone makes them. Bins of one image cannot say, and are left out.

        Notes
        -----
        Kumar, Liang & Ma, "Verified Uncertainty Calibration" (2019), section 5: the debiased estimator, whose root they
        cut at 0.
        """
        several = self.count > 1
        if not several.any():
            return None
        count, accuracy = self.count[several], self.accuracy[several]
        by_chance = accuracy * (1 - accuracy) / (count - 1)
        squared = np.average((self.confidence[several] - accuracy) ** 2 - by_chance, weights=count)
        return float(np.copysign(np.sqrt(abs(squared)), squared))


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

    Notes
    -----
    Their `error` is the ECE: Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
    """
    check_confidence(confidence, correct, bins)
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(bin_of, minlength=bins)
    filled = count > 0
    return Reliability(
        low=edges[:-1][filled],
        high=edges[1:][filled],
        count=count[filled],
        confidence=sum_at(bin_of, confidence.astype(np.float64), bins)[filled] / count[filled],
        accuracy=sum_at(bin_of, correct.astype(np.float64), bins)[filled] / count[filled],
    )


def adaptive_bins(confidence: Floats, correct: Bools, bins: int = BINS) -> Reliability:
    """Put images into bins that hold equally many of them, give or take one.

    Parameters and errors are those of `equal_width_bins`. Where images of equal confidence fall into two bins,
    each bin counts their common accuracy, so that the order of the images does not matter.

    Notes
    -----
    Nguyen & O'Connor (2015); their `error` is the top-label form of Nixon et al., "Measuring Calibration in Deep
    Learning" (2019).
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


def brier(probabilities: Floats, target: Ints) -> float | None:
    """Squared distance between an image's probabilities and its one-hot true class, averaged: 0 best, 2 worst.

    Probabilities are (n, c), `target` holds n true class indices; None without images.

    Notes
    -----
    Brier, "Verification of Forecasts Expressed in Terms of Probability" (1950): the sum over all classes.
    """
    checked = checked_scores(probabilities, target)
    check_sums(checked)
    errors = checked.copy()
    errors[np.arange(len(errors)), target] -= 1.0
    return finite_mean(np.square(errors).sum(axis=1))


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Every operating point that a threshold on the confidence can reach, coverage rising.

    Attributes
    ----------
    threshold : ndarray of float64, shape (m,)
        The distinct confidences, falling: point k answers the images of at least ``threshold[k]``.
    coverage : ndarray of float64, shape (m,)
        Share of all images that are answered; ends at 1.
    risk : ndarray of float64, shape (m,)
        Share of the answered images that are answered wrongly.
    """

    threshold: NDArray[np.float64]
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]


def risk_coverage(confidence: Floats, correct: Bools) -> RiskCoverage:
    """Trade wrong answers against refused ones, exactly, at every threshold.

    Images of equal confidence are answered or refused together, as no threshold can tell them apart: a curve that
    ordered them by chance would promise points that cannot be reached.

    Parameters
    ----------
    confidence : ndarray of float, shape (n,)
        Probability of the predicted class.
    correct : ndarray of bool, shape (n,)
        Whether the predicted class is the true one.

    Returns
    -------
    RiskCoverage
        At most n points; none without images.

    Raises
    ------
    MetricError
        If the arrays do not fit together or hold no probabilities.

    Notes
    -----
    Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks" (2017).
    """
    check_confidence(confidence, correct)
    values, level = np.unique(-confidence.astype(np.float64), return_inverse=True)
    answered = np.cumsum(np.bincount(level, minlength=len(values)))
    wrong = np.cumsum(sum_at(level, (~correct).astype(np.float64), len(values)))
    return RiskCoverage(threshold=-values, coverage=answered / max(len(confidence), 1), risk=wrong / answered)


def aurc(curve: RiskCoverage) -> float | None:
    """Area under the risk-coverage curve: 0 is best, and a confidence that says nothing gives the error rate.

    Returns
    -------
    float or None
        None without images.

    Notes
    -----
    The mean, over all n images, of the risk at the threshold that just answers this image: equation 2 of Geifman,
    Uziel & El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers" (2019). A step of the curve
    is as wide as the share of images that share its threshold.
    """
    if not curve.coverage.size:
        return None
    return float(np.sum(np.diff(curve.coverage, prepend=0.0) * curve.risk))
