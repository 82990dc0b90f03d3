"""The decoding of a batch of JPEGs as one call, for TorchScript.

In a call from Python every tensor of a list takes Python's lock, on its way in and when it goes: beside other threads
that costs more than the decoding. So this gets the memory that the files lie in, few tensors, and gives few. Imported
with torch, where it is used.
"""

from __future__ import annotations

import torch
import torchvision.io  # noqa: F401  brings the operators

RGB = 3  # of torchvision's `ImageReadMode`


def decode_groups(
    memory: list[torch.Tensor], places: list[list[int]], groups: list[list[int]], device: torch.device
) -> list[torch.Tensor]:
    """Decode files and join those that are of one size.

    Parameters
    ----------
    memory : list of (bytes,) uint8
        On the CPU.
    places : list of (number, start, length)
        Of each file: which of `memory`, and what part of it.
    groups : list of lists of int
        Which of the files are of one size.
    device : torch.device

    Returns
    -------
    list of (n, 3, h, w) uint8
        RGB, as stored; one of each group.
    """
    encoded: list[torch.Tensor] = []
    for place in places:
        encoded.append(memory[place[0]].narrow(0, place[1], place[2]))
    if device.type == "cuda":
        images = torch.ops.image.decode_jpegs_cuda(encoded, 3, device)
    else:
        images = [torch.ops.image.decode_jpeg(one, 3, False) for one in encoded]
    joined: list[torch.Tensor] = []
    for group in groups:
        joined.append(torch.stack([images[number] for number in group]))
    return joined
