"""Decoders by name. A new one is a class in a file of its own and a line in `DECODERS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from hybrid.errors import ConfigError, HybridError, UnreadableImageError
from hybrid.images.decode import Pixels, Scaled, Size, decode_scaled, draft_jpeg

if TYPE_CHECKING:
    from hybrid.images.readers import Readers


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
        """Decode an image as `hybrid.images.decode.decode` does, at no more pixels than are needed.

        Parameters
        ----------
        data : bytes
        min_side : int or None
            The shorter side of the result is at least this long, if the image's own is. None: full size.

        Raises
        ------
        UnreadableImageError
            With a short reason.
        """


@runtime_checkable
class BatchDecoder(Protocol):
    """Decodes a batch of encoded images at once, for example on a GPU; called from one thread at a time.

    Its `Scaled` may hold tensors that lie on the device of the models, ready to be read in any stream.

    A decoder of either kind whose pixels differ from those of the others says so by an attribute `pixels`, a name for
    them: vectors of different pixels are kept apart.
    """

    name: str

    def decode_batch(self, data: Sequence[bytes], min_side: int | None) -> Iterable[Scaled | UnreadableImageError]:
        """Decode images as `Decoder.decode`, in order, with the error in the place of one that cannot be decoded."""


@runtime_checkable
class PlanningDecoder(Protocol):
    """A `BatchDecoder` that is so fast that files are read for it by processes, which look at the headers too.

    Two threads call `decode_batch`: one does Python's part of a batch while the device decodes the other's.

    Attributes
    ----------
    batch : int
        Images that it likes to decode at once.
    readers : Readers
    """

    name: str
    batch: int
    readers: Readers

    def plan(self, data: bytes | memoryview) -> Any:
        """Say how to decode an image, in a reading thread: `hybrid.images.nvjpeg.plan_of`, as the processes do."""

    def decode_batch(
        self, data: Sequence[bytes | memoryview], min_side: int | None, plans: Sequence[Any] | None = None
    ) -> Iterable[Scaled | UnreadableImageError]:
        """Decode images as `BatchDecoder.decode_batch`; `plans` has what `plan` says of each."""


AnyDecoder: TypeAlias = Decoder | BatchDecoder


class Pillow:
    """All formats by Pillow, which scales JPEGs to 1/2, 1/4 and 1/8 (``Image.draft``)."""

    name = "pillow"

    def __init__(self, device: str = "cpu") -> None:
        """Work for every device."""

    def decode(self, data: bytes, min_side: int | None = None) -> Scaled:
        """See `Decoder`."""
        return decode_scaled(data, min_side, draft_jpeg, (1, 2, 4))


class LibjpegTurbo:
    """JPEGs by simplejpeg's libjpeg-turbo, scaled to eighths up to 1/2; all else by Pillow."""

    name = "libjpeg-turbo"

    def __init__(self, device: str = "cpu") -> None:
        try:
            from simplejpeg import decode_jpeg
        except ImportError as error:
            raise ConfigError("simplejpeg is not installed", fix="pip install simplejpeg") from error
        self._decode_jpeg: Callable[..., Pixels] = decode_jpeg

    def decode(self, data: bytes, min_side: int | None = None) -> Scaled:
        """See `Decoder`."""
        return decode_scaled(data, min_side, self._read_jpeg, (1, 2, 3, 4))

    def _read_jpeg(self, data: bytes, size: Size, eighths: int) -> Pixels | None:
        height, width = (-(-side * eighths // 8) if eighths < 8 else 0 for side in (size.height, size.width))
        try:
            return np.asarray(self._decode_jpeg(data, "RGB", min_height=height, min_width=width))
        except ValueError:
            return None


def _nvjpeg(device: str) -> BatchDecoder:
    from hybrid.images.nvjpeg import load

    return load(device)


NVJPEG = "nvjpeg"
# The first that can be loaded is the default.
DECODERS: Mapping[str, Callable[[str], AnyDecoder]] = MappingProxyType(
    {NVJPEG: _nvjpeg, LibjpegTurbo.name: LibjpegTurbo, Pillow.name: Pillow}
)


def choose_decoder(name: str = "auto", device: str = "cpu") -> tuple[AnyDecoder, str]:
    """Load a decoder.

    Parameters
    ----------
    name : str
        A key of `DECODERS`; ``auto``: the first of them that can be loaded; ``cpu``: the first that is not nvJPEG.
    device : str
        Where the models compute, such as ``cuda``; a decoder for another one cannot be loaded.

    Returns
    -------
    decoder : AnyDecoder
    note : str
        For people: which decoder it is, and why not one before it.

    Raises
    ------
    ConfigError
        If the name is unknown, or what the decoder needs is missing.
    DeviceError
        If the device cannot do what the decoder asks of it.
    """
    if name not in ("auto", "cpu", *DECODERS):
        raise ConfigError(
            "unknown decoder", expected=", ".join(["auto", "cpu", *DECODERS]), got=name, fix="take one of these"
        )
    asked = name in DECODERS
    # That a GPU's decoder needs a GPU need not be said to those who have none.
    left_out = {NVJPEG} if name == "cpu" or not device.startswith("cuda") else set()
    skipped = []
    for key in [name] if asked else [key for key in DECODERS if key not in left_out]:
        try:
            decoder = DECODERS[key](device)
        except HybridError as error:
            if asked:
                raise
            skipped.append(f"not {key}: {error.what}")
        else:
            why = f" ({'; '.join(skipped)})" if skipped else ""
            return decoder, f"images are decoded by {key}{why}"
    raise ConfigError(
        "no decoder can be loaded",
        got="; ".join(skipped),
        fix="install Pillow again: pip install --force-reinstall pillow",
    )


def cpu_decoder() -> Decoder:
    """Load the first decoder of single images, on the CPU; ConfigError if there is none."""
    decoder, _ = choose_decoder("cpu")
    if not isinstance(decoder, Decoder):
        raise ConfigError(
            "the decoder for the CPU takes batches alone",
            expected="a Decoder",
            got=decoder.name,
            fix="put one for single images before it",
        )
    return decoder


def pixels_of(decoder: AnyDecoder | None) -> str:
    """Name the pixels of a decoder that differ from those of the others; empty for nearly all."""
    return str(getattr(decoder, "pixels", ""))
