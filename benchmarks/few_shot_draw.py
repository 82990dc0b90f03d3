"""Which images benchmarks/few_shot.py learns from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw(target: NDArray[np.intp], classes: int, shots: int, seed: int) -> NDArray[np.intp]:
    """Rows of `shots` images of each class (all it has, where fewer), sorted; more shots keep those of fewer."""
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(target == c))[:shots] for c in range(classes)]))
