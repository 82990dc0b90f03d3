"""From the texts of a class to one embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray


def average_texts(text_embeddings: NDArray[Any], counts: Sequence[int]) -> FloatArray:
    """Average the text embeddings of each class (prompt ensembling, Radford et al. 2021).

    Parameters
    ----------
    text_embeddings : (sum(counts), dim) unit norm
        Texts of the first class, then of the second, and so on.
    counts : sequence of int
        Texts of each class, each at least 1.

    Returns
    -------
    (n_classes, dim) float32, unit norm
    """
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    means = np.add.reduceat(np.asarray(text_embeddings, dtype=np.float64), starts, axis=0)
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)
