"""Each stage of build-index by itself, the ceilings of the whole: nvJPEG, the resize, the reading threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.throughput.ours import load
from benchmarks.throughput.processes import Setup, Work

if TYPE_CHECKING:
    import torch

BATCH, SIZE = 128, 224


def nvjpeg_alone(setup: Setup) -> Work:
    """Decode bytes that are in memory to pixels on the device, by torchvision; on a CPU, by its libjpeg-turbo."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    device = torch.device(setup.device)
    encoded: dict[str, torch.Tensor] = {}

    def work(files: Sequence[str], option: object) -> None:
        for file in files:
            if file not in encoded:
                encoded[file] = torch.frombuffer(bytearray(Path(file).read_bytes()), dtype=torch.uint8)
        for start in range(0, len(files), BATCH):
            decode_jpeg([encoded[file] for file in files[start : start + BATCH]], ImageReadMode.RGB, device)
        finish(device)

    return work


def resize_alone(setup: Setup) -> Work:
    """Bicubic antialiased resize of pixels on the device, as many as there are files."""
    import torch

    device = torch.device(setup.device)
    pixels = torch.randint(0, 256, (min(BATCH, setup.batch), 3, 480, 640), dtype=torch.uint8, device=device)

    def work(files: Sequence[str], option: object) -> None:
        for start in range(0, len(files), len(pixels)):
            some = pixels[: len(files) - start].float()
            torch.nn.functional.interpolate(some, (SIZE, SIZE), mode="bicubic", antialias=True)
        finish(device)

    return work


def threads_alone(setup: Setup) -> Work:
    """The product's pipeline to where the encoder begins: with the option ``decode`` it decodes for it too.

    As the encoder would have it: by nvJPEG on a GPU, by the threads on a CPU. Without the option it reads and hashes.
    """
    encoder = load(setup)
    from hybrid.encoders.base import decoder_of
    from hybrid.images.pipeline import read_each
    from hybrid.images.sources import scan

    def work(files: Sequence[str], option: Any) -> None:
        wanted = frozenset(files)
        found = scan([Path(files[0]).parent], labeled=False).records
        records = [record for record in found if record.path in wanted]
        prepare = encoder.prepare if option == "decode" else None
        images = read_each(
            records, prepare, min_side=encoder.min_side, batch_size=setup.batch, decoder=decoder_of(encoder)
        )
        done = sum(not image.reason for image in images)
        if done != len(files):
            raise RuntimeError(f"{done} of {len(files)} photos were read")

    return work


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
