"""Answers in the context of a run's classes: class priors, a list of allowed classes, images of one sequence."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import DataError, listing
from hybrid.gate.conformal import prediction_sets
from hybrid.gate.context import DEPENDENCE, answer, log_evidence, pooling_weight
from hybrid.gate.decide import Decided, Decider
from hybrid.gate.gaussians import Floats
from hybrid.gate.policy import OperatingPoint, Policy, uniform_from_hash
from hybrid.images.naming import plural
from hybrid.images.records import ImageRecord
from hybrid.labels.near import did_you_mean
from hybrid.labels.priors import PriorTable
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import LabelSpace
from hybrid.prediction import Answers

if TYPE_CHECKING:
    from hybrid.run.fitted import Batch

# A sequence is one event; one of so many images is probably a folder of several.
LONG = 1000
Key = tuple[str, str]


def key_of(record: ImageRecord) -> Key | None:
    """Which images answer together: those of one sequence of one source."""
    return None if record.sequence is None else (record.source, record.sequence)


@dataclass(frozen=True)
class Context:
    """What is known of images beside what they show.

    Attributes
    ----------
    log_prior : (c,) float64
        What the answers assume, see `Decider.log_prior`.
    dependence : float
        See `hybrid.gate.context`.
    table : PriorTable or None
    allowed : (c,) bool or None
        Which classes may be the answer; None: all.
    notes : tuple of str
    has_thresholds : bool
        Whether there are thresholds to be chosen anew.
    """

    log_prior: Floats
    dependence: float = DEPENDENCE
    table: PriorTable | None = None
    allowed: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    has_thresholds: bool = False

    @classmethod
    def of(cls, space: LabelSpace, policy: Policy, decider: Decider | None) -> Context:
        """Join what the user knows with the classes.

        Raises
        ------
        DataError
            If a file of priors or a list names none of the classes.
        """
        equal = np.full(len(space.names), -np.log(len(space.names)))
        table = policy.class_priors.join(space) if policy.class_priors is not None else None
        allowed, notes = _allowed(space, policy.only) if policy.only is not None else (None, [])
        if table is not None:
            notes += table.notes()
            if decider is None:
                notes.append("class priors replace equal shares of all classes, and probabilities are not calibrated")
        log_prior = equal if decider is None else decider.log_prior
        made = cls(log_prior, table=table, allowed=allowed, notes=tuple(notes))
        return replace(made, has_thresholds=decider is not None and decider.has_thresholds)

    def changes(self, records: Iterable[ImageRecord]) -> bool:
        """Whether it makes a difference for any of the images."""
        return self.is_shift or any(record.sequence is not None for record in records)

    @property
    def is_shift(self) -> bool:
        """Whether it makes a difference for every image."""
        return self.table is not None or self.allowed is not None

    def targets(self, records: Sequence[ImageRecord]) -> Floats:
        """Log of each class's prior for each image, (n, c); -inf for what cannot be the answer."""
        rows = [(record.region, record.month) for record in records]
        found = {row: self._target(*row) for row in dict.fromkeys(rows)}
        return np.stack([found[row] for row in rows])

    def _target(self, region: str | None, month: int | None) -> Floats:
        given = self.table.log_prior(region, month) if self.table is not None else None
        target = self.log_prior if given is None else given
        if self.allowed is None:
            return target
        target = np.where(self.allowed, target, -np.inf)
        if np.isneginf(target).all():
            raise DataError(
                "no class of --only may be there, as --prior-file says",
                got=f"region {region}, month {month}",
                fix="give one of them a weight above 0",
            )
        return np.asarray(target - np.logaddexp.reduce(target))

    def image_notes(self, records: Iterable[ImageRecord]) -> list[str]:
        """Say what the images lack, and how many answer together."""
        notes = self.table.image_notes((r.region, r.month) for r in records) if self.table is not None else []
        sizes = Counter(key for record in records if (key := key_of(record)) is not None)
        if sizes:
            notes.append(
                f"the photos of a sequence answer together: {plural(sizes.total(), 'photo')} in "
                f"{plural(len(sizes), 'sequence')}"
            )
        if self.has_thresholds and (sizes or self.is_shift):
            notes.append(
                "thresholds are chosen anew for what is known of the photos, on validation photos of seen classes: the "
                "share of these that is kept, or covered, stays"
            )
        if sizes and (most := sizes.most_common(1)[0])[1] > LONG:
            notes.append(
                f"WARNING: the sequence {most[0][1]} has {most[1]} photos: a sequence is one event, of one class"
            )
        return notes


def _allowed(space: LabelSpace, only: PromptSet) -> tuple[NDArray[np.bool_], list[str]]:
    """Which classes a list names, by any of their names, and what it names beside them."""
    allowed = np.zeros(len(space.names), dtype=np.bool_)
    foreign = []
    for prompt in only.classes:
        places = {space.index_of(name) for name in (prompt.name, *prompt.synonyms)} - {None}
        allowed[[place for place in places if place is not None]] = True
        foreign += [] if places else [prompt.name]
    if not allowed.any():
        raise DataError(
            "--only names none of the classes",
            expected=f"names among {listing(list(space.names))}",
            got=listing(foreign),
            fix=did_you_mean(foreign, space.names) or "name the classes as --prompts and the labels do",
        )
    notes = [f"--only leaves {int(allowed.sum())} of {len(allowed)} classes"]
    if foreign:
        notes.append(f"--only: names of no class, which count for nothing: {listing(foreign, 6)}")
    return allowed, notes


class _Waiting(NamedTuple):
    """A batch, and what its images say by themselves."""

    batch: Batch
    evidence: Floats


