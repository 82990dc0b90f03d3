"""`Rejector`: the probability that an image shows any class of the label space at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.calibration import logsumexp
from hybrid.gate.evidence import Evidence
from hybrid.gate.fit import LabeledEvidence, fit_logistic
from hybrid.gate.gaussians import Floats, Indices
from hybrid.gate.registry import AnyGate
from hybrid.gate.terms import total

QUANTILES = 101
# More evidence must never make an image less known, nor more uncertainty or distance make it better known.
SIGNS = {"text": (0.0, None), "entropy": (None, 0.0), "ood_score": (None, 0.0), "energy": (0.0, None)}
# The energy takes part where it is worth so much AUROC in the episodes. It helps where classes are alike, and misleads
# where texts of some classes are near to all images: there, episodes show no gain or a hundredth of one.
ENERGY_GAIN = 0.01
# Of the held-out classes, the share that lets at most `Rejector.worst` of its images pass.
MOST_CLASSES = 0.9
# Fewer images of none of the classes than these say too little of what else there is.
FEWEST_OUTSIDE = 10
# Standard deviations to either side of a mean that hold 90 % of a normal distribution.
NINETY = 1.645


class Rejector(Struct, frozen=True, kw_only=True):
    """Log-odds that an image's class is among the seen and named ones, by a few numbers of the gate's answer.

    Attributes
    ----------
    bias, text, entropy, ood_score, energy : float
        Weights: of 1, of the largest text logit over all classes, of the answer's entropy in nats, of the OOD score
        (see `Evidence`), of the log-sum-exp of the zero-shot logits.
    unknown : tuple of float
        Quantiles (0, 1, ... 100%) of p(known) over the fit's images of unknown classes, every class weighing the same:
        the false-accept rate of each threshold.
    classes : int
        Number of those classes; 0 where an older version, which weighed images, wrote it.
    worst : tuple of float
        At each of these thresholds, the share that passes of the images of one class; a tenth of the classes let more
        pass. Empty where `classes` is 0.
    spread : tuple of float
        At each of these thresholds, the standard deviation over the classes of the share of images that passes. Empty
        where an older version wrote it.
    """

    bias: float
    text: float
    entropy: float
    ood_score: float = 0.0
    energy: float = 0.0
    unknown: tuple[float, ...]
    classes: int = 0
    worst: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    def p_known(
        self, gate: AnyGate, evidence: Evidence, log_odds: float = 0.0, support_log_odds: float = 0.0
    ) -> Floats:
        """Probability that an image shows any of the classes, known and unknown images being as many, (n,).

        Names and head decide it: what support images add says which class is the likelier one, not whether it is any.
        An image-only class has nothing else, so what it takes of the answer counts as known.
        """
        features = _features(gate, replace(evidence, support=None), log_odds)
        odds = features @ np.array([getattr(self, name) for name in SIGNS]) + self.bias
        known = np.asarray(np.exp(-np.logaddexp(0, -odds)))
        if evidence.support is None or evidence.support.has_name.all():
            return known
        joint = gate.fuse(evidence, log_odds, support_log_odds).log_probabilities
        share = np.minimum(np.exp(joint[:, evidence.support.named :]).sum(axis=1), 1.0)
        return np.asarray(share + (1 - share) * known)

    def threshold_for_false_accepts(self, rate: float) -> float:
        """Smallest p(known) to accept that lets at most a share `rate` of images of unknown classes pass.

        A further unknown class is as one more beside the fit's k: its image may pass at any threshold, which leaves
        (rate (k + 1) - 1) / k for the mean of those (as split conformal prediction counts, class by class). Where that
        is below 0, nothing that the fit saw passes.
        """
        left = rate if not self.classes else max((rate * (self.classes + 1) - 1) / self.classes, 0.0)
        return float(np.interp(1 - left, np.linspace(0, 1, len(self.unknown)), self.unknown))

    def describe(self) -> tuple[str, ...]:
        """Explain the weights, and how far a false-accept rate can be trusted."""
        weights = (
            f"log-odds of any known class: {self.bias:+.2f} {self.text:+.2f} x best text evidence "
            f"{self.entropy:+.2f} x entropy of the answer {self.ood_score:+.2f} x OOD score "
            f"{self.energy:+.2f} x energy of zero-shot (predict --reject)"
        )
        worst = self.worst_at(self.threshold_for_false_accepts(0.1))
        if worst is None:
            return (weights,)
        interval = self.interval_at(self.threshold_for_false_accepts(0.1))
        expected = "" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%} of the photos, and of "
        trust = (
            f"none of these: of unknown classes like the {self.classes} held out in the fit, --max-false-accept 0.1 "
            f"lets pass {expected}one class in ten {worst:.0%} or more"
        )
        return weights, trust

    def interval_at(self, threshold: float) -> tuple[float, float] | None:
        """Share of images that passes of as many further unknown classes as the fit held out, in 90 cases of 100.

        Classes differ far more than images of one class: nearly all images of one pass and none of another. So the
        classes count, and both the mean of those in the fit and that of those to come are uncertain. None if not known.
        """
        if not self.spread:
            return None
        mean = 1 - float(np.interp(threshold, self.unknown, np.linspace(0, 1, len(self.unknown))))
        wide = NINETY * float(np.interp(threshold, self.unknown, self.spread)) * float(np.sqrt(2 / self.classes))
        return max(mean - wide, 0.0), min(mean + wide, 1.0)

    def worst_at(self, threshold: float) -> float | None:
        """Share of its images that one of the fit's unknown classes in ten lets pass, or more; None if not known."""
        if not self.worst:
            return None
        return float(np.interp(threshold, self.unknown, self.worst))


