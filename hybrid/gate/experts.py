"""Zero-shot logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def zero_shot_logits(embeddings: NDArray[Any], classes: NDArray[Any], logit_scale: float) -> NDArray[np.float32]:
    """Cosine similarity of images (n, dim) and classes (c, dim), both unit norm, times `logit_scale`."""
    return np.asarray(logit_scale * (embeddings @ classes.T), dtype=np.float32)
