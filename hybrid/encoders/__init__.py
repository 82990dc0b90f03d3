"""Encoders: images and texts to embeddings in one space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hybrid.config import EncoderSettings
from hybrid.device import resolve
from hybrid.encoders.base import Encoder, expand_user

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

        return PrecomputedEncoder(expand_user(settings.model.removeprefix(PRECOMPUTED)))
    from hybrid.encoders.clip import ClipEncoder, locate

    compute = resolve(device, settings.precision)
    if settings.model == "tiny":
        source = replace(locate(str(TINY_FOLDER), None), shown="tiny (bundled; knows only the drawn animals)")
        return ClipEncoder(source, compute)
    return ClipEncoder(locate(settings.model, settings.pretrained), compute)
