"""`CLAP`: a linear probe that starts at the texts and is held to them, class by class."""

from __future__ import annotations

import math

import numpy as np

from hybrid.gate.few_shot.base import FewShotExpert, Shots
from hybrid.gate.gaussians import Floats

MOMENTUM = 0.9
WARM_UP_RATE = 1e-5


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
