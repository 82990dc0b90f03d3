"""Encoders: photos and texts to embeddings in one space."""

from __future__ import annotations

from pathlib import Path

from hybrid.config import EncoderSettings
from hybrid.device import resolve
from hybrid.encoders.base import Encoder

TINY_FOLDER = Path(__file__).parent / "tiny_clip"
PRECOMPUTED = "precomputed:"


def load_encoder(settings: EncoderSettings, device: str = "auto") -> Encoder:
    """Load the encoder that the settings name.

    Raises
    ------
    EncoderError
        If it cannot be loaded; the message names the ways out.
    """
    if settings.model.startswith(PRECOMPUTED):
        from hybrid.encoders.precomputed import PrecomputedEncoder

        return PrecomputedEncoder(Path(settings.model.removeprefix(PRECOMPUTED)).expanduser())
    from hybrid.encoders.clip import ClipEncoder, locate

    model = str(TINY_FOLDER) if settings.model == "tiny" else settings.model
    return ClipEncoder(locate(model, settings.pretrained), resolve(device, settings.precision))
