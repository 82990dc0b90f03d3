"""`MeanCache`: for label spaces in which only some classes have images."""

from __future__ import annotations

import numpy as np

from hybrid.gate.few_shot.base import FewShotExpert, Shots
from hybrid.gate.gaussians import Floats

# Images that the affinity between classes is measured to.
MOST_IMAGES = 500


class MeanCache(FewShotExpert):
    """Zero-shot logits, and for each class with images how much nearer an image is to them than to other classes'.

    Tip-Adapter's cache (Zhang et al. 2022) with two changes, so that classes without images stay in the game. A class's
    affinities are averaged, where Tip-Adapter sums them and so favors whoever has many images. And the mean affinity
    of two images of different classes is taken away, so that having images is no advantage in itself.

    Parameters
    ----------
    logit_scale : float
        The encoder's.
    alpha : float
        Weight of the cache, in units of the logit scale.
    beta : float
        Sharpness of the affinity ``exp(-beta * (1 - cosine))``, as in the paper.

    Attributes
    ----------
    texts_, images_ : (c, d), (n, d) float64
    share_ : (n, c) float64
        One over a class's number of images where an image is of it, else 0.
    between_ : float
        Mean affinity of images of different classes; 0 where only one class has images.
    """

    def __init__(self, logit_scale: float, alpha: float = 0.03, beta: float = 5.5) -> None:
        super().__init__(logit_scale)
        self.alpha, self.beta = alpha, beta

    def _fit(self, shots: Shots) -> None:
        self.texts_, self.images_ = shots.full_texts, shots.embeddings
        self.share_ = shots.one_hot / np.maximum(shots.counts, 1)
        self._support = shots.support
        # Against a sample, so that many images need no matrix of all pairs.
        sample = np.linspace(0, len(shots.labels) - 1, min(len(shots.labels), MOST_IMAGES)).astype(np.intp)
        other = shots.labels[:, None] != shots.labels[sample]
        self.between_ = float(self._affinity(shots.embeddings[sample])[other].mean()) if other.any() else 0.0

    def _affinity(self, vectors: Floats) -> Floats:
        """Of images (m, d) to the cached ones, (n, m)."""
        return np.asarray(np.exp(-self.beta * (1 - self.images_ @ vectors.T)))

    def _logits(self, embeddings: Floats) -> Floats:
        zero_shot = self.logit_scale * (embeddings @ self.texts_.T)
        gain = self._affinity(embeddings).T @ self.share_ - self.between_
        return np.asarray(zero_shot + self.alpha * self.logit_scale * np.where(self._support, gain, 0.0))
