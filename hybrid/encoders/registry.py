"""The encoders that there are. A new one is a file with a loader, and one line in `ENCODERS`."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from hybrid.config import EncoderSettings
from hybrid.encoders.base import DecodesImages, Encoder
from hybrid.encoders.presets import PRESETS
from hybrid.errors import ConfigError, MissingExtraError


class EncoderEntry(NamedTuple):
    """How an encoder is chosen and loaded.

    Attributes
    ----------
    usage : str
        What `EncoderSettings.model` takes: a name, or a prefix with a colon and what follows it.
    loader : str
        ``module:function``, imported when it is chosen, and called with `EncoderSettings` and the name of a device.
    extra : str
        Of this project, whose packages it needs; empty if the default install has them.
    """

    usage: str
    loader: str
    extra: str = ""

    @property
    def prefix(self) -> str:
        """The part of `usage` up to its colon; empty for a plain name."""
        head, colon, _ = self.usage.partition(":")
        return head + colon if colon else ""

    def matches(self, model: str) -> bool:
        """Whether these settings name this encoder."""
        return model.startswith(self.prefix) if self.prefix else model == self.usage


ENCODERS = (
    EncoderEntry("tiny", "hybrid.encoders.clip:load_tiny"),
    EncoderEntry("precomputed:FILE.npz", "hybrid.encoders.precomputed:load"),
)
# Whatever no entry matches.
OPEN_CLIP = EncoderEntry("an open_clip model, a folder, hf-hub:REPO", "hybrid.encoders.clip:load")


def known_encoders() -> str:
    """What settings may name, for a message."""
    return ", ".join((*(entry.usage for entry in (OPEN_CLIP, *ENCODERS)), *PRESETS))


def split_prefix(model: str) -> tuple[str, str]:
    """Split a model's name into the prefix that chooses its encoder (may be empty) and the rest."""
    prefix = next((entry.prefix for entry in ENCODERS if entry.matches(model)), "")
    return prefix, model.removeprefix(prefix)


def load_encoder(
    settings: EncoderSettings, device: str = "auto", decoder: str = "auto", index: str | None = None
) -> Encoder:
    """Load the encoder that the settings name.

    Parameters
    ----------
    settings : EncoderSettings
    device : str
        See `hybrid.device.resolve`.
    decoder, index : str
        See `hybrid.encoders.base.DecodesImages.decoding_by`.

    Raises
    ------
    ConfigError
        If there is no such decoder, or the encoder's images are not decoded by one of choice.
    DeviceError
        If the decoder does not work on the device.
    EncoderError
        If it cannot be loaded; the message names the ways out.
    MissingExtraError
        If a package that it needs is not installed.
    """
    entry = next((entry for entry in ENCODERS if entry.matches(settings.model)), OPEN_CLIP)
    module, _, function = entry.loader.partition(":")
    try:
        loader = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        if not entry.extra:
            raise
        raise MissingExtraError(f"the encoder {settings.model}", str(error.name), entry.extra) from error
    encoder: Encoder = loader(settings, device)
    if isinstance(encoder, DecodesImages):
        return encoder.decoding_by(decoder, index)
    if decoder not in ("auto", "cpu"):
        raise ConfigError(
            "this encoder has no decoder of choice for its images",
            expected="auto or cpu",
            got=f"{decoder}, and the encoder {settings.model}",
            fix="leave --decoder out",
        )
    return encoder
