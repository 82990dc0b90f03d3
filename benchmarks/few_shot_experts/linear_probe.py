"""`LinearProbe`: logistic regression on the images alone."""

from __future__ import annotations

import warnings

import numpy as np

from hybrid.errors import FewShotError
from hybrid.gate.few_shot.base import FewShotExpert, Shots
from hybrid.gate.gaussians import Floats

MAX_ITERATIONS = 1000


class LinearProbe(FewShotExpert):
    """L2 logistic regression (scikit-learn), as the linear probe of CLIP (Radford et al., ICML 2021).

    Texts are not used: a class without images scores -inf, it has probability 0.

    Parameters
    ----------
    logit_scale : float
        Not used; every expert takes it.
    c : float
        Inverse strength of the penalty. CLIP's code takes 0.316, on embeddings before normalization, of length about
        10. On unit vectors the same fit needs weights ten times as long, so a C a hundred times as large: 31.6.

    Attributes
    ----------
    weight_ : (c, d) float64
    bias_ : (c,) float64
    """

    def __init__(self, logit_scale: float, c: float = 31.6) -> None:
        super().__init__(logit_scale)
        self.c = c

    def _fit(self, shots: Shots) -> None:
        shown = np.flatnonzero(shots.support)
        if not len(shown):
            raise FewShotError("the linear probe needs photos", got="none")
        self.weight_ = np.zeros_like(shots.texts)
        self.bias_ = np.where(shots.support, 0.0, -np.inf)
        # Of one class alone there is nothing to learn.
        if len(shown) > 1:
            self.weight_[shown], self.bias_[shown] = self._regress(shots)

    def _regress(self, shots: Shots) -> tuple[Floats, Floats]:
        """Weight and bias of the classes with images."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            # With one image a class, scikit-learn takes class indices for numbers to regress on.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            try:
                model = LogisticRegression(C=self.c, max_iter=MAX_ITERATIONS).fit(shots.embeddings, shots.labels)
            except ConvergenceWarning as warning:
                reason = str(warning).splitlines()[0]
                raise FewShotError(f"the linear probe with C = {self.c:g} did not converge", got=reason) from warning
        weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
        if len(weight) == 1:
            # scikit-learn keeps one row for two classes: the log-odds of the second.
            return np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        return weight, bias

    def _logits(self, embeddings: Floats) -> Floats:
        return np.asarray(embeddings @ self.weight_.T + self.bias_)
