"""Metrics of generalized zero-shot classification: pure functions over numpy arrays.

Shapes: n images, c classes in the joint label space, that is seen and unseen classes together.
A figure that does not apply is None, never NaN, so that it is null in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import MetricError
from hybrid.evaluation.arrays import (
    Bools,
    Floats,
    Ints,
    check_confidence,
    check_sums,
    check_target,
    checked_scores,
    finite_mean,
    sum_at,
)
from hybrid.evaluation.calibration import adaptive_bins, aurc, brier, equal_width_bins, risk_coverage


@dataclass(frozen=True, eq=False)
class Curve:
    """Every operating point that a bias on the unseen classes' scores can reach, bias rising.

    Attributes
    ----------
    bias : ndarray of float64, shape (m,)
        Point k holds for biases from ``bias[k]`` up to, not including, ``bias[k + 1]``; ``bias[0]`` is -inf.
    seen : ndarray of float64, shape (m,)
        Mean per-class accuracy of the images of seen classes; never rises.
    unseen : ndarray of float64, shape (m,)
        Mean per-class accuracy of the images of unseen classes; never falls.
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
        Share of all images whose most probable class is the true one.
    seen, unseen, harmonic_mean : float or None
        Mean per-class accuracy of the images of seen and of unseen classes in the joint label space.
    ausuc, gate_auroc : float or None
        See the functions; `ausuc` is None too where no image has any probability on an unseen class.
    ece, ece_seen, ece_unseen : float or None
        Expected calibration error over all images, over those of seen and over those of unseen classes.
    ece_debiased : float or None
        Over all images, less what chance adds; see `calibration.Reliability.debiased_error`.
    adaptive_ece, nll, brier, aurc : float or None
        Over all images; see `calibration`; `nll` is minus the log-probability of the true class in nats, averaged, and
        None too where some true class has probability zero: JSON knows no infinity, and a clipped value would be the
        clip's figure.
    images_per_second : float or None
        Images answered per second, as the caller measured it.
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
    ece_debiased: float | None
    adaptive_ece: float | None
    nll: float | None
    brier: float | None
    aurc: float | None
    images_per_second: float | None


def mean_per_class_accuracy(predicted: Ints, target: Ints, classes: Sequence[int] | Ints) -> float | None:
    """Average, over classes, the share of a class's images that are predicted right.

    Parameters
    ----------
    predicted : ndarray of int, shape (n,)
        Predicted class indices; -1 may stand for "none of these".
    target : ndarray of int, shape (n,)
        True class indices, 0 or more.
    classes : sequence of int
        The classes to average over; those without an image are left out.

    Returns
    -------
    float or None
        None when none of `classes` has an image.

    Notes
    -----
    The measure of generalized zero-shot learning since Xian et al., "Zero-Shot Learning: A Comprehensive
    Evaluation of the Good, the Bad and the Ugly" (2018): frequent classes do not drown rare ones.
    """
    check_target(target, len(predicted))
    wanted = np.unique(np.asarray(classes, dtype=np.intp))
    size = int(max(target.max(initial=-1), wanted.max(initial=-1))) + 1
    images = np.bincount(target, minlength=size)[wanted]
    right = np.bincount(target[predicted == target], minlength=size)[wanted]
    present = images > 0
    return float(np.mean(right[present] / images[present])) if present.any() else None


def harmonic_mean(seen: float | None, unseen: float | None) -> float | None:
    """Harmonic mean of two accuracies: None if either is None, 0 if both are 0."""
    if seen is None or unseen is None:
        return None
    return 2 * seen * unseen / (seen + unseen) if seen + unseen > 0 else 0.0


