"""What computes, by its maker's name."""

from __future__ import annotations

import os
import sys

from benchmarks.kit.machine import processor
from benchmarks.throughput.images import elsewhere


def device_name(device: str) -> str:
    """Name of ``cpu`` or ``cuda``; ends the program where there is no CUDA."""
    if device == "cuda":
        # To import torch takes seconds.
        found = driver_name() or elsewhere(cuda_name)
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


def driver_name() -> str | None:
    """The first GPU's name as NVIDIA's driver has it, at once; None where there is no such driver or GPU."""
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    name = ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetName(name, len(name), 0):
        return None
    return name.value.decode()
