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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.gate.calibration import log_softmax
from hybrid.gate.gaussians import Floats, Indices

# However many images count at most as 1.4. What is wrong about one image of an animal is wrong about the next, even in
# another place; so one number serves as well as any that was fitted on validation sequences (benchmarks.context).
DEPENDENCE = 0.7
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


def as_numbers(keys: Sequence[object]) -> Indices:
    """Number keys by their first appearance, (n,); None is of no sequence, and gets a number of its own each time."""
    numbers: dict[object, int] = {}
    found = [numbers.setdefault(object() if key is None else key, len(numbers)) for key in keys]
    return np.array(found, dtype=np.intp)


def log_shares(counts: NDArray[Any], weight: float = 1.0) -> Floats:
    """Log of shares in proportion to counts to the power `weight`, (n,)."""
    return np.asarray(log_softmax(weight * np.log(np.asarray(counts, np.float64))[None])[0])
