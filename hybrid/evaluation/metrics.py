"""Metrics of generalised zero-shot classification: pure functions over numpy arrays.

Shapes: n photos, c classes in the joint label space, that is seen and unseen classes together.
A figure that does not apply is None, never NaN, so that it is null in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import MetricError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

SUM_TOLERANCE = 1e-3  # half-precision softmax rows miss 1 by about this much


@dataclass(frozen=True, eq=False)
class Curve:
    """Every operating point that a bias on the unseen classes' scores can reach, bias rising.

    Attributes
    ----------
    bias : ndarray of float64, shape (m,)
        Point k holds for biases from ``bias[k]`` up to, not including, ``bias[k + 1]``; ``bias[0]`` is -inf.
    seen : ndarray of float64, shape (m,)
        Mean per-class accuracy of the photos of seen classes; never rises.
    unseen : ndarray of float64, shape (m,)
        Mean per-class accuracy of the photos of unseen classes; never falls.
    """

    bias: NDArray[np.float64]
    seen: NDArray[np.float64]
    unseen: NDArray[np.float64]


@dataclass(frozen=True)
class SystemScores:
    """The figures of one system; field names are the keys of evaluate's JSON, None becomes null.

    Attributes
    ----------
    accuracy : float or None
        Share of all photos whose most probable class is the true one.
    seen, unseen, harmonic_mean : float or None
        Mean per-class accuracy of the photos of seen and of unseen classes in the joint label space.
    ausuc, gate_auroc, nll : float or None
        See the functions; `ausuc` is None too where no photo has any probability on an unseen class.
    ece, ece_seen, ece_unseen : float or None
        Expected calibration error over all photos, over those of seen and over those of unseen classes.
    images_per_second : float or None
        Photos answered per second, as the caller measured it.
    """

    accuracy: float | None
    seen: float | None
    unseen: float | None
    harmonic_mean: float | None
    ausuc: float | None
    gate_auroc: float | None
    ece: float | None
    ece_seen: float | None
    ece_unseen: float | None
    nll: float | None
    images_per_second: float | None


def mean_per_class_accuracy(predicted: Ints, target: Ints, classes: Sequence[int] | Ints) -> float | None:
    """Average, over classes, the share of a class's photos that are predicted right.

    Parameters
    ----------
    predicted : ndarray of int, shape (n,)
        Predicted class indices; -1 may stand for "none of these".
    target : ndarray of int, shape (n,)
        True class indices, 0 or more.
    classes : sequence of int
        The classes to average over; those without a photo are left out.

    Returns
    -------
    float or None
        None when none of `classes` has a photo.

    Notes
    -----
    The measure of generalised zero-shot learning since Xian et al., "Zero-Shot Learning: A Comprehensive
    Evaluation of the Good, the Bad and the Ugly" (2018): frequent classes do not drown rare ones.
    """
    _check_target(target, len(predicted))
    wanted = np.unique(np.asarray(classes, dtype=np.intp))
    size = int(max(target.max(initial=-1), wanted.max(initial=-1))) + 1
    photos = np.bincount(target, minlength=size)[wanted]
    right = np.bincount(target[predicted == target], minlength=size)[wanted]
    present = photos > 0
    return float(np.mean(right[present] / photos[present])) if present.any() else None


def harmonic_mean(seen: float | None, unseen: float | None) -> float | None:
    """Harmonic mean of two accuracies: None if either is None, 0 if both are 0."""
    if seen is None or unseen is None:
        return None
    return 2 * seen * unseen / (seen + unseen) if seen + unseen > 0 else 0.0


def seen_unseen_curve(log_probabilities: Floats, target: Ints, unseen: Bools) -> Curve:
    """Trade seen against unseen accuracy by a bias on all unseen classes, exactly, at every breakpoint.

    A photo goes to its best unseen class once the bias reaches its switch point: best seen score minus best
    unseen score (a tie goes to unseen). A photo with probability 0 on all unseen classes never switches;
    one with probability 0 on all seen classes is always switched. Both groups must have photos.

    Parameters
    ----------
    log_probabilities : ndarray of float, shape (n, c)
        Natural logarithms of the probabilities, -inf allowed. A constant per photo changes nothing, so
        that the rows' sums are not checked.
    target : ndarray of int, shape (n,)
        True class indices.
    unseen : ndarray of bool, shape (c,)
        Which classes are unseen.

    Returns
    -------
    Curve
        At most n + 1 points.

    Notes
    -----
    Calibrated stacking: Chao et al., "An Empirical Study and Analysis of Generalized Zero-Shot Learning for
    Object Recognition in the Wild" (2016). Cost: one sort of n numbers, not n evaluations.
    """
    scores = _checked_scores(log_probabilities, target, unseen)
    is_unseen = unseen[target]
    if is_unseen.all() or not is_unseen.any():
        raise MetricError(
            "no seen-unseen curve can be drawn",
            expected="photos of seen and of unseen classes",
            got=f"{int((~is_unseen).sum())} of seen and {int(is_unseen.sum())} of unseen classes",
        )

    best_seen, seen_score = _best_of(scores, np.flatnonzero(~unseen))
    best_unseen, unseen_score = _best_of(scores, np.flatnonzero(unseen))
    # Both ends are added so that the curve starts at -inf and the last level is +inf, which is no point of
    # the curve: its photos are never switched.
    switch = np.append(seen_score - unseen_score, [-np.inf, np.inf])
    levels, level = np.unique(switch, return_inverse=True)

    photos = np.bincount(target, minlength=len(unseen))
    groups = np.array([np.count_nonzero(photos[~unseen]), np.count_nonzero(photos[unseen])])
    weight = 1.0 / (photos[target] * groups[is_unseen.astype(np.intp)])
    lost = _sum_at(level[:-2], weight * (best_seen == target), len(levels))
    gained = _sum_at(level[:-2], weight * (best_unseen == target), len(levels))
    # Summed from the far end, so that a curve on which every photo switches ends at exactly 0.
    remaining = np.cumsum(lost[::-1])[::-1]
    return Curve(bias=levels[:-1], seen=remaining[1:], unseen=np.cumsum(gained)[:-1])


def ausuc(curve: Curve) -> float:
    """Area under unseen accuracy as a function of seen accuracy, from seen = 0 to its largest value.

    Notes
    -----
    Chao et al. (2016) define the area and leave the quadrature open; the trapezoid rule over all operating
    points is what published code uses. Two points in a row differ in both accuracies only where photos
    share a switch point, so that trapezoids and steps agree otherwise. Where some photos can never be
    switched, the curve stops before seen = 0; its last unseen accuracy is held from there down to 0, as in
    the code of COSMO (Atzmon & Chechik 2019).
    """
    seen = np.append(curve.seen, 0.0)
    unseen = np.append(curve.unseen, curve.unseen[-1])
    return float(np.sum((seen[:-1] - seen[1:]) * (unseen[:-1] + unseen[1:]) / 2))


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = 15) -> float | None:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by photos per bin.

    Parameters
    ----------
    confidence : ndarray of float, shape (n,)
        Probability of the predicted class.
    correct : ndarray of bool, shape (n,)
        Whether the predicted class is the true one.
    bins : int
        Number of bins; bin k is open below and closed above, the first one holds 0 too.

    Returns
    -------
    float or None
        None without photos.

    Notes
    -----
    Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
    """
    _check_confidence(confidence, correct, bins)
    if len(confidence) == 0:
        return None
    inner_edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    bin_of = np.searchsorted(inner_edges, confidence, side="left")
    # Photos times gap is |sum of confidence - sum of correct|: no division by the size of an empty bin.
    gaps = _sum_at(bin_of, confidence.astype(np.float64) - correct, bins)
    return float(np.abs(gaps).sum() / len(confidence))


