"""Lay out a confusion matrix as a heat map: which cells and labels go where, in pixels."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.evaluation.confusion import Counts

MAX_CLASSES = 120  # more cannot be told apart on a screen
_WIDTH, _SMALLEST, _LARGEST = 860, 9, 30  # pixels: of all cells together, and of one
_LABEL_LENGTH = 26  # characters, then cut: the whole name is in the title


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
    texts = [_cut(names[k]) for k in shown]
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


def _cut(text: str) -> str:
    return text if len(text) <= _LABEL_LENGTH else text[: _LABEL_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _width(text: str) -> float:
    """Estimate how wide a text is, in narrow characters."""
    return sum(1.7 if unicodedata.east_asian_width(character) in "WF" else 1.0 for character in text)
