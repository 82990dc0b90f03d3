"""Class means: predicted from texts, and drawn from there to the photos."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybrid.fusion.memory import Floats, Indices

# Strength of the ridge regression from texts to class means, in average squared lengths of a centred text.
RIDGE = 1.0
# How many photos the mean that is predicted from a text is worth.
TEXT_WORTH = 1.0


def predict_means(
    texts: Floats, means: Floats, known: NDArray[np.bool_], *, slope: float = 0.0, without_own: bool = False
) -> Floats:
    """Predict class means (c, d) from texts (c, d): kernel ridge regression on the classes whose means are known.

    Parameters
    ----------
    texts : (c, d)
    means : (c, d)
        Relative to the centre of the photos; only the known rows are read. So is the result.
    known : (c,) bool
    slope : float
        The regression corrects ``slope`` times the centred text; 0 starts from the centre of the photos.
    without_own : bool
        Predict each known class from the others alone (leave one out, in closed form).
    """
    centred = texts - texts[known].mean(axis=0)
    support, residual = centred[known], means[known] - slope * centred[known]
    gram = support @ support.T
    penalty = RIDGE * max(np.trace(gram) / len(gram), 1e-12)
    system = gram + penalty * np.eye(len(gram))
    correction = centred @ (support.T @ np.linalg.solve(system, residual))
    if without_own:
        own = np.diag(np.linalg.solve(system, gram))[:, None]
        correction[known] = (correction[known] - own * residual) / (1 - own)
    return np.asarray(slope * centred + correction)


def posterior_means(predicted: Floats, worth: Floats, sums: Floats, counts: Indices) -> Floats:
    """Average of `counts` photos with the given `sums` (c, d) and of `worth` (c,) imaginary ones at `predicted`."""
    total = worth + counts
    return np.asarray((worth[:, None] * predicted + sums) / total[:, None])
