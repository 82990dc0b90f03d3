"""Class means: predicted from texts, and drawn from there to the images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybrid.gate.gaussians import Floats, Indices

# Strength of the ridge regression from texts to class means, in average squared lengths of a centered text.
RIDGE = 1.0
# How many images the mean that is predicted from a text is worth.
TEXT_WORTH = 1.0


def predict_means(
    texts: Floats, means: Floats, known: NDArray[np.bool_], *, slope: float = 0.0, without_own: bool = False
) -> Floats:
    """Predict class means (c, d) from texts (c, d): kernel ridge regression on the classes whose means are known.

    Parameters
    ----------
    texts : (c, d)
    means : (c, d)
        Relative to the center of the images; only the known rows are read. So is the result.
    known : (c,) bool
    slope : float
        The regression corrects ``slope`` times the centered text; 0 starts from the center of the images.
    without_own : bool
        Predict each known class from the others alone (leave one out, in closed form).
    """
    centred = texts - texts[known].mean(axis=0)
    support, residual = centred[known], means[known] - slope * centred[known]
    solved = _ridge(support)
    correction = centred @ (solved @ residual)
    if without_own:
        own = np.einsum("kd,dk->k", support, solved)[:, None]
        correction[known] = (correction[known] - own * residual) / (1 - own)
    return np.asarray(slope * centred + correction)


def _ridge(support: Floats) -> Floats:
    """Matrix (d, k) that turns targets of the rows (k, d) into the weights of a ridge regression on them."""
    k, dim = support.shape
    penalty = RIDGE * max(np.sum(support**2) / k, 1e-12)
    # The same matrix twice: the smaller system of equations finds it faster.
    if k < dim:
        return np.asarray(np.linalg.solve(support @ support.T + penalty * np.eye(k), support).T)
    return np.asarray(np.linalg.solve(support.T @ support + penalty * np.eye(dim), support.T))


def posterior_means(predicted: Floats, worth: Floats, sums: Floats, counts: Indices) -> Floats:
    """Average of `counts` images with the given `sums` (c, d) and of `worth` (c,) imaginary ones at `predicted`."""
    total = worth + counts
    return np.asarray((worth[:, None] * predicted + sums) / total[:, None])
