"""`TipAdapterF`: Tip-Adapter with keys that are trained."""

from __future__ import annotations

import numpy as np

from few_shot_experts.tip_adapter import TipAdapter
from hybrid.gate.few_shot.base import Shots
from hybrid.gate.gaussians import Floats


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