def threshold_for_coverage(p_known: Floats, coverage: float) -> float:
    """Largest p(known) to accept that keeps a share `coverage` of these images of known classes."""
    return float(np.quantile(p_known, 1 - coverage, method="lower"))


def weighted_threshold(p_known: Floats, weight: Floats, share: float) -> float:
    """Largest p(known) to accept that keeps this share of images that weigh so much, (n,); a share of 0 keeps none."""
    if not share:
        return 1.0
    order = np.argsort(-p_known, kind="stable")
    kept = np.cumsum(weight[order]) >= share * weight.sum() * (1 - 1e-12)
    return float(p_known[order][np.argmax(kept)])


@dataclass(frozen=True)
class _Images:
    """Images of all episodes and halves, one below the other.

    Attributes
    ----------
    features : (n, k) float64
        As `SIGNS` names them.
    known : (n,) bool
    weight : (n,) float64
        In each half of an episode, seen, named and unknown images weigh 1 : 1 : 2.
    episode, label : (n,) int
        The episode, and a number of the class that is unique over all of them.
    """

    features: Floats
    known: NDArray[np.bool_]
    weight: Floats
    episode: Indices
    label: Indices

    def with_outside(self, known: Floats, unknown: Floats) -> _Images:
        """One more episode: features (n, k) of images of the seen classes, and (m, k) of images of none of them."""
        count, both = len(known), np.concatenate([known, unknown])
        is_known = np.arange(len(both)) < count
        return _Images(
            np.concatenate([self.features, both]),
            np.concatenate([self.known, is_known]),
            np.concatenate([self.weight, np.where(is_known, 0.5 / count, 0.5 / len(unknown))]),
            np.concatenate([self.episode, np.full(len(both), self.episode.max() + 1)]),
            np.concatenate([self.label, np.full(len(both), self.label.max() + 1)]),
        )

    def fit(self, columns: Sequence[int], rows: NDArray[np.bool_] | slice = slice(None)) -> Floats:
        """Weights of these features, and last the bias, by the images of some rows; (k + 1,)."""
        bounds = [*(list(SIGNS.values())[c] for c in columns), (None, None)]
        start, what = np.zeros(len(bounds)), "the rejector's weights"
        return fit_logistic(self.features[rows][:, columns], self.known[rows], self.weight[rows], start, what, bounds)

    def held_out(self, columns: Sequence[int]) -> Floats:
        """p(known) of every image, (n,), by a fit to the other episodes, or to all where these do not suffice."""
        found = np.empty(len(self.known))
        episodes = np.unique(self.episode)
        for number in episodes:
            inside = self.episode == number
            others = self.known[~inside]
            fitted = self.fit(columns, ~inside if 0 < others.sum() < len(others) else slice(None))
            odds = self.features[inside][:, columns] @ fitted[:-1] + fitted[-1]
            found[inside] = np.exp(-np.logaddexp(0, -odds))
        return found

    def auroc(self, p_known: Floats) -> float:
        """Mean over the episodes of the AUROC, images weighing as in the fit."""
        parts = [self.episode == number for number in np.unique(self.episode)]
        both = [part for part in parts if 0 < self.known[part].sum() < part.sum()]
        return float(np.mean([_weighted_auroc(p_known[part], self.known[part], self.weight[part]) for part in both]))


