"""Which parts of an image make the CLIP image encoder find it like a text."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid.tools.explain.attribution import Attribution, attribute


class TextSimilarity(nn.Module):
    """Cosine similarity of images to one text: (n, 3, height, width) to (n, 1).

    Parameters
    ----------
    tower : nn.Module
        The image tower of an open_clip model, any precision; a float32 copy is used.
    text : (dim,)
        Unit norm.
    """

    text: Tensor

    def __init__(self, tower: nn.Module, text: NDArray[Any]) -> None:
        super().__init__()
        self.tower = copy.deepcopy(tower).float().eval().requires_grad_(False)
        device = next(self.tower.parameters()).device
        self.register_buffer("text", torch.as_tensor(np.asarray(text, np.float32), device=device))

    def forward(self, images: Tensor) -> Tensor:
        """Embed and compare."""
        embedding = self.tower(images)
        # CoCa's tower gives its tokens too.
        embedding = embedding[0] if isinstance(embedding, tuple) else embedding
        return (F.normalize(embedding, dim=-1) @ self.text)[:, None]


def relevance(model: TextSimilarity, image: Tensor) -> Attribution:
    """Map what speaks for the text, by integrated gradients (Sundararajan et al., ICML 2017).

    They serve every tower, and on drawn animals they point best of all methods offered here
    (benchmarks/explain_pointing.py).

    Parameters
    ----------
    model : TextSimilarity
    image : (1, 3, height, width) float32
        As the encoder's own preprocessing gives it.
    """
    return attribute(model, image, 0, "integrated-gradients")
