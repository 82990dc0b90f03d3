"""From the bytes of an image to pixels, by one thread: open_clip, ours, and bare decoders."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.throughput.ours import load, reader, to_input
from benchmarks.throughput.peers import load_open_clip
from benchmarks.throughput.processes import Setup, Work

Decode = Callable[[bytes], object]
SIZE = 224


def decode_alone(setup: Setup) -> Work:
    """One thread passes over images whose bytes are in memory; the option names one of `DECODERS`."""
    import torch

    torch.set_num_threads(1)
    ways: dict[str, Decode] = {}
    kept: dict[str, bytes] = {}

    def work(files: Sequence[str], option: Any) -> None:
        if option not in ways:
            ways[option] = DECODERS[option](setup)
        for file in files:
            if file not in kept:
                kept[file] = Path(file).read_bytes()
            ways[option](kept[file])

    return work


def open_clip_transform(setup: Setup) -> Decode:
    """Pillow and the model's own transform: a normalized float32 tensor."""
    from PIL import Image

    _, transform = load_open_clip(setup)
    return lambda data: transform(Image.open(io.BytesIO(data)))


def pillow_full(setup: Setup) -> Decode:
    """Pillow, all pixels."""
    from PIL import Image

    return lambda data: Image.open(io.BytesIO(data)).convert("RGB")


def pillow_draft(setup: Setup) -> Decode:
    """Pillow at the smallest DCT scale that covers the size."""
    from PIL import Image

    def decode(data: bytes) -> object:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (SIZE, SIZE))
        return image.convert("RGB")

    return decode


def simplejpeg_full(setup: Setup) -> Decode:
    """libjpeg-turbo by simplejpeg, all pixels."""
    import simplejpeg

    return lambda data: simplejpeg.decode_jpeg(data)


def simplejpeg_scaled(setup: Setup) -> Decode:
    """libjpeg-turbo by simplejpeg, at the smallest DCT scale that covers the size."""
    import simplejpeg

    return lambda data: simplejpeg.decode_jpeg(data, min_height=SIZE, min_width=SIZE, min_factor=1)


def torchvision_full(setup: Setup) -> Decode:
    """torchvision.io, all pixels."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    return lambda data: decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)


def pyvips_thumbnail(setup: Setup) -> Decode:
    """libvips: DCT scaling and a resize to the size."""
    os.environ["VIPS_CONCURRENCY"] = "1"  # read when the library starts
    try:
        import pyvips
    except OSError as error:  # the package is there, the library is not
        raise ImportError(str(error), name="pyvips") from error
    pyvips.cache_set_max(0)

    def decode(data: bytes) -> object:
        image = pyvips.Image.thumbnail_buffer(data, SIZE, height=SIZE, crop="centre")
        return image.write_to_memory()

    return decode


DECODERS: dict[str, Callable[[Setup], Decode]] = {
    "open_clip transform": open_clip_transform,
    "hybrid": reader,  # resized and cropped bytes: all that a reading thread does
    "hybrid, to a normalized tensor": to_input,
    "Pillow, all pixels": pillow_full,
    "Pillow draft": pillow_draft,
    "simplejpeg, all pixels": simplejpeg_full,
    "simplejpeg, DCT scale": simplejpeg_scaled,
    "torchvision.io, all pixels": torchvision_full,
    "pyvips thumbnail": pyvips_thumbnail,
}


def fidelity(setup: Setup, files: Sequence[str], gaps: Sequence[float | None]) -> dict[float | None, list[float]]:
    """Cosine of the embedding from our pixels to that from the model's own preprocessing, in fp32, for each image.

    Parameters
    ----------
    gaps : sequence of float or None
        A JPEG is decoded at so many times the length that the model takes, or more; None: at full size.
    """
    import torch

    encoder = load(replace(setup, precision="fp32", device="cpu"))
    from PIL import Image

    from hybrid.encoders.base import unit_norm
    from hybrid.images.decoders import LibjpegTurbo
    from hybrid.images.steps import OVERSAMPLING

    if encoder.min_side is None:
        raise TypeError(f"{encoder.name} has a preprocessing of its own, which takes photos at full size")
    decode, transform, size = LibjpegTurbo().decode, encoder.transform, encoder.min_side / OVERSAMPLING
    found: dict[float | None, list[float]] = {gap: [] for gap in gaps}
    for file in files:
        data = Path(file).read_bytes()
        with torch.inference_mode():
            exact = encoder.tower(transform(Image.open(file))[None])
        min_sides = [None if gap is None else round(gap * size) for gap in gaps]
        ours = encoder.encode_images([encoder.prepare(decode(data, min_side), None) for min_side in min_sides])
        for gap, value in zip(gaps, ours @ unit_norm(exact.numpy())[0], strict=True):
            found[gap].append(float(value))
    return found
