"""`GDA`: Gaussian discriminant analysis with one precision for all classes, blended with zero-shot."""

from __future__ import annotations

import numpy as np

from hybrid.gate.few_shot.base import FewShotExpert, Shots
from hybrid.gate.gaussians import Discriminant, Floats

# Below this total variance the images are copies of their class mean, up to rounding.
NO_VARIANCE = 1e-12


class GDA(FewShotExpert):
    """A hard-to-beat baseline for training-free CLIP-based adaptation (Wang et al., ICLR 2024).

    Logits = logit_scale * cosine to the text + alpha * (mu' P x - mu' P mu / 2), with class mean mu and precision
    P = d * inv((n - 1) * S + tr(S) * I) of the images' covariance S around their class means (Kubokawa & Srivastava
    2008). The classes have equal priors.

    Where no class has two different images there is no covariance: P is 0, as the pseudo-inverse in the authors' code
    gives, and zero-shot is left. (The authors draw ten random crops of each image; cached embeddings have none.)
    A missing text or image is stood in for by the other, see `Shots.full_texts` and `Shots.full_means`.

    Parameters
    ----------
    logit_scale : float
        The encoder's.
    alpha : float
        Weight of the discriminant. The authors choose it on validation images from 1e-4, 1e-3, ... 100; there are
        none here, so it is added as it is.

    Attributes
    ----------
    texts_ : (c, d) float64
    discriminant_ : Discriminant
    """

    def __init__(self, logit_scale: float, alpha: float = 1.0) -> None:
        super().__init__(logit_scale)
        self.alpha = alpha

    def _fit(self, shots: Shots) -> None:
        self.texts_ = shots.full_texts
        means = shots.full_means
        self.discriminant_ = Discriminant.of(means, precision(shots.embeddings - means[shots.labels]))

    def _logits(self, embeddings: Floats) -> Floats:
        zero_shot = self.logit_scale * (embeddings @ self.texts_.T)
        return np.asarray(zero_shot + self.alpha * self.discriminant_(embeddings))


def precision(centered: Floats) -> Floats:
    """Invert the covariance of rows (n, d) with mean 0, shrunk, shape (d, d); 0 where nothing varies."""
    n, dim = centered.shape
    scatter = centered.T @ centered
    trace = np.trace(scatter) / max(n - 1, 1)
    if trace < NO_VARIANCE:
        return np.zeros((dim, dim))
    return np.asarray(dim * np.linalg.inv(scatter + trace * np.eye(dim)))
