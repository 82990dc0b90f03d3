"""Run a classifier over labeled images and score every system it holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.device import CPU_BATCH
from hybrid.errors import DataError, listing
from hybrid.evaluation.hierarchy import HierarchyReport, report_hierarchy
from hybrid.evaluation.metrics import SystemScores, score_system
from hybrid.evaluation.results import (
    Evaluation,
    ImageResults,
    RejectionReport,
    SetReport,
    report_rejection,
    report_sets,
)
from hybrid.images.records import ImageRecord
from hybrid.labels.check import name_notes, strict_error
from hybrid.labels.names import differs_to_the_eye
from hybrid.labels.near import did_you_mean
from hybrid.labels.space import LabelSpace
from hybrid.run.fitted import Batch, FittedClassifier
from hybrid.run.labels import with_labels_in_force

# Enough for a steady figure, few enough to add little to an evaluation.
SPEED_BATCHES = 4
# The arrays of `Answers` that outlive their batch; the rest of it is let go.
KEPT = ("supervised", "zero_shot", "hybrid", "p_unseen", "zero_shot_mass")
Kept = dict[str, NDArray[Any] | None]


def evaluate(
    classifier: FittedClassifier,
    records: Sequence[ImageRecord],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
    strict_names: bool = False,
    skip: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Score supervised, zero-shot and hybrid side by side, in the joint label space.

    Parameters
    ----------
    progress, skip : callable
        Called with the number of images just finished; before them, with the number of those that will not be read.
    strict_names : bool
        Labels that are a class in another spelling, or nearly one, are an error instead of a note.

    Raises
    ------
    DataError
        If no image has a label inside the label space.
    """
    space = classifier.space
    labeled = [record for record in _by_people(classifier, records) if record.label is not None]
    class_index = {label: _index_of(classifier, label) for label in {str(record.label) for record in labeled}}
    inside = [record for record in labeled if class_index[str(record.label)] is not None]
    foreign = sorted(label for label, index in class_index.items() if index is None)
    if not inside:
        raise _no_known_label(space, foreign, len(records))
    spelling = _spelling_notes(space, class_index, strict=strict_names)
    outside = [record for record in labeled if class_index[str(record.label)] is None and _may_reject(classifier)]
    skip(len(records) - len(inside) - len(outside))
    parts, scored, leaked, unreadable = _answer(classifier.for_evaluation(), inside, batch_size, workers, progress)
    if not parts:
        raise _none_readable(unreadable)
    target = np.array([class_index[str(record.label)] for record in scored], dtype=np.intp)
    notes = [*_notes(foreign, len(labeled) - len(inside), len(records) - len(labeled)), *spelling]
    if leaked:
        notes.append(f"WARNING: {leaked} of these photos trained the head or show a class; the figures are too good")
    sets, accepted = _join(parts, "sets"), _join(parts, "accepted")
    images, mass = _joined(classifier, scored, target, parts)
    rejection = _report_rejection(classifier, images, accepted, outside, unreadable, (batch_size, workers, progress))
    return Evaluation(
        images=len(labeled),
        scored=len(target),
        outside=len(labeled) - len(inside),
        seen=space.seen,
        unseen=len(space.names) - space.seen,
        systems=_score(images, mass, _measure_rates(classifier, inside, batch_size, workers)),
        setup=classifier.notes,
        notes=tuple(notes),
        unreadable=tuple(unreadable),
        per_image=images,
        sets=_report_sets(classifier, images, sets),
        rejection=rejection,
        hierarchy=_report_hierarchy(classifier, images),
        tree=classifier.tree,
    )


def _index_of(classifier: FittedClassifier, label: str) -> int | None:
    """The class of a label: by its names, else by those that the taxonomy has for it."""
    index = classifier.space.index_of(label)
    return classifier.tree.class_of(label) if index is None and classifier.tree is not None else index


