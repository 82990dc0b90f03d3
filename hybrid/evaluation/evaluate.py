"""Run a classifier over labelled photos and score every system it holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.classifier import Answers, HybridClassifier
from hybrid.data.records import ImageRecord
from hybrid.errors import DataError, listing
from hybrid.evaluation.metrics import SystemScores, score_system

# Enough for a steady figure, few enough to add little to an evaluation.
SPEED_BATCHES = 4


@dataclass(frozen=True)
class Evaluation:
    """What `hybrid evaluate` reports.

    Attributes
    ----------
    images : int
        Labelled photos found; `scored` of them were read and belong to the label space.
    outside : int
        Photos whose label is neither trained nor named: no system could be right, so they are left out.
    seen, unseen : int
        Classes of the label space.
    systems : dict of str to SystemScores or None
        ``supervised``, ``zero_shot``, ``hybrid``; None for one that the run cannot offer.
    setup, notes : tuple of str
        Device, precision, weights and experts in use; what a reader of the figures should know.
    unreadable : tuple of (path, reason)
    """

    images: int
    scored: int
    outside: int
    seen: int
    unseen: int
    systems: dict[str, SystemScores | None]
    setup: tuple[str, ...]
    notes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON of DESIGN.md, with what was left out beside it."""
        return {
            "images": self.images,
            "scored": self.scored,
            "outside_label_space": self.outside,
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "classes": {"seen": self.seen, "unseen": self.unseen},
            "systems": {name: asdict(s) if s else None for name, s in self.systems.items()},
            "setup": list(self.setup),
            "notes": list(self.notes),
        }


def evaluate(
    classifier: HybridClassifier,
    records: Sequence[ImageRecord],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Score supervised, zero-shot and hybrid side by side, in the joint label space.

    Raises
    ------
    DataError
        If no photo has a label inside the label space.
    """
    space = classifier.space
    labelled = [record for record in records if record.label is not None]
    class_index = {label: space.index_of(label) for label in {str(record.label) for record in labelled}}
    inside = [record for record in labelled if class_index[str(record.label)] is not None]
    foreign = sorted(label for label, index in class_index.items() if index is None)
    if not inside:
        raise DataError(
            "no photo has a label that the classifier knows",
            expected=f"labels among {listing(list(space.names))}",
            got=listing(foreign) or f"{len(records)} photos without labels",
            fix="give class folders or a manifest, and --prompts with their names",
        )
    answers: list[Answers] = []
    target: list[int | None] = []
    hashes: set[str] = set()
    for batch in classifier.classify(inside, batch_size=batch_size, workers=workers):
        answers.append(batch.answers)
        target += [class_index[str(record.label)] for record in batch.records]
        hashes.update(batch.hashes)
        progress(len(batch.records))
    if not answers:
        raise DataError("no photo could be read", got=listing([p for p, _ in classifier.unreadable], 5))
    rates = _measure_rates(classifier, inside, batch_size, workers)
    notes = _notes(foreign, len(labelled) - len(inside), len(records) - len(labelled))
    leaked = len(hashes & classifier.trained_on)
    if leaked:
        notes.append(f"WARNING: {leaked} of these photos trained the head; its figures are too good")
    return Evaluation(
        images=len(labelled),
        scored=len(target),
        outside=len(labelled) - len(inside),
        seen=space.seen,
        unseen=len(space.names) - space.seen,
        systems=_score(classifier, answers, np.array(target, dtype=np.intp), rates),
        setup=classifier.notes,
        notes=tuple(notes),
        unreadable=tuple(classifier.unreadable),
    )


def _notes(foreign: list[str], outside: int, unlabelled: int) -> list[str]:
    notes = []
    if foreign:
        notes.append(
            f"{outside} photos of {len(foreign)} classes that are neither trained nor named are not scored: "
            + listing(foreign, 6)
        )
    if unlabelled:
        notes.append(f"{unlabelled} photos without a label are not scored")
    return notes


def _score(
    classifier: HybridClassifier,
    answers: list[Answers],
    target: NDArray[np.intp],
    rates: dict[str, float | None],
) -> dict[str, SystemScores | None]:
    def score(name: str, gate: str | None) -> SystemScores | None:
        parts = [getattr(a, name) for a in answers]
        if parts[0] is None:
            return None
        p_unseen = np.concatenate([getattr(a, gate) for a in answers]) if gate else None
        return score_system(
            np.concatenate(parts),
            target,
            classifier.space.is_unseen,
            p_unseen=p_unseen,
            images_per_second=rates[name],
        )

    both = classifier.gate is not None
    return {
        "supervised": score("supervised", None),
        "zero_shot": score("zero_shot", "zero_shot_mass"),
        "hybrid": score("hybrid", "p_unseen") if both else None,
    }


def _measure_rates(
    classifier: HybridClassifier, records: Sequence[ImageRecord], batch_size: int, workers: int | None
) -> dict[str, float | None]:
    """Photos per second of each system by itself, from file to answer, over the first few batches."""
    sample = records[: SPEED_BATCHES * batch_size]

    def rate(system: HybridClassifier | None) -> float | None:
        if system is None:
            return None
        start = time.perf_counter()
        for _ in system.classify(sample, batch_size=batch_size, workers=workers):
            pass
        return len(sample) / (time.perf_counter() - start)

    return {
        "supervised": rate(classifier.alone("supervised")),
        "zero_shot": rate(classifier.alone("zero_shot")),
        "hybrid": rate(replace(classifier, unreadable=[])) if classifier.gate is not None else None,
    }
