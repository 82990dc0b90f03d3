"""`TipAdapter`: zero-shot plus a cache of the labeled images."""

from __future__ import annotations

import numpy as np

from hybrid.gate.few_shot.base import FewShotExpert, Shots
from hybrid.gate.gaussians import Floats


class TipAdapter(FewShotExpert):
    """Tip-Adapter, training-free (Zhang et al., ECCV 2022).

    Logits = logit_scale * cosine to the text + alpha * sum over a class's images of exp(-beta * (1 - cosine to it)).
    A class without images has an empty cache; without a text, its mean image stands in (`Shots.full_texts`).

    Parameters
    ----------
    logit_scale : float
        The encoder's.
    alpha, beta : float
        Weight and sharpness of the cache. The defaults are where the authors' search for ImageNet begins; the search
        itself needs validation images and is left out.

    Attributes
    ----------
    texts_ : (c, d) float64
    keys_ : (n, d) float64
        The images.
    values_ : (n, c) float64
        Their labels, one-hot.
    """

    def __init__(self, logit_scale: float, alpha: float = 1.0, beta: float = 5.5) -> None:
        super().__init__(logit_scale)
        self.alpha, self.beta = alpha, beta

    def _fit(self, shots: Shots) -> None:
        self.texts_, self.keys_, self.values_ = shots.full_texts, shots.embeddings, shots.one_hot

    def _logits(self, embeddings: Floats) -> Floats:
        cache = np.exp(-self.beta * (1 - embeddings @ self.keys_.T)) @ self.values_
        return np.asarray(self.logit_scale * (embeddings @ self.texts_.T) + self.alpha * cache)