def _alias_notes(space: LabelSpace, class_index: Mapping[str, int | None]) -> list[str]:
    found = [
        f"{label!r} is {space.names[index]!r}"
        for label, index in sorted(class_index.items())
        if index is not None and space.index_of(label) is None
    ]
    return [f"labels that are a class by the taxonomy's names: {listing(found, 6)}"] if found else []


def _report_hierarchy(classifier: FittedClassifier, images: ImageResults) -> HierarchyReport | None:
    tree = classifier.tree
    if tree is None:
        return None
    confident = classifier.policy.confident
    return report_hierarchy(tree, images.probabilities, images.target, images.seen, confident)


def _by_people(classifier: FittedClassifier, records: Sequence[ImageRecord]) -> Sequence[ImageRecord]:
    """The images with the labels that people gave in the run; none of these is outside the label space."""
    state = classifier.state
    return records if state is None or state.layout is None else with_labels_in_force(state.layout, records)


def _answer(
    classifier: FittedClassifier,
    records: Sequence[ImageRecord],
    batch_size: int | None,
    workers: int | None,
    progress: Callable[[int], None],
) -> tuple[list[Kept], list[ImageRecord], int, list[tuple[str, str]]]:
    """Classify images: arrays by batch, records, how many show what was trained on, and those that are unreadable."""
    parts: list[Kept] = []
    scored: list[ImageRecord] = []
    leaked = 0
    unreadable: list[tuple[str, str]] = []
    for batch in classifier.classify(records, batch_size=batch_size, workers=workers):
        unreadable += batch.unreadable
        progress(len(batch.records) + len(batch.unreadable))
        if batch.records:
            parts.append({name: getattr(batch.answers, name) for name in KEPT} | _decisions(batch))
            scored += batch.records
            leaked += sum(sha256 in classifier.trained_on for sha256 in batch.hashes)
    return parts, scored, leaked, unreadable


def _decisions(batch: Batch) -> Kept:
    decided = batch.answers.decided
    return {"sets": decided.sets if decided else None, "accepted": decided.accepted if decided else None}


def _report_sets(classifier: FittedClassifier, images: ImageResults, sets: NDArray[Any] | None) -> SetReport | None:
    if sets is None or classifier.policy.coverage is None:
        return None
    return report_sets(sets, images.target, images.seen, classifier.policy.coverage)


def _report_rejection(
    classifier: FittedClassifier,
    images: ImageResults,
    accepted: NDArray[Any] | None,
    outside: list[ImageRecord],
    unreadable: list[tuple[str, str]],
    how: tuple[int | None, int | None, Callable[[int], None]],
) -> RejectionReport | None:
    """Score rejection, on images of other classes too, which nothing else can use; adds to `unreadable`."""
    accept_above = classifier.decider.point.accept_above if classifier.decider else None
    if accepted is None or accept_above is None:
        return None
    batch_size, workers, progress = how
    foreign_parts = []
    for batch in classifier.classify(outside, batch_size=batch_size, workers=workers):
        unreadable += batch.unreadable
        progress(len(batch.records) + len(batch.unreadable))
        foreign_parts += [_decisions(batch)] if batch.records else []
    foreign = _join(foreign_parts, "accepted")
    none = np.empty(0, np.bool_)
    return report_rejection(accepted, images.target, images.seen, none if foreign is None else foreign, accept_above)


def _may_reject(classifier: FittedClassifier) -> bool:
    return classifier.decider is not None and classifier.decider.point.accept_above is not None


def _join(parts: list[Kept], name: str) -> NDArray[Any] | None:
    """Take an array out of every part and join them."""
    arrays = [array for part in parts if (array := part.pop(name)) is not None]
    return np.concatenate(arrays) if arrays else None


def _none_readable(unreadable: Sequence[tuple[str, str]]) -> DataError:
    """Make the error for a test set of which no file can be read."""
    return DataError(
        "no photo could be read",
        got="; ".join(f"{path}: {reason}" for path, reason in unreadable[:3]),
        fix="see that the files are there and whole",
    )


