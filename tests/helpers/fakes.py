"""An encoder and a head whose answers can be written down: both look at the mean color of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid.encoders.base import unit_norm
from hybrid.images.preprocess import AnyImage, to_picture
from hybrid.images.records import ImageRecord


def mean_color(image: AnyImage) -> np.ndarray:
    return np.asarray(to_picture(image), dtype=np.float64).reshape(-1, 3).mean(axis=0)


class ColorEncoder:
    """Embeds an image as the direction of its mean color; counts what it prepares and the batches it encodes."""

    dim, logit_scale, uses_templates, notes = 3, 10.0, True, ()
    min_side, batch_size = None, 32

    def __init__(self, identity: str = "colors", fingerprint: str | None = None) -> None:
        self.identity, self.fingerprint = identity, fingerprint or identity
        self.name = f"{identity}, the name"
        self.unknown: set[str] = set()
        self.prepared = 0
        self.batches: list[int] = []

    @property
    def encoded(self) -> int:
        return sum(self.batches)

    def can_encode(self, names: Sequence[str]) -> list[bool]:
        return [name not in self.unknown for name in names]

    def check(self, records: Sequence[ImageRecord]) -> None:
        pass

    def embed(self, color: np.ndarray) -> np.ndarray:
        return color

    def prepare(self, image: AnyImage, record: ImageRecord | None) -> np.ndarray:
        self.prepared += 1
        return self.embed(mean_color(image))

    def encode_images(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        self.batches.append(len(prepared))
        return unit_norm(np.stack(prepared)) if len(prepared) else np.empty((0, self.dim), dtype=np.float32)


class PixelHead:
    """Scores an image by its red and its green; needs no embedding, and counts what it prepares."""

    encoder_identity, notes = None, ()
    min_side, batch_size = None, 32

    def __init__(self, classes: tuple[str, str] = ("red", "green"), scale: float = 1.0) -> None:
        self.classes, self.scale, self.prepared = classes, scale, 0

    def prepare(self, image: AnyImage) -> np.ndarray:
        self.prepared += 1
        return mean_color(image)[:2].astype(np.float32) / np.float32(self.scale)

    def logits(self, prepared: Sequence[np.ndarray], embeddings: np.ndarray) -> np.ndarray:
        return np.stack(prepared)
