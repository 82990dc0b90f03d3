"""`Rejector`: the probability that an image shows any class of the label space at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.evidence import Evidence
from hybrid.gate.fit import LabeledEvidence, fit_logistic
from hybrid.gate.gaussians import Floats
from hybrid.gate.registry import AnyGate
from hybrid.gate.terms import total

QUANTILES = 101
# More text evidence must never make an image less known, nor more uncertainty make it better known.
SIGNS = ((0.0, None), (None, 0.0), (None, None))


class Rejector(Struct, frozen=True, kw_only=True):
    """Log-odds that an image's class is among the seen and named ones, by two numbers of the gate's answer.

    Attributes
    ----------
    bias, text, entropy : float
        Weights: of 1, of the largest text logit over all classes, of the answer's entropy in nats.
    unknown : tuple of float
        Quantiles (0, 1, ... 100%) of p(known) over the fit's images of unknown classes: the false-accept rate of each
        threshold.
    """

    bias: float
    text: float
    entropy: float
    unknown: tuple[float, ...]

    def p_known(
        self, gate: AnyGate, evidence: Evidence, log_odds: float = 0.0, support_log_odds: float = 0.0
    ) -> Floats:
        """Probability that an image shows any of the classes, known and unknown images being as many, (n,).

        Names and head decide it: what support images add says which class is the likelier one, not whether it is any.
        An image-only class has nothing else, so what it takes of the answer counts as known.
        """
        features = _features(gate, replace(evidence, support=None), log_odds)
        odds = features @ np.array([self.text, self.entropy]) + self.bias
        known = np.asarray(np.exp(-np.logaddexp(0, -odds)))
        if evidence.support is None or evidence.support.has_name.all():
            return known
        joint = gate.fuse(evidence, log_odds, support_log_odds).log_probabilities
        share = np.minimum(np.exp(joint[:, evidence.support.named :]).sum(axis=1), 1.0)
        return np.asarray(share + (1 - share) * known)

    def threshold_for_false_accepts(self, rate: float) -> float:
        """Smallest p(known) to accept that lets at most a share `rate` of the fit's unknown images pass."""
        return float(np.interp(1 - rate, np.linspace(0, 1, len(self.unknown)), self.unknown))


def threshold_for_coverage(p_known: Floats, coverage: float) -> float:
    """Largest p(known) to accept that keeps a share `coverage` of these images of known classes."""
    return float(np.quantile(p_known, 1 - coverage, method="lower"))


def fit_rejector(gate: AnyGate, episodes: Sequence[LabeledEvidence]) -> Rejector:
    """Fit on episodes in which one half of the held-out classes is named and the other half is not.

    Images of the unnamed half are the unknown ones; seen, named and unknown images weigh 1 : 1 : 2.
    """
    features, known, weights = [], [], []
    for evidence, group in _halves(episodes):
        features.append(_features(gate, evidence))
        known.append(group != 2)
        share = np.array([0.25, 0.25, 0.5]) / np.maximum(np.bincount(group, minlength=3), 1)
        weights.append(share[group])
    if not features:
        raise GateError(
            "no episode holds out two classes, so that one may stay unnamed", fix="train with four seen classes or more"
        )
    design, is_known = np.concatenate(features), np.concatenate(known)
    fitted = fit_logistic(design, is_known, np.concatenate(weights), np.zeros(3), "the rejector's weights", SIGNS)
    p_known = 1 / (1 + np.exp(-(design @ fitted[:2] + fitted[2])))
    quantiles = np.quantile(p_known[~is_known], np.linspace(0, 1, QUANTILES))
    text, entropy, bias = fitted.tolist()
    return Rejector(text=text, entropy=entropy, bias=bias, unknown=tuple(quantiles.round(6).tolist()))


def _halves(episodes: Sequence[LabeledEvidence]) -> Iterator[tuple[Evidence, NDArray[np.intp]]]:
    """Each episode twice: its evidence without half the held-out classes, and 0 seen, 1 named, 2 unknown per image."""
    for episode in episodes:
        seen, classes = episode.evidence.seen, episode.evidence.classes
        for half in (0, 1):
            gone = np.arange(seen + half, classes, 2)
            if len(gone) in (0, classes - seen):
                continue
            named = np.setdiff1d(np.arange(classes), gone)
            group = np.where(np.isin(episode.target, gone), 2, episode.is_unseen.astype(int))
            yield episode.evidence.with_texts(named), group.astype(np.intp)


def _features(gate: AnyGate, evidence: Evidence, log_odds: float = 0.0) -> Floats:
    log_p = gate.fuse(evidence, log_odds).log_probabilities
    entropy = -(np.exp(log_p) * log_p).sum(axis=1)
    return np.column_stack([total(gate.text_terms(evidence)).max(axis=1), entropy])
