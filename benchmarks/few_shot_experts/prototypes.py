"""`Prototypes`: the mean image of each class."""

from __future__ import annotations

import numpy as np

from hybrid.gate.few_shot.base import FewShotExpert, Shots, unit
from hybrid.gate.gaussians import Floats


class Prototypes(FewShotExpert):
    """Logits = logit_scale * cosine of image and class mean (Snell et al., Prototypical Networks, NeurIPS 2017).

    Without an image, the class's text stands in, moved to where images lie (`Shots.full_means`).

    Attributes
    ----------
    prototypes_ : (c, d) float64
        Unit norm.
    """

    def _fit(self, shots: Shots) -> None:
        self.prototypes_ = unit(shots.full_means)

    def _logits(self, embeddings: Floats) -> Floats:
        return np.asarray(self.logit_scale * (embeddings @ self.prototypes_.T))
