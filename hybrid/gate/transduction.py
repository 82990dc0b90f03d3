"""Transduction: images that come together say where their classes lie, and so help to classify each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.gate.calibration import log_softmax
from hybrid.gate.gaussians import Floats

ROUNDS = 5
# Of the change in log-likelihood. Images that come together repeat what the gate got wrong: at 1 and more the answers
# collapse into few classes.
WEIGHT = 0.3
# Numbers of the (rows, classes) matrices that are in memory at once.
AT_ONCE = 2**21


@dataclass(frozen=True)
class ClassSums:
    """What the labeled images and the texts say of each class's mean, before any other image does.

    Attributes
    ----------
    sums : (c, d) float64
        Of the class's labeled images, and of the mean that its text predicts as if that were an image too.
    counts : (c,) float64
        How many were summed, 1 at least.
    precision : (d, d) float64
        Inverse covariance of the images around their class's mean.
    """

    sums: Floats
    counts: Floats
    precision: Floats


def transduce(log_probabilities: NDArray[Any], embeddings: NDArray[Any], classes: ClassSums) -> NDArray[np.float32]:
    """Answer for images together, by a few rounds of soft self-labeling.

    In each round every class's mean takes in all images, each one as far as it is thought to be of the class, and each
    image's answer is moved by how much likelier that mean makes it than the labeled images' mean does; an image's own
    part is left out of the means that judge it.

    Parameters
    ----------
    log_probabilities : (n, c)
        Each image's answer by itself.
    embeddings : (n, d)
        Unit norm.
    classes : ClassSums

    Returns
    -------
    (n, c) float32
        Log-probabilities. Beside arguments and result, (n, d) float32 are in memory, and a part of fixed size.
    """
    # Inner products by `precision` are those of whitened vectors. A shift of the origin adds the same to all classes.
    root = np.linalg.cholesky(classes.precision)
    origin = (classes.sums / classes.counts[:, None]).mean(axis=0)
    before = (classes.sums - classes.counts[:, None] * origin) @ root
    images = np.empty(embeddings.shape, np.float32)
    parts = list(_parts(*log_probabilities.shape))
    for rows in parts:
        images[rows] = (np.asarray(embeddings[rows], np.float64) - origin) @ root
    found = np.array(log_probabilities, np.float32)
    for _ in range(ROUNDS):
        sums, counts = before.copy(), classes.counts.copy()
        for rows in parts:
            shares = np.exp(found[rows].astype(np.float64))
            sums += shares.T @ images[rows]
            counts += shares.sum(axis=0)
        for rows in parts:
            z, shares = images[rows].astype(np.float64), np.exp(found[rows].astype(np.float64))
            moved = _likelihood(z, sums, counts, shares) - _likelihood(z, before, classes.counts, np.zeros(1))
            found[rows] = log_softmax(log_probabilities[rows] + WEIGHT * moved)
    return found


def _likelihood(images: Floats, sums: Floats, counts: Floats, own: Floats) -> Floats:
    """Log-likelihood of whitened images (n, d) under the classes' means, (n, c), up to a constant per image.

    The means are those of `sums` (c, d) of `counts` (c,) images, less the image's `own` share, (n, c) or 0.
    """
    to_sums, lengths = images @ sums.T, np.einsum("nd,nd->n", images, images)[:, None]
    left = counts - own
    product = (to_sums - own * lengths) / left
    squared = (np.einsum("cd,cd->c", sums, sums) - 2 * own * to_sums + own**2 * lengths) / left**2
    return np.asarray(product - squared / 2)


def _parts(images: int, classes: int) -> Iterator[slice]:
    step = max(AT_ONCE // max(classes, 1), 1)
    return (slice(start, start + step) for start in range(0, images, step))