class ContextStream:
    """Puts batches into their context, in their order; a batch waits until all images of its sequences are there.

    So what is in memory are the batches that a sequence spans.

    Parameters
    ----------
    context : Context
    decider : Decider or None
    seen : int
        The first `seen` classes are seen.
    records : sequence of ImageRecord
        All images that will come.
    """

    def __init__(self, context: Context, decider: Decider | None, seen: int, records: Iterable[ImageRecord]) -> None:
        self._context, self._decider, self._seen = context, decider, seen
        self._keys = {record.path: key for record in records if (key := key_of(record)) is not None}
        self._to_come = Counter(key for record in records if (key := key_of(record)) is not None)
        self._to_answer = self._to_come.copy()
        self._sums: dict[Key, Floats] = {}
        self._counts: Counter[Key] = Counter()
        self._uniform: dict[Key, float] = {}
        self._points: dict[tuple[str | None, int | None, float], OperatingPoint] = {}

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches with their answers in context."""
        waiting: deque[_Waiting] = deque()
        for batch in batches:
            waiting.append(_Waiting(batch, self._collect(batch)))
            while waiting and self._is_whole(waiting[0].batch):
                yield self._answered(*waiting.popleft())
        for each in waiting:
            yield self._answered(*each)

    def _collect(self, batch: Batch) -> Floats:
        """Add a batch's images to their sequences; gives what each one says."""
        for path, _ in batch.unreadable:
            if (key := self._keys.get(path)) is not None:
                self._to_come[key] -= 1
                self._to_answer[key] -= 1
        if not batch.records:
            return np.empty((0, 0))
        evidence = _evidence(batch.answers, self._context.log_prior)
        for record, sha256, row in zip(batch.records, batch.hashes, evidence, strict=True):
            if (key := key_of(record)) is None:
                continue
            self._to_come[key] -= 1
            self._counts[key] += 1
            self._sums[key] = self._sums[key] + row if key in self._sums else row
            self._uniform.setdefault(key, uniform_from_hash(sha256))
        return evidence

    def _is_whole(self, batch: Batch) -> bool:
        return all(key is None or self._to_come[key] <= 0 for key in map(key_of, batch.records))

    def _answered(self, batch: Batch, evidence: Floats) -> Batch:
        if not batch.records:
            return batch
        keys = [key_of(record) for record in batch.records]
        targets = self._context.targets(batch.records)
        pooled, power = evidence.copy(), np.ones(len(keys))
        uniform = np.array([uniform_from_hash(sha256) for sha256 in batch.hashes])
        for row, key in enumerate(keys):
            if key is not None:
                weight = pooling_weight(self._counts[key], self._context.dependence)
                pooled[row], power[row] = self._sums[key] * weight, self._counts[key] * weight
                uniform[row] = self._uniform[key]
        self._forget(keys)
        points = [self._point(*one) for one in zip(batch.records, targets, power.tolist(), strict=True)]
        answers = self._answers(batch.answers, pooled, targets, uniform, points)
        if any(key is not None for key in keys):
            answers = replace(answers, own=np.exp(answer(evidence[:, : targets.shape[1]], targets)[0]))
        return replace(batch, answers=answers)

    def _forget(self, keys: Iterable[Key | None]) -> None:
        """Let go of sequences whose images are all answered."""
        for key, count in Counter(key for key in keys if key is not None).items():
            self._to_answer[key] -= count
            if self._to_answer[key] <= 0:
                for known in (self._to_come, self._to_answer, self._sums, self._counts, self._uniform):
                    known.pop(key, None)

    def _point(self, record: ImageRecord, target: Floats, power: float) -> OperatingPoint | None:
        """The operating point of images of one region and month, and of one number of images."""
        if self._decider is None or not self._context.has_thresholds:
            return None
        what = (record.region, record.month, power)
        if what not in self._points:
            self._points[what] = self._decider.point_for(target, power)
        return self._points[what]

    def _answers(
        self,
        answers: Answers,
        pooled: Floats,
        targets: Floats,
        uniform: NDArray[np.float64],
        points: Sequence[OperatingPoint | None],
    ) -> Answers:
        classes, decided = targets.shape[1], answers.decided
        if decided is None:
            return replace(answers, hybrid=np.exp(answer(pooled[:, :classes], targets)[0]))
        end = classes + (decided.p_known is not None)
        found, p_known = answer(pooled[:, :end], targets)
        fused = decided.fused.moved(found, self._seen)
        if fused.without_support is not None:
            prompted = fused.without_support.shape[1]
            fused = replace(fused, without_support=answer(pooled[:, end:], targets[:, :prompted])[0])
        sets = accept_above = None
        if decided.sets is not None:
            thresholds = np.array([point.set_threshold for point in points if point is not None], np.float64)
            sets = prediction_sets(np.exp(found), uniform, thresholds)
        if p_known is not None:
            accept_above = np.array([point.accept_above for point in points if point is not None], np.float64)
        made = Decided(fused, p_known, sets, accept_above)
        return replace(answers, hybrid=np.exp(found), p_unseen=fused.p_unseen, decided=made)


def _evidence(answers: Answers, log_prior: Floats) -> Floats:
    """What images say by themselves: of the classes, then of none of them, then of the classes without support images.

    The last two where the answers have them.
    """
    decided = answers.decided
    if decided is None:
        return log_evidence(np.log(np.maximum(answers.hybrid, np.finfo(float).tiny)), log_prior)
    evidence = log_evidence(decided.fused.log_probabilities, log_prior, decided.p_known)
    without = decided.fused.without_support
    if without is None:
        return evidence
    return np.concatenate([evidence, without - log_prior[: without.shape[1]]], axis=1)
