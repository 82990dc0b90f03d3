"""Conformal prediction sets: RAPS (Angelopoulos et al. 2021, Uncertainty Sets for Image Classifiers)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.gaussians import Floats, Indices

# Every class beyond the first costs so much probability: keeps sets small. Any value keeps the guarantee.
PENALTY = 0.05
_ROUNDING = 1e-12


def set_scores(probabilities: NDArray[np.float64], uniform: Floats) -> Floats:
    """RAPS score of every class, (n, c): a class is in an image's set if its score is at most the threshold.

    The probability of all likelier classes, plus a random share of its own (so that coverage is met and not just
    exceeded), plus `PENALTY` for every likelier class.

    Parameters
    ----------
    probabilities : (n, c)
    uniform : (n,)
        One number an image in [0, 1), independent of the rest; from its content hash, so that an image gets the same
        set every time.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    likelier = np.cumsum(ranked, axis=1) - ranked
    scores = likelier + uniform[:, None] * ranked + PENALTY * np.arange(ranked.shape[1])
    back = np.empty_like(scores)
    np.put_along_axis(back, order, scores, axis=1)
    return back


def set_threshold(scores: Floats, target: Indices, coverage: float) -> float:
    """Threshold under which a share `coverage` of new images have their class in their set.

    Split conformal: the ceil((n + 1) coverage)-th smallest score of the true classes. The guarantee is marginal, for
    images that are exchangeable with these n; here images of *seen* classes.

    Parameters
    ----------
    scores : (n, c)
        `set_scores` of images that trained nothing.
    target : (n,) int

    Raises
    ------
    GateError
        If n is too small for the coverage.
    """
    # Rounded first: 100 * 0.55 is a hair more than 55, and 0.9 / (1 - 0.9) than 9.
    rank = math.ceil(round((len(target) + 1) * coverage, 9))
    if rank > len(target):
        needed = math.ceil(round(coverage / (1 - coverage), 9))
        raise GateError(
            f"too few validation photos for sets of coverage {coverage:g}",
            expected=f"at least {needed}",
            got=str(len(target)),
            fix="a lower --coverage, or hybrid train-head with more validation photos",
        )
    return float(np.sort(scores[np.arange(len(target)), target])[rank - 1])


def weighted_threshold(own: Floats, weight: Floats, coverage: float) -> float:
    """`set_threshold` for new images that differ from the n in how often their classes come.

    Weighted split conformal (Tibshirani et al. 2019, Conformal Prediction Under Covariate Shift), a new image weighing
    what such images weigh on the average. Where the n are too few, the largest of their scores.

    Parameters
    ----------
    own : (n,)
        Scores of the true classes.
    weight : (n,)
        How much more often an image of its class comes now; not all 0.
    """
    order = np.argsort(own, kind="stable")
    order = order[weight[order] > 0]
    total = weight.sum()
    wanted = coverage * (total + np.square(weight).sum() / total)
    reached = np.cumsum(weight[order]) >= wanted - _ROUNDING * total
    return float(own[order][np.argmax(reached) if reached.any() else -1])


def prediction_sets(
    probabilities: NDArray[np.float64], uniform: Floats, threshold: float | Floats
) -> NDArray[np.bool_]:
    """Which classes are in each image's set, (n, c) bool; the likeliest class always is.

    `threshold` is one for all, or (n,).
    """
    inside = set_scores(probabilities, uniform) <= np.reshape(threshold, (-1, 1))
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return inside