def _no_known_label(space: LabelSpace, foreign: Sequence[str], count: int) -> DataError:
    return DataError(
        "no photo has a label that the classifier knows",
        expected=f"labels among {listing(list(space.names))}",
        got=listing(list(foreign)) or f"{count} photos without labels",
        fix=did_you_mean(foreign, space.names) or "give class folders or a manifest, and --prompts with their names",
    )


def _spelling_notes(space: LabelSpace, class_index: Mapping[str, int | None], *, strict: bool) -> list[str]:
    """Say which labels are a class in another spelling, and which of those that are not scored are nearly one.

    DataError where `strict` and there are such; names that the taxonomy has for a class are none of them.
    """
    joined = []
    for label, index in class_index.items():
        if index is not None and space.index_of(label) is not None:
            prompt = space.prompts[index]
            names = (space.names[index], prompt.name, *prompt.synonyms)
            if all(differs_to_the_eye(label, name) for name in names):
                joined.append(f"{label!r} is {space.names[index]!r}")
    foreign = [label for label, index in class_index.items() if index is None]
    notes = [f"labels that are a class in another spelling: {listing(sorted(joined), 6)}"] if joined else []
    notes += name_notes(sorted(foreign), space.names, "labels")
    if strict and notes:
        raise strict_error(notes)
    return [*notes, *_alias_notes(space, class_index)]


def _notes(foreign: list[str], outside: int, unlabeled: int) -> list[str]:
    notes = []
    if foreign:
        notes.append(
            f"{outside} photos of {len(foreign)} classes that are neither trained nor named are not scored: "
            + listing(foreign, 6)
        )
    if unlabeled:
        notes.append(f"{unlabeled} photos without a label are not scored")
    return notes


def _joined(
    classifier: FittedClassifier, records: list[ImageRecord], target: NDArray[np.intp], parts: list[Kept]
) -> tuple[ImageResults, NDArray[np.float64] | None]:
    """Join the batches' answers; beside them the zero-shot expert's own probability of "unseen"."""
    systems = {name: _join(parts, name) for name in ("supervised", "zero_shot", "hybrid")}
    if classifier.gate is None and classifier.few_shot is None:
        systems["hybrid"] = None  # then it is the only expert's answer once more
    images = ImageResults(
        names=classifier.space.names,
        seen=classifier.space.seen,
        records=tuple(records),
        target=target,
        probabilities={name: array for name, array in systems.items() if array is not None},
        p_unseen=_join(parts, "p_unseen"),
    )
    return images, _join(parts, "zero_shot_mass")


def _score(
    images: ImageResults, mass: NDArray[np.float64] | None, rates: dict[str, float | None]
) -> dict[str, SystemScores | None]:
    gates = {"supervised": None, "zero_shot": mass, "hybrid": images.p_unseen}
    return {
        name: score_system(
            images.probabilities[name], images.target, images.is_unseen, p_unseen=gate, images_per_second=rates[name]
        )
        if name in images.probabilities
        else None
        for name, gate in gates.items()
    }


def _measure_rates(
    classifier: FittedClassifier, records: Sequence[ImageRecord], batch_size: int | None, workers: int | None
) -> dict[str, float | None]:
    """Images per second of each system by itself, from file to answer, over the first few batches."""
    sample = records[: SPEED_BATCHES * (batch_size or CPU_BATCH)]

    def rate(system: FittedClassifier | None) -> float | None:
        if system is None:
            return None
        start = time.perf_counter()
        for _ in system.classify(sample, batch_size=batch_size, workers=workers):
            pass
        return len(sample) / (time.perf_counter() - start)

    return {
        "supervised": rate(classifier.alone("supervised")),
        "zero_shot": rate(classifier.alone("zero_shot")),
        "hybrid": rate(classifier) if classifier.gate or classifier.few_shot else None,
    }
