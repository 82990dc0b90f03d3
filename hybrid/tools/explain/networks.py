"""The networks behind a head and an encoder, and what of an image they see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid.heads.nets.backbone_head import BackboneHead
from hybrid.heads.nets.ensemble import Ensemble

Pixels = NDArray[np.float64]


def members_of(head: BackboneHead) -> list[nn.Module]:
    """A head's networks, one unless it is an ensemble."""
    return list(head.model.members) if isinstance(head.model, Ensemble) else [head.model]


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


def seen_pixels(prepare: Callable[[Image.Image], Tensor], prepared: Tensor) -> Pixels:
    """Undo a preprocessing's normalization: what the network sees, cut and scaled, (h, w, 3) from 0 to 1.

    The normalization is found out from a black and a white image.

    Parameters
    ----------
    prepare : callable
        From an image to a network's input, (1, 3, height, width).
    prepared : (1, 3, height, width)
        What it made of the image.
    """

    def channels_last(pixels: Tensor) -> Pixels:
        return pixels[0].detach().float().cpu().numpy().astype(np.float64).transpose(1, 2, 0)

    height, width = prepared.shape[-2:]
    black, white = (
        channels_last(prepare(Image.new("RGB", (width, height), shade)))[height // 2, width // 2]
        for shade in ("black", "white")
    )
    return np.asarray(np.clip((channels_last(prepared) - black) / (white - black), 0, 1), np.float64)
