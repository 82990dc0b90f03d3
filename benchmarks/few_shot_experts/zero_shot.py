"""`ZeroShot`: the classes' texts alone."""

from __future__ import annotations

import numpy as np

from hybrid.errors import FewShotError
from hybrid.gate.few_shot.base import FewShotExpert, Shots
from hybrid.gate.gaussians import Floats


class ZeroShot(FewShotExpert):
    """Logits = logit_scale * cosine of image and text (Radford et al., CLIP, ICML 2021); images are not used.

    A class without a text scores -inf: it cannot be named, so it has probability 0.

    Attributes
    ----------
    texts_ : (c, d) float64
        A row of zeros where a class has no text.
    bias_ : (c,) float64
        0, and -inf where a class has no text.
    """

    def _fit(self, shots: Shots) -> None:
        if not shots.named.any():
            raise FewShotError("zero-shot needs a class with a text", got="none")
        self.texts_ = np.where(shots.named[:, None], shots.texts, 0.0)
        self.bias_ = np.where(shots.named, 0.0, -np.inf)

    def _logits(self, embeddings: Floats) -> Floats:
        return np.asarray(self.logit_scale * (embeddings @ self.texts_.T) + self.bias_)
