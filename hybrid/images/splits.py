"""Splitting labeled images into a part to train on and a part to validate with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import ConfigError

Indices = NDArray[np.intp]


def stratified_split(labels: Sequence[str], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split images so that every class has its share on both sides.

    Classes whose share is two images or more on either side are split by scikit-learn's stratified
    `train_test_split`. It may leave smaller classes without an image on one side, or refuse them, so they are
    split one by one: the share is rounded, but at least one image and at most all but one validate.
    A class with a single image is trained on.

    Parameters
    ----------
    labels : sequence of str, length n
        The class of each image.
    fraction : float
        The share to validate with, between 0 and 1, both excluded.
    seed : int
        The same labels, fraction and seed give the same split.

    Returns
    -------
    train, val : ndarray of intp, shapes (n - m,) and (m,)
        Indices into `labels`, sorted, disjoint, and together all of them.

    Raises
    ------
    ConfigError
        If `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        expected = "a number between 0 and 1, both excluded"
        raise ConfigError(
            "The validation fraction is out of range",
            expected=expected,
            got=str(fraction),
            fix="give such a number: 0.2 is usual",
        )
    _, codes, counts = np.unique(np.asarray(labels, dtype=object), return_inverse=True, return_counts=True)
    # With two images or more per side, scikit-learn's rounding, which is off by less than one, leaves at least one.
    is_small = counts * min(fraction, 1 - fraction) < 2
    rng = np.random.default_rng(seed)
    parts: list[Indices] = []
    for code in np.flatnonzero(is_small & (counts > 1)):
        members = rng.permutation(np.flatnonzero(codes == code))
        share = round(len(members) * fraction)
        parts.append(members[: min(max(share, 1), len(members) - 1)])
    large = np.flatnonzero(~is_small[codes])
    if len(large):
        from sklearn.model_selection import train_test_split

        parts.append(train_test_split(large, test_size=fraction, stratify=codes[large], random_state=seed)[1])
    val = np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.intp)
    return np.setdiff1d(np.arange(len(labels)), val), val
