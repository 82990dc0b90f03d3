"""What every encoder offers, whatever computes its vectors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hybrid.images.records import ImageRecord

if TYPE_CHECKING:
    from hybrid.images.decoders import AnyDecoder
    from hybrid.images.preprocess import AnyImage

FloatArray = NDArray[np.float32]


class Identified(Protocol):
    """What tells an encoder from others; see `Encoder`."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def identity(self) -> str: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102


class Encoder(Protocol):
    """Images and texts to embeddings: float32, unit norm, one space.

    Attributes
    ----------
    name : str
        For people: model and weights.
    identity : str
        Hash of model, weights and preprocessing; a gate or linear head serves one identity.
    fingerprint : str
        Hash of identity, precision and what decodes the images; stored vectors are never shared between two
        fingerprints.
    dim : int
        Length of an embedding.
    logit_scale : float
        Multiplies cosine similarities to give zero-shot logits; read from the model.
    uses_templates : bool
        False where texts are found by class name instead of encoded.
    min_side : int or None
        Shorter side that `prepare` needs of an image; 1 if it looks at no pixel, None: the full size.
    batch_size : int
        Images to embed at once, where the user does not say.
    notes : tuple of str
        What was loaded, on which device, in which precision, and why.
    """

    name: str
    identity: str
    fingerprint: str
    dim: int
    logit_scale: float
    uses_templates: bool
    min_side: int | None
    notes: tuple[str, ...]

    @property
    def batch_size(self) -> int: ...  # noqa: D102  described above

    def can_encode(self, names: Sequence[str]) -> list[bool]:
        """Tell of each class name whether `encode_texts` has a vector for it."""

    def check(self, records: Collection[ImageRecord]) -> None:
        """Raise EncoderError if some image can never be encoded, before any work is done."""

    def prepare(self, image: AnyImage, record: ImageRecord) -> Any:
        """Turn a decoded image into what `encode_images` takes; runs in worker threads."""

    def encode_images(self, prepared: Sequence[Any]) -> FloatArray:
        """Embed a batch, shape (n, dim)."""

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts, shape (n, dim)."""


@runtime_checkable
class DecodesImages(Protocol):
    """What an encoder offers besides, if images may be decoded for it on its device.

    Attributes
    ----------
    decoder : AnyDecoder or None
        What decodes them; None: the default one, on the CPU.
    """

    decoder: AnyDecoder | None

    def decoding_by(self, name: str, index: str | None = None) -> Encoder:
        """Give this encoder with a decoder and the fingerprint that its vectors then have.

        Parameters
        ----------
        name : str
            As `hybrid.images.decoders.choose_decoder` takes it. ``auto`` gives vectors that may join those of `index`,
            if a decoder of this machine does.
        index : str, optional
            Fingerprint of the vectors that a run has.
        """


@runtime_checkable
class PinsPrecision(Protocol):
    """What an encoder offers besides, if its vectors depend on the machine that makes them."""

    def fingerprint_at(self, precision: str, decoder: str) -> str:
        """Give the fingerprint of vectors made elsewhere.

        Parameters
        ----------
        precision : str
            Not ``auto``.
        decoder : str
            As `hybrid.images.decoders.choose_decoder` takes it, but for ``auto``.
        """


def decoder_of(encoder: Encoder) -> AnyDecoder | None:
    """Give the decoder that an encoder wants for its images; None for the default one."""
    return encoder.decoder if isinstance(encoder, DecodesImages) else None


@runtime_checkable
class ReadsSoMuch(Protocol):
    """What an encoder offers besides, if it reads of a text no more than its beginning."""

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Tell of each text whether some of it is not read."""


def fingerprint(parts: Mapping[str, Any]) -> str:
    """Hash what identifies an encoder (plain JSON values) to 16 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def unit_norm(vectors: NDArray[Any]) -> FloatArray:
    """Scale rows of a finite (n, dim) array to length 1, as float32."""
    array = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return np.asarray(array / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


def expand_user(name: str) -> Path:
    """Replace a leading ``~`` by the home folder; a ``~`` that names none stays, where pathlib would raise."""
    return Path(os.path.expanduser(name))  # noqa: PTH111
