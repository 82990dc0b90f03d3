"""Encoder and head of a bundle, as `hybrid.run.fitted` takes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid.device import CPU_BATCH
from hybrid.encoders.base import FloatArray, unit_norm
from hybrid.errors import EncoderError
from hybrid.images.decode import Scaled
from hybrid.images.records import ImageRecord
from hybrid.lite.model import EncoderInfo, HeadPart
from hybrid.lite.network import Network
from hybrid.lite.preprocess import fit

if TYPE_CHECKING:
    from hybrid.images.preprocess import AnyImage
    from hybrid.lite.tokenizer import Tokenizer

TextTower = Callable[[], "tuple[Tokenizer, Network]"]


class BundleEncoder:
    """The encoder of a bundle; see the `Encoder` protocol.

    Parameters
    ----------
    info : EncoderInfo
    tower : Network
        Pixels (n, height, width, 3) uint8 to (n, dim).
    text_tower : callable
        Loads tokenizer and text tower, where a text is to be encoded.
    """

    uses_templates = True
    batch_size = CPU_BATCH

    def __init__(self, info: EncoderInfo, tower: Network, text_tower: TextTower) -> None:
        self._info, self._tower, self._load_texts = info, tower, text_tower
        self.name, self.identity, self.fingerprint = info.name, info.identity, info.identity
        self.dim, self.logit_scale = info.dim, info.logit_scale
        self.notes: tuple[str, ...] = ()
        self.min_side: int | None = info.steps.min_side

    def can_encode(self, names: Sequence[str]) -> list[bool]:
        """Any name can be encoded."""
        return [True] * len(names)

    def check(self, records: Collection[ImageRecord]) -> None:
        """Nothing to check: any decoded image can be encoded."""

    def prepare(self, image: AnyImage, record: ImageRecord | None) -> Any:
        """Resize and crop a decoded image."""
        return fit(_scaled(image), self._info.steps)

    def encode_images(self, prepared: Sequence[Any]) -> FloatArray:
        """Embed prepared images, (n, dim) float32, unit norm."""
        if not prepared:
            return np.empty((0, self.dim), np.float32)
        return self._finite(self._tower(np.stack(prepared)), "photos")

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts, (n, dim) float32, unit norm, one by one: as the run that was exported did."""
        tokenizer, tower = self._texts
        parts = [self._finite(tower(tokenizer([text])), "texts") for text in texts]
        return np.concatenate([np.empty((0, self.dim), np.float32), *parts])

    @cached_property
    def _texts(self) -> tuple[Tokenizer, Network]:
        return self._load_texts()

    def _finite(self, vectors: FloatArray, what: str) -> FloatArray:
        if not np.isfinite(vectors).all():
            raise EncoderError(
                f"{self.name} gave vectors for {what} that are not finite",
                fix="take another execution provider: --provider cpu",
            )
        return unit_norm(vectors)


class NetworkHead:
    """A head of a bundle that reads pixels; see the `Head` protocol."""

    encoder_identity: str | None = None
    batch_size = CPU_BATCH

    def __init__(self, part: HeadPart, network: Network) -> None:
        if part.steps is None:
            raise TypeError("a head that reads pixels has a preprocessing")
        self._steps, self._network, self.classes = part.steps, network, part.classes
        self.min_side: int | None = part.steps.min_side
        self.notes: tuple[str, ...] = (f"head: {part.description}, {len(part.classes)} classes",)

    def prepare(self, image: AnyImage) -> Any:
        """Resize and crop a decoded image."""
        return fit(_scaled(image), self._steps)

    def logits(self, prepared: Sequence[Any], embeddings: FloatArray) -> FloatArray:
        """Score prepared images, (n, n_classes); `embeddings` is not used."""
        if not prepared:
            return np.empty((0, len(self.classes)), np.float32)
        return self._network(np.stack(prepared))


def _scaled(image: AnyImage) -> Scaled:
    return image if isinstance(image, Scaled) else Scaled.whole(np.array(image))
