"""`fit_gate`: three convex fits, on validation photos and class-held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import msgspec.structs
import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.fusion.calibration import fit_temperature, log_softmax
from hybrid.fusion.evidence import Evidence
from hybrid.fusion.gate import Gate, GateFit, GateWeights, SeenWeights, UnseenWeights
from hybrid.fusion.memory import Floats, Indices

# Weight of the prior in every fit, in photos: a weight one unit off its prior costs as much as half a nat.
PRIOR_PHOTOS = 1.0
Bound = tuple[float | None, float | None]
W = TypeVar("W", SeenWeights, UnseenWeights)
_SEEN = ("similarity", "alignment", "head", "memory")
_UNSEEN = ("similarity", "centred", "predicted")
_GATE = ("unseen_text", "seen_text", "seen", "novelty", "doubt")


@dataclass(frozen=True)
class Labelled:
    """Evidence of n photos and their class indices, (n,); an index from `evidence.seen` on is an unseen class."""

    evidence: Evidence
    target: Indices

    @property
    def is_unseen(self) -> NDArray[np.bool_]:
        """(n,) bool."""
        return np.asarray(self.target >= self.evidence.seen)


def fit_gate(validation: Labelled, episodes: Sequence[Labelled], folds: str = "memory") -> Gate:
    """Fit all weights, without any photo of an unseen class.

    The seen logits are fitted by NLL on the validation photos over all seen classes; the text logits by NLL over
    the episodes' unseen photos; the log-odds by logistic regression over all photos of the episodes, seen and
    unseen ones weighing the same. Each is a convex problem with a weak normal prior around `Gate`'s defaults.

    Parameters
    ----------
    validation : Labelled
        Photos of seen classes that did not train the head, over the seen classes alone.
    episodes : sequence of Labelled
        The same photos; in each, a part of the seen classes plays the unseen ones.
    folds : str
        Kept in `GateFit`. ``memory`` fits no weight for the head's doubt.

    Raises
    ------
    GateError
        If a search does not converge, or a number of the evidence is not finite.
    """
    seen = _fit_choice(
        [(_seen_parts(validation.evidence), validation.target)], SeenWeights(), _SEEN, "the seen classes' weights"
    )
    chosen = [(_text_parts(e.evidence[e.is_unseen]), e.target[e.is_unseen] - e.evidence.seen) for e in episodes]
    unseen = _fit_choice(chosen, UnseenWeights(), _UNSEEN, "the unseen classes' weights")
    used = _GATE if folds != "memory" else _GATE[:-1]
    temperature = fit_temperature(validation.evidence.head, validation.target) if "doubt" in used else 1.0
    gate = Gate(seen=seen, unseen=unseen, head_temperature=temperature)
    features = np.concatenate([gate.features(e.evidence) for e in episodes])
    is_unseen = np.concatenate([e.is_unseen for e in episodes])
    fit = GateFit(photos=len(validation.target), classes=validation.evidence.seen, episodes=len(episodes), folds=folds)
    return msgspec.structs.replace(gate, gate=_fit_odds(features[:, : len(used)], is_unseen, used), fit=fit)


def _seen_parts(evidence: Evidence) -> list[Floats]:
    similarity = evidence.similarity[:, : evidence.seen]
    alignment = np.broadcast_to(-evidence.alignment, similarity.shape)
    return [similarity, alignment, evidence.head, evidence.memory]


def _text_parts(evidence: Evidence) -> list[Floats]:
    return [getattr(evidence, name)[:, evidence.seen :] for name in _UNSEEN]


def _fit_choice(problems: Sequence[tuple[list[Floats], Indices]], prior: W, names: Sequence[str], what: str) -> W:
    """Conditional logit (McFadden 1974): softmax of a weighted sum of scores, all weights at least zero."""
    start = np.array([getattr(prior, name) for name in names])
    stacks = [(np.stack(parts), target) for parts, target in problems]
    photos = sum(len(target) for _, target in stacks)

    def loss(weights: Floats) -> tuple[float, Floats]:
        value, gradient = 0.0, np.zeros_like(weights)
        for parts, target in stacks:
            log_p = log_softmax(np.tensordot(weights, parts, axes=1))
            rows = np.arange(len(target))
            value -= float(log_p[rows, target].sum())
            gradient -= parts[:, rows, target].sum(axis=1) - np.einsum("nc,knc->k", np.exp(log_p), parts)
        away = PRIOR_PHOTOS * (weights - start)
        return (value + float(away @ (weights - start)) / 2) / photos, (gradient + away) / photos

    found = _minimise(loss, start, [(0.0, None)] * len(names), f"{what} on {photos} photos")
    return msgspec.convert(dict(zip(names, found.tolist(), strict=True)), type(prior))


def _fit_odds(features: Floats, is_unseen: NDArray[np.bool_], names: Sequence[str]) -> GateWeights:
    prior = GateWeights()
    start = np.array([*(getattr(prior, name) for name in names), prior.bias])
    share = is_unseen.mean()
    weights = np.where(is_unseen, 0.5 / share, 0.5 / (1 - share))
    found = fit_logistic(features, is_unseen, weights, start, "the gate's weights")
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
        Of the photos; only their ratios count.
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
    strength = PRIOR_PHOTOS * np.array([*np.ones(features.shape[1]), 0.0])

    def loss(scaled: Floats) -> tuple[float, Floats]:
        margin = sign * (design @ scaled)
        away = scaled - prior * scale
        value = float(each @ np.logaddexp(0, -margin)) + float(strength @ away**2) / 2
        pull = each * sign * np.exp(-np.logaddexp(0, margin))
        return value / len(design), (strength * away - design.T @ pull) / len(design)

    return np.asarray(_minimise(loss, prior * scale, bounds, f"{what} on {len(features)} photos") / scale)


def _minimise(
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
