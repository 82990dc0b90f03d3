"""The networks behind a head, and what of an image they see."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hybrid.heads.nets.backbone_head import BackboneHead
from hybrid.heads.nets.ensemble import Ensemble

Pixels = NDArray[np.float64]


def members_of(head: BackboneHead) -> list[nn.Module]:
    """A head's networks, one unless it is an ensemble."""
    return list(head.model.members) if isinstance(head.model, Ensemble) else [head.model]


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
    height, width = prepared.shape[-2:]
    middle = height // 2, width // 2
    black, white = (_color(prepare(Image.new("RGB", (width, height), shade)), middle) for shade in ("black", "white"))
    raw = prepared[0].detach().float().cpu().numpy().astype(np.float64).transpose(1, 2, 0)
    return np.asarray(np.clip((raw - black) / (white - black), 0, 1), np.float64)


def _color(prepared: Tensor, place: tuple[int, int]) -> Pixels:
    return np.asarray(prepared[0, :, place[0], place[1]].float().cpu().numpy(), np.float64)
