"""What a system gains by answering only where it is sure: the risk-coverage curve and its area."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.evaluation.arrays import Bools, Floats, check_confidence, sum_at


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
