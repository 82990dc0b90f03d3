"""`GDA`: Gaussian discriminant analysis with one precision for all classes, blended with zero-shot."""

from __future__ import annotations

import numpy as np

from hybrid.gate.few_shot.base import BaseExpert, Floats, Shots

# Below this total variance the images are copies of their class mean, up to rounding.
NO_VARIANCE = 1e-12


class GDA(BaseExpert):
    """A hard-to-beat baseline for training-free CLIP-based adaptation (Wang et al., ICLR 2024).

    Logits = logit_scale * cosine to the text + alpha * (mu' P x - mu' P mu / 2), with class mean mu and precision
    P = d * inv((n - 1) * S + tr(S) * I) of the images' covariance S around their class means (Kubokawa & Srivastava
    2008). Classes are equally likely beforehand.

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
    weight_ : (c, d) float64
    bias_ : (c,) float64
        Discriminant = embeddings @ weight_.T + bias_.
    """

    def __init__(self, logit_scale: float, alpha: float = 1.0) -> None:
        super().__init__(logit_scale)
        self.alpha = alpha

    def _fit(self, shots: Shots) -> None:
        self.texts_ = shots.full_texts
        means = shots.full_means
        self.weight_ = means @ precision(shots.embeddings - means[shots.labels])
        self.bias_ = -np.einsum("cd,cd->c", self.weight_, means) / 2

    def _logits(self, embeddings: Floats) -> Floats:
        discriminant = embeddings @ self.weight_.T + self.bias_
        return np.asarray(self.logit_scale * (embeddings @ self.texts_.T) + self.alpha * discriminant)


def precision(centred: Floats) -> Floats:
    """Invert the covariance of rows (n, d) with mean 0, shrunk, shape (d, d); 0 where nothing varies."""
    n, dim = centred.shape
    scatter = centred.T @ centred
    trace = np.trace(scatter) / max(n - 1, 1)
    if trace < NO_VARIANCE:
        return np.zeros((dim, dim))
    return np.asarray(dim * np.linalg.inv(scatter + trace * np.eye(dim)))
