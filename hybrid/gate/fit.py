"""`fit_gate`: three convex fits, on validation images and class-held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec
import msgspec.structs
import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.calibration import fit_temperature, log_softmax
from hybrid.gate.evidence import Evidence
from hybrid.gate.gate import Gate, GateFit, GateWeights, SeenWeights, UnseenWeights
from hybrid.gate.gaussians import Floats, Indices
from hybrid.gate.support import SupportEvidence, SupportGate, SupportWeights, as_vector, fields_of

# Weight of the prior in every fit, in images: a weight one unit off its prior costs as much as half a nat.
PRIOR_IMAGES = 1.0
Bound = tuple[float | None, float | None]
W = TypeVar("W", SeenWeights, UnseenWeights)
_SEEN = ("similarity", "alignment", "head", "memory")
_UNSEEN = ("similarity", "centred", "predicted")
_GATE = ("unseen_text", "seen_text", "seen", "novelty", "doubt")


@dataclass(frozen=True)
class Labeled:
    """Evidence of n images and their class indices, (n,); an index from `evidence.seen` on is an unseen class."""

    evidence: Evidence
    target: Indices

    @property
    def is_unseen(self) -> NDArray[np.bool_]:
        """(n,) bool."""
        return np.asarray(self.target >= self.evidence.seen)


def fit_gate(validation: Labeled, episodes: Sequence[Labeled], folds: str = "memory") -> Gate:
    """Fit all weights, without any image of an unseen class.

    The seen logits are fitted by NLL on the validation images over all seen classes; the text logits by NLL over
    the episodes' unseen images; the log-odds by logistic regression over all images of the episodes, seen and
    unseen ones weighing the same. Each is a convex problem with a weak normal prior around `Gate`'s defaults.

    Parameters
    ----------
    validation : Labeled
        Images of seen classes that did not train the head, over the seen classes alone.
    episodes : sequence of Labeled
        The same images; in each, a part of the seen classes plays the unseen ones.
    folds : str
        Kept in `GateFit`. ``memory`` fits no weight for the head's doubt.

    Raises
    ------
    GateError
        If a search does not converge, or a number of the evidence is not finite.
    """
    seen = _fit_named(
        [(_seen_parts(validation.evidence), validation.target)], SeenWeights(), _SEEN, "the seen classes' weights"
    )
    chosen = [(_text_parts(e.evidence[e.is_unseen]), e.target[e.is_unseen] - e.evidence.seen) for e in episodes]
    unseen = _fit_named(chosen, UnseenWeights(), _UNSEEN, "the unseen classes' weights")
    used = _GATE if folds != "memory" else _GATE[:-1]
    temperature = fit_temperature(validation.evidence.head, validation.target) if "doubt" in used else 1.0
    gate = Gate(seen=seen, unseen=unseen, head_temperature=temperature)
    features = np.concatenate([gate.features(e.evidence) for e in episodes])
    is_unseen = np.concatenate([e.is_unseen for e in episodes])
    fit = GateFit(images=len(validation.target), classes=validation.evidence.seen, episodes=len(episodes), folds=folds)
    return msgspec.structs.replace(gate, gate=_fit_odds(features[:, : len(used)], is_unseen, used), fit=fit)


def fit_support(gate: Gate, named: Sequence[Labeled], image_only: Sequence[Labeled]) -> Gate:
    """Fit what images of shown classes add, by NLL, images of seen and of unseen classes weighing the same.

    Parameters
    ----------
    gate : Gate
        Fitted; gives the answers without those images.
    named, nameless : sequence of Labeled
        Episodes in which the held-out classes are shown, with their names and without.

    Raises
    ------
    GateError
        If a search does not converge, or a number of the evidence is not finite.
    """
    prior = SupportGate()
    boost = float(np.mean([e.evidence.seen / (_support(e).prompted - e.evidence.seen) for e in named]))
    found = SupportGate(
        named=_fit_support(gate, named, prior, True),
        image_only=_fit_support(gate, image_only, prior, False),
        boost=boost,
        fitted=True,
    )
    return msgspec.structs.replace(gate, support=found)


def _fit_support(gate: Gate, episodes: Sequence[Labeled], prior: SupportGate, named: bool) -> SupportWeights:
    from scipy.special import logsumexp

    problems = []
    for episode in episodes:
        support, seen = _support(episode), episode.evidence.seen
        if episode.is_unseen.all() or not episode.is_unseen.any():
            continue  # nothing to weigh against each other
        before = gate.fuse(
            replace(episode.evidence.with_texts(slice(support.prompted)), support=None)
        ).log_probabilities
        own = gate.by_name(episode.evidence, support, before)
        _, _, parts = prior.parts(own, episode.evidence.ratios(support), support)[0 if named else 1]
        # Other classes keep their ratios whatever the weights: together they are one choice, the first.
        others = np.setdiff1d(np.arange(support.prompted), support.place)
        together = logsumexp(before[:, others], axis=1, keepdims=True)
        wide = np.concatenate([np.zeros((*parts.shape[:2], 1)), parts], axis=2)
        column = np.zeros(support.classes, np.intp)
        column[support.place] = 1 + np.arange(len(support.place))
        offset = np.concatenate([together, own], axis=1)
        problems.append(Choice(wide, column[episode.target], offset, equal_weights(episode.target >= seen)))
    default = prior.named if named else prior.image_only
    if not problems:
        return default
    start = as_vector(default, named=named)
    what = f"the weights of shown classes with{'' if named else 'out'} a name"
    weights = fit_choice(problems, start, what, lowest=None)
    return SupportWeights(**dict(zip(fields_of(named), weights.tolist(), strict=True)))


def _support(episode: Labeled) -> SupportEvidence:
    if episode.evidence.support is None:
        raise GateError("an episode without shown classes cannot fit what their photos add")
    return episode.evidence.support


def equal_weights(is_unseen: NDArray[np.bool_]) -> Floats:
    """Weights (n,) of mean 1 that make seen and unseen images count the same in sum."""
    share = is_unseen.mean()
    return np.asarray(np.where(is_unseen, 0.5 / share, 0.5 / (1 - share)))


def _seen_parts(evidence: Evidence) -> list[Floats]:
    similarity = evidence.similarity[:, : evidence.seen]
    alignment = np.broadcast_to(-evidence.alignment, similarity.shape)
    return [similarity, alignment, evidence.head, evidence.memory]


def _text_parts(evidence: Evidence) -> list[Floats]:
    return [getattr(evidence, name)[:, evidence.seen :] for name in _UNSEEN]


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
    prior_photos : float
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


def _fit_named(problems: Sequence[tuple[list[Floats], Indices]], prior: W, names: Sequence[str], what: str) -> W:
    """Fit the weights of a struct, all at least zero, around its defaults."""
    start = np.array([getattr(prior, name) for name in names])
    found = fit_choice([Choice(np.stack(parts), target) for parts, target in problems], start, what)
    return msgspec.convert(dict(zip(names, found.tolist(), strict=True)), type(prior))


def _fit_odds(features: Floats, is_unseen: NDArray[np.bool_], names: Sequence[str]) -> GateWeights:
    prior = GateWeights()
    start = np.array([*(getattr(prior, name) for name in names), prior.bias])
    found = fit_logistic(features, is_unseen, equal_weights(is_unseen), start, "the gate's weights")
    return msgspec.convert(dict(zip((*names, "bias"), found.tolist(), strict=True)), GateWeights)


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
        raise GateError(f"cannot fit {what}", expected="finite scores", got="inf or nan among the evidence")
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-7}
    )
    if not found.success:
        raise GateError(f"the fit of {what} did not converge", expected="a minimum of the NLL", got=str(found.message))
    return np.asarray(found.x)
