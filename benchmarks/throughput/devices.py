"""What computes, by its maker's name."""

from __future__ import annotations

import os
import sys

from benchmarks.kit.machine import processor
from benchmarks.throughput.images import elsewhere


def device_name(device: str) -> str:
    """Name of ``cpu`` or ``cuda``; ends the program where there is no CUDA."""
    if device == "cuda":
        found = elsewhere(cuda_name)
        if found is None:
            sys.exit("error: --device cuda, but torch sees no CUDA device; use --device cpu")
        return found
    return f"CPU: {processor()}, {os.cpu_count()} cores"


def cuda_name() -> str | None:
    """The GPU's name and torch's CUDA; None where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
