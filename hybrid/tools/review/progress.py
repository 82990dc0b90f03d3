"""What the labels changed: how often the classifier was right, before and after it last learned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hybrid.evaluation.calibration import equal_width_bins
from hybrid.labels.names import NameTable

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
    """An image whose label a person gave, and what had been said of it before.

    Attributes
    ----------
    label : str
        In force.
    answer : str
        From `Pool.answer`, before the label was known to any classifier.
    """

    label: str
    answer: str


def figures(answers: Sequence[Answered]) -> Figures | None:
    """Count how often answers were right; None where there is none."""
    from scipy.stats import binomtest

    if not answers:
        return None
    said = [json.loads(one.answer) for one in answers]
    right = np.array(
        [NameTable([one.label]).find(str(words["label"])) is not None for one, words in zip(answers, said, strict=True)]
    )
    confidence = np.array([float(words["probability"]) for words in said])
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(CONFIDENCE, "wilson")
    ece = equal_width_bins(confidence, right).error
    return Figures(
        len(right), int(right.sum()), float(right.mean()), float(interval.low), float(interval.high), float(ece or 0)
    )


def before_and_after(answers: Iterable[Answered], head: str | None) -> dict[str, Any]:
    """Figures of all that answered before, and of the head and gate that answer now.

    Each image counts once, by the classifier that answered when its label was not known yet. So no classifier is held
    against an image that it learned from, and all images that were drawn at random count, those that train later too.

    Parameters
    ----------
    answers : iterable of Answered
        Of images that were drawn at random.
    head : str or None
        `Pool.head_name` of the present classifier.

    Returns
    -------
    dict
        ``before`` and ``after``, each the fields of `Figures`, or None.
    """
    before: list[Answered] = []
    after: list[Answered] = []
    for one in answers:
        (after if json.loads(one.answer)["head"] == head else before).append(one)
    both = {"before": figures(before), "after": figures(after)}
    return {name: None if found is None else asdict(found) for name, found in both.items()}
