"""What the labels changed: how often the classifier was right, before and after it last learned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hybrid.evaluation.calibration import equal_width_bins
from hybrid.index.given import RANDOM, GivenLabel
from hybrid.index.store import EmbeddingStore
from hybrid.labels.names import class_key
from hybrid.run.files import Layout

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figures:
    """How often the classifier was right about images that were drawn at random.

    Attributes
    ----------
    images, right : int
    accuracy, low, high : float
        `right` / `images` and its Wilson interval, 95 %.
    ece : float
        Expected calibration error of the answers.
    """

    images: int
    right: int
    accuracy: float
    low: float
    high: float
    ece: float


@dataclass(frozen=True)
class Answered:
    """An image that was drawn at random, what had been said of it before, and what a person says.

    Attributes
    ----------
    label : str
        In force.
    answer : str
        From `Pool.answers`, before the label was known to any classifier.
    """

    label: str
    answer: str


def progress(layout: Layout, head: str | None) -> dict[str, Any]:
    """What people labeled in a run, and what came of it.

    Each image counts once, by the classifier that answered when nobody had told its label yet. So no classifier is held
    against an image that it learned from, and all images that were drawn at random count, those that train later too.

    Parameters
    ----------
    layout : Layout
        Of a run that has an index.
    head : str or None
        `Pool.head_name` of the present classifier.

    Returns
    -------
    dict
        ``labels`` and ``random``: images that people labeled, and those of them that were drawn at random. ``before``
        and ``after``: the fields of `Figures`, or None where there is no image, by earlier heads and gates and by the
        present one. ``sources``: of images that were drawn from those with a label of their source, how many were
        ``checked``, how many of these were ``wrong``, and the interval ``low`` to ``high`` of that share; or None.
    """
    with EmbeddingStore(layout.store, read_only=True) as store:
        history, in_force = store.given_labels(), store.labels_in_force()
    undone = {row.undoes for row in history}
    first: dict[str, GivenLabel] = {}
    for row in history:
        if row.undoes is None and row.id not in undone and row.sha256 in in_force:
            first.setdefault(row.sha256, row)
    drawn = [(row, str(in_force[sha256].label)) for sha256, row in first.items() if row.why == RANDOM]
    answers = [Answered(label, row.answer) for row, label in drawn if row.was is None and row.answer is not None]
    checked = [class_key(label) == class_key(row.was) for row, label in drawn if row.was is not None]
    return {
        "labels": len(in_force),
        "random": len(drawn),
        **before_and_after(answers, head),
        "sources": _wrong(checked),
    }


def before_and_after(answers: Iterable[Answered], head: str | None) -> dict[str, dict[str, Any] | None]:
    """Give ``before`` and ``after`` of `progress`, of images that were drawn at random."""
    before: list[Answered] = []
    after: list[Answered] = []
    for one in answers:
        (after if json.loads(one.answer)["head"] == head else before).append(one)
    both = {"before": figures(before), "after": figures(after)}
    return {name: None if found is None else asdict(found) for name, found in both.items()}


def figures(answers: Sequence[Answered]) -> Figures | None:
    """Count how often answers were right; None where there is none."""
    if not answers:
        return None
    said = [json.loads(one.answer) for one in answers]
    pairs = zip(answers, said, strict=True)
    right = np.array([class_key(one.label) == class_key(words["label"]) for one, words in pairs], np.bool_)
    low, high = _interval(int(right.sum()), len(right))
    error = equal_width_bins(np.array([words["probability"] for words in said], np.float64), right).error
    return Figures(len(right), int(right.sum()), float(right.mean()), low, high, float(error or 0))


def _wrong(right: Sequence[bool]) -> dict[str, float] | None:
    if not right:
        return None
    wrong = len(right) - sum(right)
    low, high = _interval(wrong, len(right))
    return {"checked": len(right), "wrong": wrong, "low": low, "high": high}


def _interval(hits: int, total: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    found = binomtest(hits, total).proportion_ci(CONFIDENCE, "wilson")
    return float(found.low), float(found.high)
