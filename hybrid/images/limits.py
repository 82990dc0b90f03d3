"""How large an image may be: refused by its size before it is read, and never many large ones at once."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from hybrid.errors import ConfigError, UnreadableImageError

MAX_PIXELS = "HYBRID_MAX_PIXELS"
# What an uncompressed pixel takes at most: 16 bits of each of four channels.
_BYTES_PER_PIXEL = 8
# From this size on, images that must be decoded whole are decoded one after the other, and made small at once.
LARGE = 64 * 2**20
_ONE_LARGE = threading.Lock()


@cache
def max_pixels() -> int:
    """Give the number of pixels that an image may have: Pillow's limit, or what the environment sets.

    Raises
    ------
    ConfigError
        If the environment variable is not a number of pixels.
    """
    from PIL import Image

    text = os.environ.get(MAX_PIXELS)
    if text is None:
        return 2 * (Image.MAX_IMAGE_PIXELS or 2**40)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**40):
        raise ConfigError(
            f"{MAX_PIXELS} is not a number of pixels",
            expected="such as 400000000",
            got=text,
            fix=f"set {MAX_PIXELS} to such a number, or unset it",
        )
    # Pillow refuses twice the number that it warns of.
    Image.MAX_IMAGE_PIXELS = -(-int(text) // 2)
    return int(text)


def max_bytes() -> int:
    """Give the size that a file may have: no image within `max_pixels` is larger."""
    return _BYTES_PER_PIXEL * max_pixels()


def check_bytes(size: int) -> None:
    """Raise an UnreadableImageError for a size that a file may not have."""
    if size > max_bytes():
        raise UnreadableImageError(
            f"the file is too large for an image: {size / 2**30:.1f} GiB, the limit is "
            f"{max_bytes() / 2**30:.1f} GiB ({MAX_PIXELS} raises it)"
        )


def too_many_pixels(found: str) -> str:
    """Say why an image is refused, and how it is read nevertheless.

    Parameters
    ----------
    found : str
        Pillow's words, of which the first number is that of the pixels.
    """
    count = re.search(r"\d+", found)
    pixels = int(count[0]) if count else max_pixels() + 1
    return (
        f"the image has too many pixels: {pixels / 1e6:.0f} million, the limit is {max_pixels() / 1e6:.0f} million "
        f"(to read it nevertheless: {MAX_PIXELS}={pixels})"
    )


@contextmanager
def one_at_a_time(pixels: int) -> Iterator[None]:
    """Let the decoding of large images wait for each other, so that memory holds one; others pass."""
    if pixels <= LARGE:
        yield
    else:
        with _ONE_LARGE:
            yield
