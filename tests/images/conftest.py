"""Files and pictures that the tests of this room share."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid.errors import UnreadableImageError
from hybrid.images.decode import Scaled
from hybrid.images.decoders import LibjpegTurbo


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    def make(width: int, height: int, mode: str = "RGB", seed: int = 0, block: int = 5, **levels: int) -> Image.Image:
        """Blurred noise: edges in both directions, and no two parts alike."""
        rng = np.random.default_rng((seed, width, height))
        sides = (max(2, height // block), max(2, width // block), 3)
        coarse = rng.integers(levels.get("low", 0), levels.get("high", 256), sides, dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    def make(image: Image.Image, fmt: str = "JPEG", orientation: int | None = None, **options: object) -> bytes:
        if orientation is not None:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = orientation
        if fmt == "WEBP":
            options.setdefault("lossless", True)
        buffer = io.BytesIO()
        image.save(buffer, fmt, **options)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def touch() -> Callable[..., Path]:
    """Write a file, with its folders."""

    def write(path: Path, data: bytes = b"x") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return write


class BatchDecoder:
    """A decoder of batches of bytes, whose pixels are tensors, as one on a GPU would be."""

    name = "on-device"

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.threads: set[int] = set()

    def decode_batch(self, data: Sequence[bytes], min_side: int | None) -> list[Scaled | UnreadableImageError]:
        self.sizes.append(len(data))
        self.threads.add(threading.get_ident())
        return [self._one(encoded, min_side) for encoded in data]

    def _one(self, data: bytes, min_side: int | None) -> Scaled | UnreadableImageError:
        try:
            scaled = LibjpegTurbo().decode(data, min_side)
        except UnreadableImageError as error:
            return error
        return Scaled(torch.from_numpy(scaled.rgb), scaled.extent)


@pytest.fixture
def batch_decoder() -> BatchDecoder:
    return BatchDecoder()
