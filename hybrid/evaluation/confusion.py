"""Which class is taken for which: confusion matrix, per-class figures and the worst confusions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import MetricError
from hybrid.evaluation.arrays import Ints, check_target

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ClassScores:
    """How one class fares; a share of nothing is None.

    Attributes
    ----------
    precision : float or None
        Share of the images predicted as this class that are of it; None if there are none.
    recall : float or None
        Share of the images of this class that are predicted as it; None if there are none.
    f1 : float or None
        Harmonic mean of both, 0 where no image is right; None for a class neither present nor predicted.
    support, predicted : int
        Images of this class, and images predicted as it.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int


def confusion_matrix(predicted: Ints, target: Ints, classes: int) -> Counts:
    """Count the images of every pair of true and predicted class.

    Parameters
    ----------
    predicted, target : ndarray of int, shape (n,)
        Class indices from 0 to ``classes - 1``.
    classes : int

    Returns
    -------
    ndarray of int64, shape (classes, classes)
        Rows are true classes, columns predicted ones.

    Raises
    ------
    MetricError
        If the arrays do not fit together or hold anything but class indices.
    """
    check_target(target, len(target), classes)
    check_target(predicted, len(target), classes)
    pairs = target.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64, copy=False)


def per_class_scores(confusion: Counts) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of each class.

    Parameters
    ----------
    confusion : ndarray of int64, shape (c, c)
        Of `confusion_matrix`.

    Returns
    -------
    tuple of ClassScores
        In the order of the rows.

    Raises
    ------
    MetricError
        If the matrix is not square.
    """
    _check_square(confusion)

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    columns = (confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0))
    return tuple(
        ClassScores(
            precision=share(right, predicted),
            recall=share(right, support),
            f1=share(2 * right, support + predicted),
            support=support,
            predicted=predicted,
        )
        for right, support, predicted in zip(*(column.tolist() for column in columns), strict=True)
    )


def worst_confusions(confusion: Counts, limit: int) -> list[tuple[int, int, int]]:
    """Name the most frequent mistakes.

    Parameters
    ----------
    confusion : ndarray of int64, shape (c, c)
        Of `confusion_matrix`.
    limit : int
        At most so many.

    Returns
    -------
    list of (true, predicted, count)
        Class indices and images, most images first, then in the order of the classes; only pairs that occur.

    Raises
    ------
    MetricError
        If the matrix is not square.
    """
    _check_square(confusion)
    true, predicted = np.nonzero(confusion - np.diag(confusion.diagonal()))
    counts = confusion[true, predicted]
    order = np.argsort(-counts, kind="stable")[:limit]
    return list(zip(true[order].tolist(), predicted[order].tolist(), counts[order].tolist(), strict=True))


def _check_square(confusion: Counts) -> None:
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise MetricError("no confusion matrix", expected="shape (classes, classes)", got=f"{confusion.shape}")
