"""The published few-shot methods, each on the same images and texts as the toolkit's own experts.

ProLIP (Fahes et al., 2024) is not here: it trains the encoder's last projection, whose input is not cached.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np

from hybrid.errors import FewShotError
from hybrid.gate.few_shot import registry
from hybrid.gate.few_shot.base import FewShotExpert, Shots, unit
from hybrid.gate.gaussians import Discriminant, Floats

# Of the linear probe.
MAX_ITERATIONS = 1000
# Of CLAP's training.
MOMENTUM = 0.9
WARM_UP_RATE = 1e-5
# Below this total variance the images are copies of their class mean, up to rounding.
NO_VARIANCE = 1e-12


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


class TipAdapterF(TipAdapter):
    """Tip-Adapter-F (Zhang et al., ECCV 2022): the cache's keys are trained by cross-entropy, the rest stands.

    As in the authors' code: AdamW with eps 1e-4, cosine schedule over all steps, 20 epochs, batches of 256. Two things
    of that code cannot be had here: random crops (the embeddings are cached) and the choice of epoch, alpha and beta
    by accuracy on held-out images; the last epoch counts.

    Parameters
    ----------
    logit_scale, alpha, beta : float
        See `TipAdapter`.
    learning_rate : float
    epochs, batch_size : int
    seed : int
        Of the order of the images.

    Attributes
    ----------
    texts_, keys_, values_
        See `TipAdapter`; `keys_` are no longer of unit norm.
    """

    def __init__(
        self,
        logit_scale: float,
        alpha: float = 1.0,
        beta: float = 5.5,
        learning_rate: float = 1e-3,
        epochs: int = 20,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(logit_scale, alpha, beta)
        self.learning_rate, self.epochs, self.batch_size, self.seed = learning_rate, epochs, batch_size, seed

    def _fit(self, shots: Shots) -> None:
        super()._fit(shots)
        if len(shots.labels):
            self._train(shots)

    def _train(self, shots: Shots) -> None:
        import torch
        from torch.nn import functional as F

        images = torch.tensor(shots.embeddings, dtype=torch.float32)
        labels = torch.tensor(shots.labels)
        values = torch.tensor(self.values_, dtype=torch.float32)
        zero_shot = self.logit_scale * images @ torch.tensor(self.texts_, dtype=torch.float32).T
        keys = images.clone().requires_grad_()
        optimizer = torch.optim.AdamW([keys], lr=self.learning_rate, eps=1e-4)
        steps = self.epochs * -(-len(images) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        order = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            for rows in torch.split(torch.randperm(len(images), generator=order), self.batch_size):
                cache = torch.exp(-self.beta * (1 - images[rows] @ keys.T)) @ values
                loss = F.cross_entropy(zero_shot[rows] + self.alpha * cache, labels[rows])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
        self.keys_: Floats = keys.detach().numpy().astype(np.float64)


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


class CLAP(FewShotExpert):
    """CLass-Adaptive linear Probe (Silva-Rodriguez et al., CVPR 2024); no hyper-parameter is tuned on images.

    Logits = logit_scale * cosine to a class's prototype. Prototypes start at the texts and minimize cross-entropy
    plus, averaged over classes, weight * squared distance to the text; a class's weight is the mean zero-shot
    probability of that class on its own images. Trained as in the authors' code: SGD with momentum, 300 epochs of
    batches of 256, one epoch of warm-up, then a cosine schedule. Their random crops are left out: embeddings are
    cached.

    A class without images is held with weight 1. Without a text, the mean image stands in (`Shots.full_texts`).

    Parameters
    ----------
    logit_scale : float
        The encoder's.
    learning_rate : float
    epochs, batch_size : int
    text_norm : float
        Length at which prototypes start. The authors' code starts at CLIP's texts before normalization, and penalty
        and step go with their length. Cached texts have lost theirs: 10, as of CLIP's images, is assumed.
    seed : int
        Of the order of the images.

    Attributes
    ----------
    prototypes_ : (c, d) float64
        Unit norm.
    penalty_ : (c,) float64
        How strongly each class is held to its text.
    """

    def __init__(
        self,
        logit_scale: float,
        learning_rate: float = 0.1,
        epochs: int = 300,
        batch_size: int = 256,
        text_norm: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(logit_scale)
        self.learning_rate, self.epochs, self.batch_size = learning_rate, epochs, batch_size
        self.text_norm, self.seed = text_norm, seed

    def _fit(self, shots: Shots) -> None:
        from scipy.special import softmax

        self.prototypes_ = shots.full_texts
        zero_shot = softmax(self._logits(shots.embeddings), axis=1)
        sums = (zero_shot * shots.one_hot).sum(axis=0)
        self.penalty_ = np.where(shots.support, sums / np.maximum(shots.counts, 1), 1.0)
        if len(shots.labels):
            self._train(shots)

    def _train(self, shots: Shots) -> None:
        import torch
        from torch.nn import functional as F

        images = torch.tensor(shots.embeddings, dtype=torch.float32)
        labels = torch.tensor(shots.labels)
        start = self.text_norm * torch.tensor(self.prototypes_, dtype=torch.float32)
        penalty = torch.tensor(self.penalty_, dtype=torch.float32)
        prototypes = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([prototypes], lr=self.learning_rate, momentum=MOMENTUM)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        order = torch.Generator().manual_seed(self.seed)
        # The authors drop the last, smaller batch of an epoch; the only one stays.
        batches = max(1, len(images) // self.batch_size)
        for _ in range(self.epochs):
            for rows in torch.split(torch.randperm(len(images), generator=order), self.batch_size)[:batches]:
                logits = self.logit_scale * images[rows] @ F.normalize(prototypes).T
                held = (penalty * (prototypes - start).square().sum(dim=1)).mean()
                loss = F.cross_entropy(logits, labels[rows]) + held
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            schedule.step()
        self.prototypes_ = F.normalize(prototypes.detach()).numpy().astype(np.float64)

    def _rate(self, epoch: int) -> float:
        """Share of the learning rate in an epoch: a constant warm-up, then half a cosine."""
        if epoch == 0:
            return WARM_UP_RATE / self.learning_rate
        return (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2

    def _logits(self, embeddings: Floats) -> Floats:
        return np.asarray(self.logit_scale * (embeddings @ self.prototypes_.T))


EXPERTS: dict[str, Callable[[float], FewShotExpert]] = {
    "zero-shot": ZeroShot,
    "prototypes": Prototypes,
    "tip-adapter": TipAdapter,
    "tip-adapter-f": TipAdapterF,
    "linear-probe": LinearProbe,
    "gda": GDA,
    "clap": CLAP,
    **registry.EXPERTS,
}


def make_expert(name: str, logit_scale: float) -> FewShotExpert:
    """Build a method or one of the toolkit's experts by its name; FewShotError if there is none of that name."""
    return registry.make_expert(name, logit_scale, EXPERTS)