def fit_rejector(
    gate: AnyGate,
    episodes: Sequence[LabeledEvidence],
    validation: Evidence | None = None,
    outside: Evidence | None = None,
) -> Rejector:
    """Fit on episodes in which one half of the held-out classes is named and the other half is not.

    Images of the unnamed half are the unknown ones; seen, named and unknown images weigh 1 : 1 : 2. False-accept rates
    are those of rejectors that were fitted to the other episodes.

    Parameters
    ----------
    gate : AnyGate
    episodes : sequence of LabeledEvidence
    validation, outside : Evidence, optional
        Of images of the seen classes, and of others that show none of the classes, as a person said. Where there are
        `FEWEST_OUTSIDE` of these or more, both are one episode more, and these are one unknown class more.
    """
    images = _gather(gate, episodes)
    if validation is not None and outside is not None and len(outside.similarity) >= FEWEST_OUTSIDE:
        images = images.with_outside(_features(gate, validation), _features(gate, outside))
    names = list(SIGNS)
    plain = [names.index(name) for name in names if name != "energy"]
    columns, p_known = plain, images.held_out(plain)
    with_energy = images.held_out(list(range(len(names))))
    if images.auroc(with_energy) >= images.auroc(p_known) + ENERGY_GAIN:
        columns, p_known = list(range(len(names))), with_energy
    *weights, bias = images.fit(columns).tolist()
    unknown = ~images.known
    thresholds, passing = _false_accepts(p_known[unknown], images.label[unknown])
    return Rejector(
        **dict(zip([names[c] for c in columns], weights, strict=True)),
        bias=bias,
        unknown=tuple(thresholds.round(6).tolist()),
        classes=len(passing),
        worst=tuple(np.quantile(passing, MOST_CLASSES, axis=0).round(4).tolist()),
        spread=tuple(passing.std(axis=0).round(4).tolist()),
    )


def _gather(gate: AnyGate, episodes: Sequence[LabeledEvidence]) -> _Images:
    parts = []
    for number, episode in enumerate(episodes):
        for evidence, group in _halves(episode):
            share = np.array([0.25, 0.25, 0.5]) / np.maximum(np.bincount(group, minlength=3), 1)
            label = number * episode.evidence.classes + episode.target
            parts.append((_features(gate, evidence), group != 2, share[group], np.full(len(group), number), label))
    if not parts:
        raise GateError(
            "no episode holds out two classes, so that one may stay unnamed", fix="more classes in the training data"
        )
    return _Images(*map(np.concatenate, zip(*parts, strict=True)))


def _false_accepts(p_known: Floats, label: Indices) -> tuple[Floats, Floats]:
    """Thresholds at `QUANTILES` shares of unknown images that stay out, and what passes of each class, (classes, q)."""
    classes, place = np.unique(label, return_inverse=True)
    order = np.argsort(p_known, kind="stable")
    each = (1 / np.bincount(place))[place[order]]
    below = np.concatenate([[0.0], np.cumsum((each[1:] + each[:-1]) / 2)])
    shares = below / below[-1] if below[-1] > 0 else below
    thresholds = np.interp(np.linspace(0, 1, QUANTILES), shares, p_known[order])
    passing = [(p_known[place == c][:, None] >= thresholds).mean(axis=0) for c in range(len(classes))]
    return thresholds, np.stack(passing)


def _weighted_auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> float:
    """Probability that a positive image scores above a negative one, ties counted half."""
    values, group = np.unique(scores, return_inverse=True)
    above, below = (np.bincount(group, weights * mask, len(values)) for mask in (positive, ~positive))
    lower = np.cumsum(below) - below / 2
    return float(above @ lower / (above.sum() * below.sum()))


def _halves(episode: LabeledEvidence) -> Iterator[tuple[Evidence, Indices]]:
    """Take half the held-out classes away, then the other half: evidence, and 0 seen, 1 named, 2 unknown per image."""
    seen, classes = episode.evidence.seen, episode.evidence.classes
    for half in (0, 1):
        gone = np.arange(seen + half, classes, 2)
        if len(gone) in (0, classes - seen):
            continue
        named = np.setdiff1d(np.arange(classes), gone)
        group = np.where(np.isin(episode.target, gone), 2, episode.is_unseen.astype(int))
        yield episode.evidence.with_texts(named), group.astype(np.intp)


def _features(gate: AnyGate, evidence: Evidence, log_odds: float = 0.0) -> Floats:
    """What the weights multiply, (n, 4), as `SIGNS` names it."""
    log_p = gate.fuse(evidence, log_odds).log_probabilities
    entropy = -(np.exp(log_p) * log_p).sum(axis=1)
    text = total(gate.text_terms(evidence)).max(axis=1)
    return np.column_stack([text, entropy, evidence.ood_score, logsumexp(evidence.similarity)])
