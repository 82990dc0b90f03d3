"""Answers in their context: other class priors, and images that were taken together.

An answer p(c | x) assumes a prior π(c) over its classes. What the image itself says is their ratio, p(c | x) / π(c),
up to a factor that is the same for all classes (Saerens, Latinne and Decaestecker 2002, Adjusting the Outputs of a
Classifier to New a Priori Probabilities; Elkan 2001, The Foundations of Cost-Sensitive Learning, for two classes). So

    under another prior π'      p'(c | x)            ∝  π'(c) · p(c | x) / π(c)
    for m images of one class   p'(c | x_1 ... x_m)  ∝  π'(c) · [Π_i p(c | x_i) / π(c)] ^ w,   w = 1 / (1 + (m - 1) r)

The dependence r is 0 where the images are independent, and 1 where they all say the same: m of them count as m · w
images, which is the effective sample size of a cluster with intraclass correlation r (Kish 1965, Survey Sampling).

"None of these" is one class more in all of this, at the prior of all the others together, as the rejector has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid.gate.calibration import log_softmax
from hybrid.gate.gaussians import Floats, Indices

if TYPE_CHECKING:
    from hybrid.gate.fit import LabeledEvidence
    from hybrid.gate.registry import AnyGate

# Dependence where no validation sequences tell: however many images count at most as two.
DEPENDENCE = 0.5
# Fewer sequences of two images and more say too little.
MIN_SEQUENCES = 10
# Standard deviation of the prior around `DEPENDENCE`, which weighs as much as one sequence.
SPREAD = 0.25
# Where a probability is 0 or 1, its logarithm is that of so much less.
SMALLEST = 1e-12


def log_evidence(log_probabilities: Floats, log_prior: Floats, p_known: Floats | None = None) -> Floats:
    """What images say by themselves, (n, c), or (n, c + 1) with "none of these" last: log-likelihoods up to a constant.

    Parameters
    ----------
    log_probabilities : (n, c)
    log_prior : (c,)
        What they assume.
    p_known : (n,), optional
    """
    evidence = log_probabilities - log_prior
    if p_known is None:
        return np.asarray(evidence)
    known = np.clip(p_known, SMALLEST, 1 - SMALLEST)
    none = np.log1p(-known) - np.log(known)
    return np.concatenate([evidence, none[:, None]], axis=1)


def answer(evidence: Floats, log_prior: Floats) -> tuple[Floats, Floats | None]:
    """Log-probabilities (n, c) under a prior (n, c), and p(known) (n,) where the evidence has "none of these"."""
    classes = log_prior.shape[-1]
    joint = evidence[:, :classes] + log_prior
    found = log_softmax(joint)
    if evidence.shape[1] == classes:
        return found, None
    odds = np.logaddexp.reduce(joint, axis=1) - evidence[:, classes]
    return found, np.asarray(np.exp(-np.logaddexp(0, -odds)))


def pooling_weight(images: Any, dependence: float) -> Any:
    """The power w of the product over so many images, an int or an array."""
    return 1 / (1 + (images - 1) * dependence)


@dataclass(frozen=True)
class SequenceImages:
    """Images of sequences, for the fit.

    Attributes
    ----------
    evidence : (n, c) float64
        See `log_evidence`.
    log_prior : (c,) float64
        Of the classes.
    target : (n,) int
    sequence : (n,) int
        Which images belong together.
    """

    evidence: Floats
    log_prior: Floats
    target: Indices
    sequence: Indices

    def losses(self, dependence: float) -> Floats:
        """Mean negative log-likelihood of the images of each sequence of two and more, (sequences,)."""
        _, place, counts = np.unique(self.sequence, return_inverse=True, return_counts=True)
        sums = np.zeros((len(counts), self.evidence.shape[1]))
        np.add.at(sums, place, self.evidence)
        pooled = sums * pooling_weight(counts, dependence)[:, None]
        found, _ = answer(pooled, self.log_prior)
        each = np.bincount(place, -found[place, self.target], len(counts)) / counts
        return np.asarray(each[counts > 1])


def fit_dependence(seen: Sequence[SequenceImages], unseen: Sequence[SequenceImages]) -> float | None:
    """Find the dependence, in [0, 1], by the likelihood of sequences, with a weak prior; None where there are too few.

    Parameters
    ----------
    seen, unseen : sequences of SequenceImages
        Of seen and of unseen classes, which weigh the same.
    """
    from scipy.optimize import minimize_scalar

    groups = [group for group in (seen, unseen) if sum(len(part.losses(DEPENDENCE)) for part in group)]
    count = sum(len(part.losses(DEPENDENCE)) for group in groups for part in group)
    if count < MIN_SEQUENCES:
        return None

    def loss(dependence: float) -> float:
        prior = (dependence - DEPENDENCE) ** 2 / (2 * SPREAD**2 * count)
        means = [np.concatenate([part.losses(dependence) for part in group]).mean() for group in groups]
        return float(np.mean(means)) + prior

    # Not convex: the best of a grid, then the minimum beside it.
    grid = np.linspace(0, 1, 21)
    best = int(np.argmin([loss(float(value)) for value in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, 20)]
    found = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-4})
    return float(min(found.x, grid[best], key=loss))


def gate_dependence(
    gate: AnyGate, validation: LabeledEvidence, episodes: Sequence[LabeledEvidence], log_seen: Floats, sequence: Indices
) -> float | None:
    """Fit the dependence on what a gate was fitted on; `log_seen` (s,) is the prior among seen classes.

    Images of seen classes are those of the validation set among all seen classes; those of unseen classes are the
    held-out ones of the episodes.
    """
    half = np.log(0.5)
    log_p = gate.fuse(validation.evidence).log_probabilities
    seen = SequenceImages(log_evidence(log_p, log_seen), log_seen, validation.target, sequence)
    unseen = []
    for episode in episodes:
        rows, classes, known = episode.is_unseen, episode.evidence.classes, episode.evidence.seen
        log_prior = np.full(classes, half - np.log(known))
        log_prior[known:] = half - np.log(classes - known)
        log_p = gate.fuse(episode.evidence).log_probabilities[rows]
        unseen.append(SequenceImages(log_evidence(log_p, log_prior), log_prior, episode.target[rows], sequence[rows]))
    return fit_dependence([seen], unseen)


def as_numbers(keys: Sequence[object]) -> Indices:
    """Number keys by their first appearance, (n,); None is of no sequence, and gets a number of its own each time."""
    numbers: dict[object, int] = {}
    found = [numbers.setdefault(object() if key is None else key, len(numbers)) for key in keys]
    return np.array(found, dtype=np.intp)


def log_shares(counts: NDArray[Any], weight: float = 1.0) -> Floats:
    """Log of shares in proportion to counts to the power `weight`, (n,)."""
    return np.asarray(log_softmax(weight * np.log(np.asarray(counts, np.float64))[None])[0])
