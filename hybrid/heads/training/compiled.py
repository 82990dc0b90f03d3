"""A backbone compiled by torch.compile for the batches of a training, and for them alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Compiled:
    """Compiles a module's forward pass; batches of another size, and those that are validated, run as ever.

    A shorter batch, or one in another mode, would take a compilation of its own.

    Parameters
    ----------
    module : nn.Module
        Takes a batch of images; compiled when the first one comes.
    size : int
        Images of a batch.
    """

    def __init__(self, module: nn.Module, size: int) -> None:
        self._module = module
        plain = module.forward
        fast = torch.compile(plain, dynamic=False)

        def forward(images: torch.Tensor) -> Any:
            return fast(images) if module.training and len(images) == size else plain(images)

        # An attribute: it goes before the class's method, and is in no state_dict.
        vars(module)["forward"] = forward

    def end(self) -> None:
        """Leave the module as it was."""
        del vars(self._module)["forward"]
