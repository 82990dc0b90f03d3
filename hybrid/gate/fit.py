"""`fit_gate`: three convex fits, on validation images and class-held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import msgspec.structs
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.calibration import fit_temperature, log_softmax, logsumexp
from hybrid.gate.evidence import Evidence
from hybrid.gate.gate import Gate, GateFit, GateWeights, SeenWeights, UnseenWeights
from hybrid.gate.gaussians import Floats, Indices
from hybrid.gate.support import SupportEvidence, SupportGate, SupportWeights
from hybrid.gate.terms import Term, total, values, weights_of

# Weight of the prior in every fit, in images: a weight one unit off its prior costs as much as half a nat.
PRIOR_IMAGES = 1.0
# Part of the texts' hubness that is taken away. One value for all data: chosen on the episodes it was no better.
HUBNESS = 0.25
# What merely named classes take of a support class's gain; see `SupportGate.kin`.
KIN = 1.0
Bound = tuple[float | None, float | None]
W = TypeVar("W", bound=Struct)


@dataclass(frozen=True)
class LabeledEvidence:
    """Evidence of n images and their class indices, (n,); an index from `evidence.seen` on is an unseen class."""

    evidence: Evidence
    target: Indices

    @property
    def is_unseen(self) -> NDArray[np.bool_]:
        """(n,) bool."""
        return np.asarray(self.target >= self.evidence.seen)

    def __getitem__(self, rows: slice) -> LabeledEvidence:
        """Take some of the images."""
        return LabeledEvidence(self.evidence[rows], self.target[rows])


def fit_gate(validation: LabeledEvidence, episodes: Sequence[LabeledEvidence], folds: str = "memory") -> Gate:
    """Fit all weights, without any image of an unseen class.

    The seen logits are fitted by NLL on the validation images over all seen classes; the text logits by NLL over
    the episodes' unseen images; the log-odds by logistic regression over all images of the episodes, seen and
    unseen ones weighing the same. Each is a convex problem with a weak normal prior around `Gate`'s defaults.

    What labeled images add must not make the answer worse than zero-shot alone: gates fitted on one half of the images
    answer the other half, and where their harmonic mean is lower or their NLL is higher, zero-shot decides what is
    unseen (the trained classes among themselves keep their weights). `GateFit` says so.

    Parameters
    ----------
    validation : LabeledEvidence
        Images of seen classes that did not train the head, over the seen classes alone.
    episodes : sequence of LabeledEvidence
        The same images; in each, a part of the seen classes plays the unseen ones.
    folds : str
        Kept in `GateFit`. ``memory`` fits no weight for the head's uncertainty.

    Raises
    ------
    GateError
        If a search does not converge, or a number of the evidence is not finite.
    """
    gate = fit_weights(validation, episodes, folds)
    fit = GateFit(
        images=len(validation.target),
        classes=validation.evidence.seen,
        episodes=len(episodes),
        folds=folds,
        **_held_out(validation, episodes, folds),
    )
    if fit.falls_back:
        gate = Gate(seen=_fit_seen(Gate(), validation), head_temperature=gate.head_temperature)
    return msgspec.structs.replace(gate, fit=fit)


def fit_weights(validation: LabeledEvidence, episodes: Sequence[LabeledEvidence], folds: str = "memory") -> Gate:
    """Fit all weights as `fit_gate` does, whatever comes of them."""
    prior = Gate(hubness=HUBNESS)
    choices = [(e.evidence[e.is_unseen], e.target[e.is_unseen] - e.evidence.seen) for e in episodes]
    unseen = [Choice(values(prior.unseen_terms(evidence)), labels) for evidence, labels in choices]
    gate = Gate(
        hubness=HUBNESS,
        seen=_fit_seen(prior, validation),
        unseen=_fit_terms(UnseenWeights, prior.unseen_terms(choices[0][0]), unseen, "the unseen classes' weights"),
        head_temperature=1.0 if folds == "memory" else fit_temperature(validation.evidence.head, validation.target),
    )
    is_unseen = _is_unseen(episodes)
    odds = [[term for term in gate.terms(e.evidence) if folds != "memory" or term.name != "doubt"] for e in episodes]
    features = np.concatenate([values(terms[:-1]).T for terms in odds])  # the bias comes last
    fitted = fit_logistic(features, is_unseen, equal_weights(is_unseen), weights_of(odds[0]), "the gate's weights")
    return msgspec.structs.replace(gate, gate=_as_struct(GateWeights, odds[0], fitted))


def _fit_seen(prior: Gate, validation: LabeledEvidence) -> SeenWeights:
    terms = prior.seen_terms(validation.evidence)
    return _fit_terms(SeenWeights, terms, [Choice(values(terms), validation.target)], "the seen classes' weights")


def _held_out(validation: LabeledEvidence, episodes: Sequence[LabeledEvidence], folds: str) -> dict[str, float]:
    """Figures of `GateFit`: of gates that were fitted on the other half of the images, and of zero-shot.

    Empty where a half holds no images of both groups.
    """
    # Every other image: in the order of their classes, that takes half of each.
    halves = [[part[first::2] for part in (validation, *episodes)] for first in (0, 1)]
    groups = [_is_unseen(half[1:]) for half in halves]
    if any(group.all() or not group.any() for group in groups):
        return {}
    gates = [fit_weights(half[0], half[1:], folds) for half in reversed(halves)]
    alone = Gate(seen=SeenWeights(similarity=1.0, head=0.0, gda=0.0))
    whole = [(half[0], gate) for half, gate in zip(halves, gates, strict=True)]
    fitted = [(e, gate) for half, gate in zip(halves, gates, strict=True) for e in half[1:]]
    return {
        "harmonic_mean": _harmonic_mean(fitted),
        "zero_shot": _harmonic_mean([(e, alone) for e in episodes]),
        "nll": _nll(whole, fitted),
        "zero_shot_nll": _nll([(validation, alone)], [(e, alone) for e in episodes]),
    }


def _nll(whole: Sequence[tuple[LabeledEvidence, Gate]], answers: Sequence[tuple[LabeledEvidence, Gate]]) -> float:
    """NLL of the whole answer, seen and unseen images weighing the same.

    Among the seen classes it is that of the validation images, `whole`: in the episodes the head may have no opinion.
    """
    group: tuple[list[Floats], list[Floats]] = ([], [])
    for episode, gate in answers:
        log_p, seen, unseen = gate.fuse(episode.evidence).log_probabilities, episode.evidence.seen, episode.is_unseen
        group[0].append(logsumexp(log_p[~unseen, :seen]))
        group[1].append(log_p[unseen, episode.target[unseen]])
    among = []
    for images, gate in whole:
        log_p = log_softmax(total(gate.seen_terms(images.evidence)))
        among.append(log_p[np.arange(len(images.target)), images.target])
    seen_mean, unseen_mean, among_mean = (float(np.concatenate(part).mean()) for part in (*group, among))
    return -(seen_mean + among_mean + unseen_mean) / 2


def _is_unseen(episodes: Sequence[LabeledEvidence]) -> NDArray[np.bool_]:
    return np.concatenate([e.is_unseen for e in episodes])


def _harmonic_mean(answers: Sequence[tuple[LabeledEvidence, Gate]]) -> float:
    """Harmonic mean of the mean accuracy per class, of seen and of unseen ones; each class counts in each episode."""
    accuracies: tuple[list[float], list[float]] = ([], [])
    for episode, gate in answers:
        right = gate.fuse(episode.evidence).log_probabilities.argmax(axis=1) == episode.target
        for label in np.unique(episode.target):
            accuracies[int(label >= episode.evidence.seen)].append(float(right[episode.target == label].mean()))
    seen, unseen = (float(np.mean(group)) for group in accuracies)
    return 2 * seen * unseen / max(seen + unseen, 1e-12)


def _fit_terms(
    kind: type[W], terms: Sequence[Term], problems: Sequence[Choice], what: str, lowest: float | None = 0.0
) -> W:
    """Fit the weights of the terms, whose values `problems` hold, around the present ones."""
    return _as_struct(kind, terms, fit_choice(problems, weights_of(terms), what, lowest=lowest))


def _as_struct(kind: type[W], terms: Sequence[Term], weights: Floats) -> W:
    return msgspec.convert(dict(zip([term.name for term in terms], weights.tolist(), strict=True)), kind)


def fit_support(gate: Gate, named: Iterable[LabeledEvidence], image_only: Iterable[LabeledEvidence]) -> Gate:
    """Fit what support images add, by NLL, images of seen and of unseen classes weighing the same.

    Parameters
    ----------
    gate : Gate
        Fitted; gives the answers without those images.
    named, image_only : iterable of LabeledEvidence
        Episodes in which the held-out classes have support images, with their names and without.

    Raises
    ------
    GateError
        If a search does not converge, or a number of the evidence is not finite.
    """
    boost = float(np.mean([e.evidence.seen / (_support(e).prompted - e.evidence.seen) for e in named]))
    support = SupportGate(
        named=_fit_support(gate, named, named=True),
        image_only=_fit_support(gate, image_only, named=False),
        boost=boost,
        kin=KIN,
        fitted=True,
    )
    return msgspec.structs.replace(gate, support=support)


def _fit_support(gate: Gate, episodes: Iterable[LabeledEvidence], *, named: bool) -> SupportWeights:
    prior = SupportGate()
    problems: list[Choice] = []
    terms: Sequence[Term] = ()
    for episode in episodes:
        support, evidence = _support(episode), episode.evidence
        if episode.is_unseen.all() or not episode.is_unseen.any():
            continue  # nothing to weigh against each other
        by_text = gate.fuse(evidence.without_support()).log_probabilities
        own = gate.by_name(evidence, support, by_text)
        terms = prior.terms(own, evidence.ratios(support), support, named=named)
        # Other classes keep their ratios whatever the weights: together they are one choice, the first.
        others = np.setdiff1d(np.arange(support.prompted), support.place)
        together = logsumexp(by_text[:, others])[:, None]
        parts = np.pad(values(terms), ((0, 0), (0, 0), (1, 0)))
        column = np.zeros(support.classes, np.intp)
        column[support.place] = 1 + np.arange(len(support.place))
        offset = np.concatenate([together, own], axis=1)
        problems.append(Choice(parts, column[episode.target], offset, equal_weights(episode.is_unseen)))
    if not problems:
        return prior.named if named else prior.image_only
    what = f"the weights of support classes with{'' if named else 'out'} a name"
    return _fit_terms(SupportWeights, terms, problems, what, lowest=None)


def _support(episode: LabeledEvidence) -> SupportEvidence:
    if episode.evidence.support is None:
        raise GateError(
            "an episode without support images cannot fit what they add", fix="make the episodes with support images"
        )
    return episode.evidence.support


def equal_weights(is_unseen: NDArray[np.bool_]) -> Floats:
    """Weights (n,) of mean 1 that make seen and unseen images count the same in sum."""
    share = is_unseen.mean()
    return np.asarray(np.where(is_unseen, 0.5 / share, 0.5 / (1 - share)))


@dataclass(frozen=True)
class Choice:
    """Images, each with one right class, scored by several parts.

    Attributes
    ----------
    parts : (k, n, c) float64
        Scores that are to be weighed.
    target : (n,) int
        Class indices.
    offset : (n, c) float64, or 0
        What is added to the weighted sum as it is.
    weight : (n,) float64, or 1
        Of the images.
    """

    parts: Floats
    target: Indices
    offset: Floats | float = 0.0
    weight: Floats | float = 1.0


def fit_choice(
    problems: Sequence[Choice],
    prior: Floats,
    what: str,
    *,
    prior_images: float = PRIOR_IMAGES,
    lowest: float | None = 0.0,
) -> Floats:
    """Conditional logit (McFadden 1974): softmax of a weighted sum of scores, fitted by NLL.

    Parameters
    ----------
    problems : sequence of Choice
    prior : (k,)
        Mean of the weights' normal prior, where the search starts.
    what : str
        For the error.
    prior_images : float
        How many images the prior is worth.
    lowest : float or None
        Lower bound of every weight.

    Returns
    -------
    (k,) float64

    Raises
    ------
    GateError
        If the search does not converge or a score is not finite.
    """
    images = sum(len(problem.target) for problem in problems)

    def loss(weights: Floats) -> tuple[float, Floats]:
        value, gradient = 0.0, np.zeros_like(weights)
        for p in problems:
            log_p = log_softmax(p.offset + np.tensordot(weights, p.parts, axes=1))
            rows, each = np.arange(len(p.target)), np.broadcast_to(p.weight, p.target.shape)
            value -= float(each @ log_p[rows, p.target])
            chosen = p.parts[:, rows, p.target] - np.einsum("nc,knc->kn", np.exp(log_p), p.parts)
            gradient -= chosen @ each
        away = prior_images * (weights - prior)
        return (value + float(away @ (weights - prior)) / 2) / images, (gradient + away) / images

    return np.asarray(_minimize(loss, prior, [(lowest, None)] * len(prior), f"{what} on {images} photos"))


def fit_logistic(
    features: Floats,
    positive: NDArray[np.bool_],
    weights: Floats,
    prior: Floats,
    what: str,
    bounds: Sequence[Bound] | None = None,
) -> Floats:
    """Logistic regression with a weak normal prior on the weights, in units of each feature's spread.

    Parameters
    ----------
    features : (n, k)
    positive : (n,) bool
    weights : (n,)
        Of the images; only their ratios count.
    prior : (k + 1,)
        Mean of the weights' prior; the last one, the bias, has none and starts there.
    what : str
        For the error.
    bounds : sequence of (float or None, float or None), optional
        Lower and upper bound of each weight and of the bias; only their signs count.

    Returns
    -------
    (k + 1,) float64
        Weights, then the bias.

    Raises
    ------
    GateError
        If the search does not converge or a feature is not finite.
    """
    spread = features.std(axis=0)
    # A feature that never differs is one more bias: as it is, it would be blown up beyond all others.
    scale = np.array([*np.where(spread > 1e-9 * (1 + np.abs(features).max(axis=0)), spread, 1.0), 1.0])
    design = np.column_stack([features, np.ones(len(features))]) / scale
    sign = np.where(positive, 1.0, -1.0)
    each = weights / weights.mean()
    strength = PRIOR_IMAGES * np.array([*np.ones(features.shape[1]), 0.0])

    def loss(scaled: Floats) -> tuple[float, Floats]:
        margin = sign * (design @ scaled)
        away = scaled - prior * scale
        value = float(each @ np.logaddexp(0, -margin)) + float(strength @ away**2) / 2
        pull = each * sign * np.exp(-np.logaddexp(0, margin))
        return value / len(design), (strength * away - design.T @ pull) / len(design)

    return np.asarray(_minimize(loss, prior * scale, bounds, f"{what} on {len(features)} photos") / scale)


def _minimize(
    loss: Callable[[Floats], tuple[float, Floats]],
    start: Floats,
    bounds: Sequence[Bound] | None,
    what: str,
) -> Floats:
    from scipy.optimize import minimize

    if not all(np.isfinite(part).all() for part in loss(start)):
        raise GateError(
            f"cannot fit {what}",
            expected="finite scores",
            got="inf or nan among the evidence",
            fix="hybrid check --run DIR says whether a vector or the head is damaged; else train the head again",
        )
    minimum = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-7}
    )
    if not minimum.success:
        raise GateError(
            f"the fit of {what} did not converge",
            expected="a minimum of the NLL",
            got=str(minimum.message),
            fix="train the head again with more labeled photos (hybrid train-head), or keep the gate that is there",
        )
    return np.asarray(minimum.x)
