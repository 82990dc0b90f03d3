"""What the compute thread does with a batch: score what is not scored yet, then answer for each way of asking."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybrid.images.records import ImageRecord
from hybrid.prediction import Prediction
from hybrid.run.fitted import FittedClassifier
from hybrid.serve.cache import Scored
from hybrid.serve.model import Served

# Classes that are listed at most for a photo.
MOST_LISTED = 100


@dataclass(frozen=True)
class Work:
    """A photo to be answered for.

    Attributes
    ----------
    served : Served
        Whose networks look at it.
    fitted : FittedClassifier
        Who answers.
    record : ImageRecord
    sha256 : str
    prepared : object
        What the networks take; None where it is scored already.
    scored : Scored or None
    """

    served: Served
    fitted: FittedClassifier
    record: ImageRecord
    sha256: str
    prepared: Any = None
    scored: Scored | None = None


@dataclass(frozen=True)
class Answered:
    """A photo's answer, and what it was made from."""

    record: ImageRecord
    sha256: str
    prediction: Prediction
    scored: Scored


def compute(batch: Sequence[Work]) -> list[Answered]:
    """Answer for a batch, in order."""
    scored: dict[int, Scored] = {place: work.scored for place, work in enumerate(batch) if work.scored is not None}
    unscored: dict[int, list[int]] = defaultdict(list)
    for place, work in enumerate(batch):
        if place not in scored:
            unscored[id(work.served)].append(place)
    for places in unscored.values():
        scored |= _score(batch[places[0]].served, [batch[place].prepared for place in places], places)
    ways: dict[int, list[int]] = defaultdict(list)
    for place, work in enumerate(batch):
        ways[id(work.fitted)].append(place)
    answered: dict[int, Answered] = {}
    for places in ways.values():
        answered |= _answer(batch[places[0]].fitted, batch, scored, places)
    return [answered[place] for place in range(len(batch))]


def _score(served: Served, prepared: Sequence[Any], places: Sequence[int]) -> dict[int, Scored]:
    embeddings, logits = served.experts.score(prepared)
    return {
        place: Scored(
            served.scores_key,
            None if embeddings is None else embeddings[row],
            None if logits is None else logits[row],
        )
        for row, place in enumerate(places)
    }


def _answer(
    fitted: FittedClassifier, batch: Sequence[Work], scored: dict[int, Scored], places: Sequence[int]
) -> dict[int, Answered]:
    vectors = [scored[place].embedding for place in places]
    logits = [scored[place].head_logits for place in places]
    made = fitted.answered(
        [batch[place].record for place in places],
        [batch[place].sha256 for place in places],
        None if vectors[0] is None else np.stack([vector for vector in vectors if vector is not None]),
        None if logits[0] is None else np.stack([row for row in logits if row is not None]),
    )
    predictions = fitted.predictions(made, MOST_LISTED)
    return {
        place: Answered(batch[place].record, batch[place].sha256, prediction, scored[place])
        for place, prediction in zip(places, predictions, strict=True)
    }