def seen_unseen_curve(log_probabilities: Floats, target: Ints, unseen: Bools) -> Curve:
    """Trade seen against unseen accuracy by a bias on all unseen classes, exactly, at every breakpoint.

    An image goes to its best unseen class once the bias reaches its switch point: best seen score minus best
    unseen score (a tie goes to unseen). An image with probability 0 on all unseen classes never switches;
    one with probability 0 on all seen classes is always switched. Both groups must have images.

    Parameters
    ----------
    log_probabilities : ndarray of float, shape (n, c)
        Natural logarithms of the probabilities, -inf allowed. A constant per image changes nothing, so
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
    scores = checked_scores(log_probabilities, target, unseen)
    is_unseen = unseen[target]
    if is_unseen.all() or not is_unseen.any():
        raise MetricError(
            "no seen-unseen curve can be drawn",
            expected="photos of seen and of unseen classes",
            got=f"{int((~is_unseen).sum())} of seen and {int(is_unseen.sum())} of unseen classes",
            fix="evaluate photos of both kinds, and name the unseen classes (--prompts)",
        )

    best_seen, seen_score = _best_of(scores, np.flatnonzero(~unseen))
    best_unseen, unseen_score = _best_of(scores, np.flatnonzero(unseen))
    # Both ends are added so that the curve starts at -inf and the last level is +inf, which is not a point of
    # the curve: its images are never switched.
    switch = np.append(seen_score - unseen_score, [-np.inf, np.inf])
    levels, level = np.unique(switch, return_inverse=True)

    images = np.bincount(target, minlength=len(unseen))
    groups = np.array([np.count_nonzero(images[~unseen]), np.count_nonzero(images[unseen])])
    weight = 1.0 / (images[target] * groups[is_unseen.astype(np.intp)])
    lost = sum_at(level[:-2], weight * (best_seen == target), len(levels))
    gained = sum_at(level[:-2], weight * (best_unseen == target), len(levels))
    # Summed from the far end, so that a curve on which every image switches ends at exactly 0.
    remaining = np.cumsum(lost[::-1])[::-1]
    return Curve(bias=levels[:-1], seen=remaining[1:], unseen=np.cumsum(gained)[:-1])


def ausuc(curve: Curve) -> float:
    """Area under unseen accuracy as a function of seen accuracy, from seen = 0 to its largest value.

    Notes
    -----
    Chao et al. (2016) define the area and leave the quadrature open; the trapezoid rule over all operating
    points is what published code uses. Two points in a row differ in both accuracies only where images
    share a switch point, so that trapezoids and steps agree otherwise. Where some images can never be
    switched, the curve stops before seen = 0; its last unseen accuracy is held from there down to 0, as in
    the code of COSMO (Atzmon & Chechik 2019).
    """
    seen = np.append(curve.seen, 0.0)
    unseen = np.append(curve.unseen, curve.unseen[-1])
    return float(np.sum((seen[:-1] - seen[1:]) * (unseen[:-1] + unseen[1:]) / 2))


def gate_auroc(p_unseen: Floats, is_unseen: Bools) -> float | None:
    """Probability that an image of an unseen class has the larger p(unseen), against one of a seen class.

    Parameters
    ----------
    p_unseen : ndarray of float, shape (n,)
        Probability that the image's class is an unseen one.
    is_unseen : ndarray of bool, shape (n,)
        Whether it is.

    Returns
    -------
    float or None
        Area under the ROC curve, ties counted half; None if one group has no image.
    """
    check_confidence(p_unseen, is_unseen)
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
    checked = checked_scores(probabilities, target, unseen)
    check_sums(checked)
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
    bins = equal_width_bins(confidence, correct)
    return SystemScores(
        accuracy=finite_mean(correct),
        seen=seen_accuracy,
        unseen=unseen_accuracy,
        harmonic_mean=harmonic_mean(seen_accuracy, unseen_accuracy),
        ausuc=ausuc(seen_unseen_curve(log_probabilities, target, unseen)) if has_curve else None,
        gate_auroc=None if p_unseen is None else gate_auroc(p_unseen, is_unseen),
        ece=bins.error,
        ece_seen=equal_width_bins(confidence[~is_unseen], correct[~is_unseen]).error,
        ece_unseen=equal_width_bins(confidence[is_unseen], correct[is_unseen]).error,
        ece_debiased=bins.debiased_error,
        adaptive_ece=adaptive_bins(confidence, correct).error,
        nll=finite_mean(-log_probabilities[np.arange(len(target)), target]),
        brier=brier(checked, target),
        aurc=aurc(risk_coverage(confidence, correct)),
        images_per_second=images_per_second,
    )


def _best_of(scores: NDArray[np.float64], columns: Ints) -> tuple[Ints, NDArray[np.float64]]:
    """Each image's best class among `columns`, and its score."""
    part = scores[:, columns]
    best = part.argmax(axis=1)
    return columns[best], part[np.arange(len(part)), best]
