"""Build a network whose weights a checkpoint fills, without initializing them first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# What torch, timm, open_clip and transformers initialize weights with.
INITIALIZERS = frozenset(
    {
        *(torch.Tensor.normal_, torch.Tensor.uniform_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_),
        *(nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_),
    }
)


class no_init_weights(TorchFunctionMode):  # noqa: N801  a context manager, as torch.no_grad is
    """Context in which weights stay as the memory holds them, where they would be initialized at random.

    Every one must come from a checkpoint then: load it strictly. The state of torch's random numbers stays as it is.
    For ViT-B/32 the initialization takes a second and more, ten times what is left of building it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Pass on everything but random initialization."""
        kwargs = kwargs or {}
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        if func in INITIALIZERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
