"""Temperature scaling (Guo et al. 2017, On Calibration of Modern Neural Networks)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError

BOUNDS = (1e-3, 1e3)
STARTS = 15


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities of (n, c) logits in float64."""
    exact = np.asarray(logits, dtype=np.float64)
    # Not scipy's: to import it takes longer than to answer for one image, and hybrid.lite does without.
    shifted = exact - exact.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def logsumexp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the sum of exp over the columns, (n,); every row has a finite number."""
    highest = values.max(axis=1)
    return np.asarray(np.log(np.exp(values - highest[:, None]).sum(axis=1)) + highest)


def log_mean_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the mean of exp over classes, (n,): evidence for a group, however many classes it has."""
    return np.asarray(logsumexp(logits) - np.log(logits.shape[1]))


def mean_nll(log_probabilities: NDArray[np.float64], target: NDArray[np.intp]) -> float:
    """Mean negative log-likelihood of (n, c) log-probabilities at (n,) targets, in nats."""
    return float(-log_probabilities[np.arange(len(target)), target].mean())


def fit_temperature(logits: NDArray[Any], target: NDArray[np.intp]) -> float:
    """Find the temperature T that minimizes the NLL of softmax(logits / T), with a weak prior.

    The prior, log T ~ Normal(0, 1), weighs as much as one image. Without it a head that is right on every
    validation image would drive T to 0, and so claim to be certain.

    Parameters
    ----------
    logits : (n, c)
    target : (n,) int

    Returns
    -------
    float
        Between 1e-3 and 1e3.

    Raises
    ------
    GateError
        Without images, if a logit is not finite, or if the search does not converge inside the bounds.
    """
    from scipy.optimize import minimize_scalar

    if len(target) == 0:
        raise GateError(
            "no validation photos to fit a temperature on",
            fix="give the head validation photos: a split val, or more photos per class, then hybrid train-head",
        )
    scores = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise GateError(
            "the validation logits are not finite",
            got=f"{np.count_nonzero(~np.isfinite(scores))} of them",
            fix="train the head again, with a lower learning rate: hybrid train-head --fresh",
        )

    def loss(log_temperature: float) -> float:
        prior = log_temperature**2 / (2 * len(target))
        return mean_nll(log_softmax(scores / np.exp(log_temperature)), target) + prior

    low, high = np.log(BOUNDS)
    # Of small logits the loss may have two minima, one near T = 1 by the prior: a coarse search finds the lower one.
    starts = np.linspace(low, high, STARTS)
    nearest = int(np.argmin([loss(start) for start in starts]))
    around = starts[max(nearest - 1, 0)], starts[min(nearest + 1, STARTS - 1)]
    minimum = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-6})
    at_bound = min(minimum.x - low, high - minimum.x) < 1e-3
    if not minimum.success or at_bound:
        raise GateError(
            "the temperature fit did not converge",
            expected=f"a minimum of the NLL between T = {BOUNDS[0]:g} and {BOUNDS[1]:g}",
            got=f"T = {np.exp(minimum.x):.3g} on {len(target)} photos",
            fix="more validation photos: raise --set val_fraction, or add photos",
        )
    return float(np.exp(minimum.x))
