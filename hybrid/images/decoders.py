"""Decoders by name. A new one is a class in a file of its own and a line in `DECODERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from PIL import Image

from hybrid.errors import ConfigError, HybridError, UnreadableImageError
from hybrid.images.decode import Pixels, Scaled, decode_scaled, draft_jpeg


@runtime_checkable
class Decoder(Protocol):
    """Decodes one image in a reading thread; several threads call it at once.

    Attributes
    ----------
    name : str
        As in `DECODERS`.
    """

    name: str

    def decode(self, data: bytes, min_side: int | None) -> Scaled:
        """Decode an image to upright RGB, at no more pixels than are needed.

        Parameters
        ----------
        data : bytes
            An encoded image, in any format or none.
        min_side : int or None
            The shorter side of the result is at least this long, if the image's own is. None: full size.

        Raises
        ------
        UnreadableImageError
            With a short reason.
        """


@runtime_checkable
class BatchDecoder(Protocol):
    """Decodes a batch of encoded images at once, for example on a GPU; called from one thread at a time."""

    name: str

    def decode_batch(self, data: Sequence[bytes], min_side: int | None) -> Sequence[Scaled | UnreadableImageError]:
        """Decode images as `Decoder.decode`, in order, with the error in the place of one that cannot be decoded."""


AnyDecoder: TypeAlias = Decoder | BatchDecoder


class Pillow:
    """All formats by Pillow, which scales JPEGs to 1/2, 1/4 and 1/8 (``Image.draft``)."""

    name = "pillow"

    def __init__(self, device: str = "cpu") -> None:
        pass

    def decode(self, data: bytes, min_side: int | None = None) -> Scaled:
        """See `Decoder`; at full size the same pixels as `hybrid.images.decode.decode` gives."""
        return decode_scaled(data, min_side, draft_jpeg, (1, 2, 4))


class LibjpegTurbo:
    """JPEGs by simplejpeg's libjpeg-turbo, scaled to eighths up to 1/2; all else by Pillow."""

    name = "libjpeg-turbo"

    def __init__(self, device: str = "cpu") -> None:
        try:
            import simplejpeg
        except ImportError as error:
            raise ConfigError("simplejpeg is not installed", fix="pip install simplejpeg") from error
        self._decode_jpeg: Callable[..., Pixels] = simplejpeg.decode_jpeg

    def decode(self, data: bytes, min_side: int | None = None) -> Scaled:
        """See `Decoder`; at full size the same pixels as `hybrid.images.decode.decode` gives."""
        return decode_scaled(data, min_side, self._read_jpeg, (1, 2, 3, 4))

    def _read_jpeg(self, data: bytes, image: Image.Image, eighths: int) -> Pixels | None:
        height, width = (-(-side * eighths // 8) for side in (image.height, image.width))
        sides = {"min_height": height, "min_width": width} if eighths < 8 else {}
        try:
            return np.asarray(self._decode_jpeg(data, "RGB", **sides))
        except ValueError:
            return None


# The first that can be loaded for a device is the default.
DECODERS: Mapping[str, Callable[[str], AnyDecoder]] = MappingProxyType(
    {LibjpegTurbo.name: LibjpegTurbo, Pillow.name: Pillow}
)


def choose_decoder(name: str = "auto", device: str = "cpu") -> tuple[AnyDecoder, str]:
    """Load a decoder.

    Parameters
    ----------
    name : str
        A key of `DECODERS`, or ``auto``: the first of them that can be loaded.
    device : str
        Where images are computed with, such as ``cuda``.

    Returns
    -------
    AnyDecoder
    str
        A note for people: which decoder it is, and why not one before it.

    Raises
    ------
    ConfigError
        If the name is unknown, or the decoder's package is missing.
    """
    if name != "auto" and name not in DECODERS:
        raise ConfigError("unknown decoder", expected=", ".join(["auto", *DECODERS]), got=name)
    skipped = []
    for key in DECODERS if name == "auto" else [name]:
        try:
            decoder = DECODERS[key](device)
        except HybridError as error:
            if name != "auto":
                raise
            skipped.append(f"not {key}: {error.what}")
        else:
            why = "asked for" if name != "auto" else "; ".join(skipped)
            return decoder, f"decoder: {key}" + (f" ({why})" if why else "")
    raise ConfigError("no decoder can be loaded", got="; ".join(skipped))
