"""What the tests of the device share: JPEGs of smooth pictures, and where they compute."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

DEVICE = "cuda"


def smooth_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Blurred noise, no two parts alike, far enough from black and white for no filter to clip it."""
    coarse = np.random.default_rng((seed, width, height)).integers(60, 200, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, fmt: str = "JPEG", orientation: int | None = None, **options: Any) -> bytes:
    """An image in the bytes of a file."""
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, fmt, **({"quality": 92} if fmt == "JPEG" else {}) | options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture(scope="session")
def smooth() -> Callable[..., Image.Image]:
    return smooth_picture


@pytest.fixture(scope="session")
def file_of() -> Callable[..., bytes]:
    """An image in the bytes of a file: `file_of(image, "PNG")`."""
    return encode
