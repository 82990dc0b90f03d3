"""The experts' arithmetic: zero-shot logits, and the geometric mean of two opinions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.fusion.calibration import log_softmax


def zero_shot_logits(embeddings: NDArray[Any], classes: NDArray[Any], logit_scale: float) -> NDArray[np.float32]:
    """Cosine similarity of photos (n, dim) and classes (c, dim), both unit norm, times `logit_scale`."""
    return np.asarray(logit_scale * (embeddings @ classes.T), dtype=np.float32)


def geometric_mean(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the normalised geometric mean of two distributions, given as log-probabilities (n, c)."""
    return log_softmax((first + second) / 2)