def adaptive_calibration_error(confidence: Floats, correct: Bools, bins: int = 15) -> float | None:
    """Mean gap between confidence and accuracy over bins that hold equally many photos.

    Parameters and result are those of `expected_calibration_error`. Where photos of equal confidence fall
    into two bins, each bin counts their common accuracy, so that the order of the photos does not matter.

    Notes
    -----
    Nguyen & O'Connor (2015); the top-label form of Nixon et al., "Measuring Calibration in Deep Learning"
    (2019). Bin sizes differ by at most one photo.
    """
    _check_confidence(confidence, correct, bins)
    if len(confidence) == 0:
        return None
    values, group = np.unique(confidence.astype(np.float64), return_inverse=True)
    accuracy = _sum_at(group, correct.astype(np.float64), len(values)) / np.bincount(group)
    signed = (values - accuracy)[np.sort(group)]
    return float(sum(abs(part.sum()) for part in np.array_split(signed, bins)) / len(confidence))


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
        None when it is infinite, that is when some photo's true class has probability zero (JSON knows no
        infinity, and a clipped value would be the clip's figure), or without photos.
    """
    scores = _checked_scores(log_probabilities, target)
    _check_sums(np.exp(scores))
    return _finite_mean(-scores[np.arange(len(scores)), target])


def brier(probabilities: Floats, target: Ints) -> float | None:
    """Squared distance between a photo's probabilities and its one-hot truth, averaged: 0 best, 2 worst.

    Parameters are shaped as in `negative_log_likelihood`; None without photos.

    Notes
    -----
    Brier, "Verification of Forecasts Expressed in Terms of Probability" (1950): the sum over all classes.
    """
    checked = _checked_scores(probabilities, target)
    _check_sums(checked)
    errors = checked.copy()
    errors[np.arange(len(errors)), target] -= 1.0
    return _finite_mean(np.square(errors).sum(axis=1))


def gate_auroc(p_unseen: Floats, is_unseen: Bools) -> float | None:
    """Probability that a photo of an unseen class has the larger p(unseen), against one of a seen class.

    Parameters
    ----------
    p_unseen : ndarray of float, shape (n,)
        Probability that the photo's class is an unseen one.
    is_unseen : ndarray of bool, shape (n,)
        Whether it is.

    Returns
    -------
    float or None
        Area under the ROC curve, ties counted half; None if one group has no photo.
    """
    _check_confidence(p_unseen, is_unseen)
    if is_unseen.all() or not is_unseen.any():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_unseen, p_unseen))


def score_system(
    probabilities: Floats,
    target: Ints,
    unseen: Bools,
    *,
    p_unseen: Floats | None,
    images_per_second: float | None,
) -> SystemScores:
    """Compute every figure of one system; see `SystemScores` for their meaning.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, c)
        Over all classes, rows sum to 1; a supervised system has zeros at the unseen classes.
    target, unseen : ndarray
        As in `seen_unseen_curve`.
    p_unseen : ndarray of float, shape (n,), or None
        The gate's probability of "unseen", None for a system without a gate.
    images_per_second : float or None
        Measured by the caller.
    """
    checked = _checked_scores(probabilities, target, unseen)
    _check_sums(checked)
    is_unseen = unseen[target]
    predicted = checked.argmax(axis=1)
    confidence = checked.max(axis=1)
    correct = predicted == target
    with np.errstate(divide="ignore"):  # log(0) = -inf is meant
        log_probabilities = np.log(checked)

    seen_accuracy = mean_per_class_accuracy(predicted, target, np.flatnonzero(~unseen))
    unseen_accuracy = mean_per_class_accuracy(predicted, target, np.flatnonzero(unseen))
    both_groups = seen_accuracy is not None and unseen_accuracy is not None
    # A system that never scores an unseen class leaves nothing to bias: an area of 0 would call it bad at
    # what it does not do.
    has_curve = both_groups and bool(checked[:, unseen].any())
    return SystemScores(
        accuracy=_finite_mean(correct),
        seen=seen_accuracy,
        unseen=unseen_accuracy,
        harmonic_mean=harmonic_mean(seen_accuracy, unseen_accuracy),
        ausuc=ausuc(seen_unseen_curve(log_probabilities, target, unseen)) if has_curve else None,
        gate_auroc=None if p_unseen is None else gate_auroc(p_unseen, is_unseen),
        ece=expected_calibration_error(confidence, correct),
        ece_seen=expected_calibration_error(confidence[~is_unseen], correct[~is_unseen]),
        ece_unseen=expected_calibration_error(confidence[is_unseen], correct[is_unseen]),
        nll=_finite_mean(-log_probabilities[np.arange(len(target)), target]),
        images_per_second=images_per_second,
    )


def _best_of(scores: NDArray[np.float64], columns: Ints) -> tuple[Ints, NDArray[np.float64]]:
    """Each photo's best class among `columns`, and its score."""
    part = scores[:, columns]
    best = part.argmax(axis=1)
    return columns[best], part[np.arange(len(part)), best]


