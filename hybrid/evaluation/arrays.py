"""What every metric requires of its arrays, and the sums they share.

Shapes: n images, c classes in the joint label space, that is seen and unseen classes together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import MetricError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

SUM_TOLERANCE = 1e-3  # half-precision softmax rows miss 1 by about this much


def sum_at(index: Ints, values: Floats, size: int) -> NDArray[np.float64]:
    """Sum `values` (n,) into `size` float64 places, image i into place ``index[i]``."""
    return np.asarray(np.bincount(index, weights=values, minlength=size), dtype=np.float64)


def finite_mean(values: Floats | Bools) -> float | None:
    """Give the mean, None where it is infinite or there is nothing to average."""
    mean = float(np.mean(values)) if len(values) else np.inf
    return mean if np.isfinite(mean) else None


def check_target(target: Ints, images: int, classes: int | None = None) -> None:
    """Refuse a target that is not one class index per image, from 0 to below `classes`."""
    if target.shape != (images,) or target.dtype.kind not in "iu":
        got = f"{target.dtype}, shape {target.shape}"
        raise MetricError("target does not fit", expected=f"int, shape ({images},)", got=got)
    low, high = target.min(initial=0), target.max(initial=0)
    if low < 0 or (classes is not None and high >= classes):
        expected = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise MetricError("a target is not a class index", expected=expected, got=f"{low} to {high}")


def checked_scores(scores: Floats, target: Ints, unseen: Bools | None = None) -> NDArray[np.float64]:
    """Give `scores` as float64, once they fit the others and every image has a finite best score."""
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise MetricError("scores do not fit", expected="shape (photos, classes)", got=f"{scores.shape}")
    check_target(target, *scores.shape)
    if unseen is not None and (unseen.shape != scores.shape[1:] or unseen.dtype != np.bool_):
        expected, got = f"bool, shape ({scores.shape[1]},)", f"{unseen.dtype}, shape {unseen.shape}"
        raise MetricError("the mask of unseen classes does not fit", expected=expected, got=got)
    # A row's maximum is NaN or infinite exactly if the row holds NaN or +inf, or nothing but -inf.
    bad = np.flatnonzero(~np.isfinite(scores.max(axis=1)))
    if bad.size:
        got = f"NaN, +inf or only -inf in {bad.size} rows, first in row {bad[0]}"
        raise MetricError("photos without a best class", expected="a finite largest score", got=got)
    return scores.astype(np.float64, copy=False)


def check_sums(probabilities: NDArray[np.float64]) -> None:
    """Refuse rows that hold negative values or miss a sum of 1 by more than `SUM_TOLERANCE`."""
    off = np.abs(probabilities.sum(axis=1) - 1.0)
    if off.max(initial=0.0) > SUM_TOLERANCE or probabilities.min(initial=0.0) < 0:
        got = f"row {off.argmax()} misses 1 by {off.max():.3g}; smallest value {probabilities.min():.3g}"
        raise MetricError("not probabilities", expected="values of 0 or more, rows that sum to 1", got=got)


def check_confidence(confidence: Floats, correct: Bools, bins: int = 1) -> None:
    """Refuse anything but n probabilities, n bools and at least one bin."""
    if confidence.ndim != 1 or confidence.shape != correct.shape or correct.dtype != np.bool_ or bins < 1:
        got = f"shape {confidence.shape}; {correct.dtype}, shape {correct.shape}; {bins} bins"
        raise MetricError("arrays do not fit", expected="n probabilities, n bools, 1 or more bins", got=got)
    # Written so that NaN fails too; a row may exceed 1 as far as its sum may.
    if not np.all((confidence >= 0) & (confidence <= 1 + SUM_TOLERANCE)):
        raise MetricError("not probabilities", expected="values from 0 to 1", got="values outside, or NaN")
