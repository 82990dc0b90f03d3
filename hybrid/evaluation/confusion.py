"""Which class is taken for which: confusion matrix, per-class figures, worst confusions and heat map."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import MetricError
from hybrid.evaluation.arrays import Ints, check_target

Counts = NDArray[np.int64]
MAX_CLASSES = 120  # more cannot be told apart on a screen
_WIDTH, _SMALLEST, _LARGEST = 860, 9, 30  # pixels: of all cells together, and of one
_LABEL_LENGTH = 26  # characters: the whole name is in the title


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
        raise MetricError("not a confusion matrix", expected="shape (classes, classes)", got=f"{confusion.shape}")


@dataclass(frozen=True)
class Cell:
    """One pair of classes that occurs: its place, how strong its color is, and what it says.

    Attributes
    ----------
    x, y : int
        Upper left corner, pixels.
    right : bool
        Whether the predicted class is the true one.
    share : float
        Of the true class's images, above 0 up to 1.
    count : int
        Images.
    title : str
    """

    x: int
    y: int
    right: bool
    share: float
    count: int
    title: str


@dataclass(frozen=True)
class Label:
    """A class at the edge of the map: `middle` is the center of its row and of its column, in pixels."""

    text: str
    title: str
    middle: float
    unseen: bool


@dataclass(frozen=True)
class HeatMap:
    """A confusion matrix, laid out.

    Attributes
    ----------
    cell, margin, size : int
        Pixels: side of a cell, room for the labels left and above, side of the whole map.
    font : float
        Height of the labels, pixels.
    labels : tuple of Label
    cells : tuple of Cell
        Only those with images.
    border : int or None
        Where unseen classes begin, pixels; None where only one kind is shown.
    hidden : int
        Classes left out: those with the fewest mistakes, where there are more than `MAX_CLASSES`.
    """

    cell: int
    margin: int
    size: int
    font: float
    labels: tuple[Label, ...]
    cells: tuple[Cell, ...]
    border: int | None
    hidden: int


def lay_out(confusion: Counts, names: Sequence[str], seen: int) -> HeatMap:
    """Place the rows, columns and cells of a heat map.

    Parameters
    ----------
    confusion : ndarray of int64, shape (c, c)
        Rows are true classes, columns predicted ones.
    names : sequence of c str
    seen : int
        The first `seen` classes are seen.
    """
    shown = _shown(confusion)
    cell = int(np.clip(_WIDTH // max(len(shown), 1), _SMALLEST, _LARGEST))
    font = min(0.9 * cell, 12.0)
    texts = [cut(names[k], _LABEL_LENGTH) for k in shown]
    margin = int(max((_width(text) for text in texts), default=0) * 0.6 * font) + 10
    first_unseen = int(np.searchsorted(shown, seen))
    images = confusion.sum(axis=1)
    cells = []
    for row, column in zip(*np.nonzero(confusion[np.ix_(shown, shown)]), strict=True):
        true, predicted = int(shown[row]), int(shown[column])
        count = int(confusion[true, predicted])
        verdict = "right" if true == predicted else f"predicted as {names[predicted]}"
        cells.append(
            Cell(
                x=margin + int(column) * cell,
                y=margin + int(row) * cell,
                right=true == predicted,
                share=count / int(images[true]),
                count=count,
                title=f"{names[true]}: {count} of {images[true]} photos {verdict} ({count / images[true]:.0%})",
            )
        )
    return HeatMap(
        cell=cell,
        margin=margin,
        size=margin + len(shown) * cell + 1,
        font=font,
        labels=tuple(
            Label(text, f"{names[k]} ({'seen' if k < seen else 'unseen'})", margin + (place + 0.5) * cell, k >= seen)
            for place, (k, text) in enumerate(zip(shown.tolist(), texts, strict=True))
        ),
        cells=tuple(cells),
        border=margin + first_unseen * cell if 0 < first_unseen < len(shown) else None,
        hidden=len(names) - len(shown),
    )


def _shown(confusion: Counts) -> NDArray[np.intp]:
    """Pick the classes to show, in their order: all, or those with the most mistakes."""
    if len(confusion) <= MAX_CLASSES:
        return np.arange(len(confusion))
    mistakes = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
    return np.sort(np.argsort(-mistakes, kind="stable")[:MAX_CLASSES])


def cut(text: str, length: int) -> str:
    """Cut a text to so many characters, the last an ellipsis where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _width(text: str) -> float:
    """Estimate how wide a text is, in narrow characters."""
    return sum(1.7 if unicodedata.east_asian_width(character) in "WF" else 1.0 for character in text)