def _sum_at(index: Ints, values: Floats, size: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(index, weights=values, minlength=size), dtype=np.float64)


def _finite_mean(values: Floats | Bools) -> float | None:
    mean = float(np.mean(values)) if len(values) else np.inf
    return mean if np.isfinite(mean) else None


def _check_target(target: Ints, photos: int, classes: int | None = None) -> None:
    if target.shape != (photos,) or target.dtype.kind not in "iu":
        got = f"{target.dtype}, shape {target.shape}"
        raise MetricError("target does not fit", expected=f"int, shape ({photos},)", got=got)
    low, high = target.min(initial=0), target.max(initial=0)
    if low < 0 or (classes is not None and high >= classes):
        expected = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise MetricError("a target is no class index", expected=expected, got=f"{low} to {high}")


def _checked_scores(scores: Floats, target: Ints, unseen: Bools | None = None) -> NDArray[np.float64]:
    """Give `scores` as float64, once they fit the others and every photo has a finite best score."""
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise MetricError("scores do not fit", expected="shape (photos, classes)", got=f"{scores.shape}")
    _check_target(target, *scores.shape)
    if unseen is not None and (unseen.shape != scores.shape[1:] or unseen.dtype != np.bool_):
        expected, got = f"bool, shape ({scores.shape[1]},)", f"{unseen.dtype}, shape {unseen.shape}"
        raise MetricError("the mask of unseen classes does not fit", expected=expected, got=got)
    # A row's maximum is NaN or infinite exactly if the row holds NaN or +inf, or nothing but -inf.
    bad = np.flatnonzero(~np.isfinite(scores.max(axis=1)))
    if bad.size:
        got = f"NaN, +inf or only -inf in {bad.size} rows, first in row {bad[0]}"
        raise MetricError("photos without a best class", expected="a finite largest score", got=got)
    return scores.astype(np.float64, copy=False)


def _check_sums(probabilities: NDArray[np.float64]) -> None:
    off = np.abs(probabilities.sum(axis=1) - 1.0)
    if off.max(initial=0.0) > SUM_TOLERANCE or probabilities.min(initial=0.0) < 0:
        got = f"row {off.argmax()} misses 1 by {off.max():.3g}; smallest value {probabilities.min():.3g}"
        raise MetricError("no probabilities", expected="values of 0 or more, rows that sum to 1", got=got)


def _check_confidence(confidence: Floats, truth: Bools, bins: int = 1) -> None:
    if confidence.ndim != 1 or confidence.shape != truth.shape or truth.dtype != np.bool_ or bins < 1:
        got = f"shape {confidence.shape}; {truth.dtype}, shape {truth.shape}; {bins} bins"
        raise MetricError("arrays do not fit", expected="n probabilities, n bools, 1 or more bins", got=got)
    # Written so that NaN fails too; a row may exceed 1 as far as its sum may.
    if not np.all((confidence >= 0) & (confidence <= 1 + SUM_TOLERANCE)):
        raise MetricError("no probabilities", expected="values from 0 to 1", got="values outside, or NaN")
