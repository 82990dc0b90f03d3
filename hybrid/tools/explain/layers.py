"""Find the layer of any network whose output is a map over the image, for Grad-CAM to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Smallest side of a map that Grad-CAM reads, where the network has one that large: 7 is what most networks end in at
# 224 pixels. At 64 pixels they end in 2 x 2, which points nowhere (figures in docs/results/explain.md).
LEAST_SIDE = 7
MOST_PREFIX_TOKENS = 16


@dataclass(frozen=True)
class MapLayer:
    """A module whose output is a map over the image.

    Attributes
    ----------
    name : str
        Of the module in its network.
    module : nn.Module
    layout : {"channels-first", "channels-last", "tokens"}
        Of the output: (n, c, h, w), (n, h, w, c) or (n, prefix + h * w, c).
    grid : (int, int)
        h and w.
    prefix : int
        Tokens in front that belong to no place, such as the class token.
    """

    name: str
    module: nn.Module
    layout: str
    grid: tuple[int, int]
    prefix: int = 0

    def to_map(self, output: Tensor) -> Tensor:
        """Bring an output of the module to (n, c, h, w)."""
        if self.layout == "channels-first":
            return output
        if self.layout == "channels-last":
            return output.permute(0, 3, 1, 2)
        places = output[:, self.prefix :].transpose(1, 2)
        return places.reshape(*places.shape[:2], *self.grid)

    def restore(self, mapped: Tensor, output: Tensor) -> Tensor:
        """Undo `to_map`; tokens that belong to no place come from `output`."""
        if self.layout == "channels-first":
            # A copy: what follows may be an activation that works in place.
            return mapped.clone()
        if self.layout == "channels-last":
            return mapped.permute(0, 2, 3, 1).clone()
        return torch.cat([output[:, : self.prefix], mapped.flatten(2).transpose(1, 2)], dim=1)

    @contextmanager
    def tapped(self) -> Iterator[nn.Identity]:
        """Lead the output, as a map (n, c, h, w), through a module of its own that attribution methods can hook."""
        tap = nn.Identity()

        def divert(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return self.restore(tap(self.to_map(output)), output)

        handle = self.module.register_forward_hook(divert)
        try:
            yield tap
        finally:
            handle.remove()


def find_map_layer(model: nn.Module, image: Tensor, target: int, least_side: int = LEAST_SIDE) -> MapLayer | None:
    """Find the layer for Grad-CAM: the last whose output is a map of at least `least_side` places a side.

    Every module's output is recorded in one pass. Outermost modules count, containers aside: a block's result, not
    its inner steps. A layer that the target depends on in one place only is passed over: behind the last block
    of a vision transformer only the class token matters. Where no map is large enough, the largest is taken.

    Parameters
    ----------
    model : nn.Module
        (1, 3, height, width) to (1, outputs).
    image : (1, 3, height, width) float32
    target : int
        Which output.
    least_side : int

    Returns
    -------
    MapLayer or None
        None where no layer keeps places apart, as in a network of linear layers on pixels.
    """
    recorded, result = _outputs(model, image)
    names = {module: name for name, module in model.named_modules()}
    modules: list[Any] = list(model.modules())
    prefix = next((int(m.num_prefix_tokens) for m in modules if hasattr(m, "num_prefix_tokens")), None)
    height, width = image.shape[-2:]
    layers = []
    for module, output in recorded.items():
        layout = _layout(tuple(output.shape), height / width, prefix)
        if layout is not None and output.requires_grad:
            layers.append(MapLayer(names[module], module, *layout))
    outer = set(_outermost(model, {layer.module for layer in layers}))
    layers = [layer for layer in layers if layer.module in outer]
    if not layers:
        return None
    maps = [recorded[layer.module] for layer in layers]
    slopes = torch.autograd.grad(result[0, target], maps, allow_unused=True)
    felt = [
        layer
        for layer, slope in zip(layers, slopes, strict=True)
        if slope is not None and int((layer.to_map(slope).abs().sum(dim=1) > 0).sum()) > 1
    ]
    large = [layer for layer in felt if min(layer.grid) >= least_side]
    if large:
        return large[-1]
    return max(reversed(felt), key=lambda layer: min(layer.grid), default=None)


def _outputs(model: nn.Module, image: Tensor) -> tuple[dict[nn.Module, Tensor], Tensor]:
    """What each module gave, in the order of computation, and the network's result."""
    recorded: list[tuple[nn.Module, Tensor]] = []
    calls: Counter[nn.Module] = Counter()

    def record(module: nn.Module, _inputs: Any, output: Any) -> Any:
        calls[module] += 1
        if not isinstance(output, Tensor):
            return output
        recorded.append((module, output))
        # What follows gets a copy: it may work in place.
        return output.clone()

    handles = [module.register_forward_hook(record) for module in model.modules() if module is not model]
    try:
        with torch.enable_grad():
            result = model(image.detach().requires_grad_(True))
    finally:
        for handle in handles:
            handle.remove()
    # An activation shared by several blocks has no one output.
    return {module: output for module, output in recorded if calls[module] == 1}, result


def _layout(
    shape: tuple[int, ...], aspect: float, prefix: int | None
) -> tuple[str, tuple[int, int]] | tuple[str, tuple[int, int], int] | None:
    """Layout, grid and prefix tokens of an output of this shape; `aspect` is the image's height over its width."""
    if len(shape) == 4:
        for layout, height, width in (("channels-first", *shape[2:]), ("channels-last", *shape[1:3])):
            if height * width > 1 and round(width * aspect) == height:
                return layout, (height, width)
    if len(shape) == 3:
        known = () if prefix is None else (prefix,)
        for skipped in (*known, *range(MOST_PREFIX_TOKENS + 1)):
            places = shape[1] - skipped
            width = round((max(places, 0) / aspect) ** 0.5)
            height = round(width * aspect)
            if places > 1 and height * width == places:
                return "tokens", (height, width), skipped
    return None


def _outermost(module: nn.Module, maps: set[nn.Module]) -> list[nn.Module]:
    """Modules of `maps` that lie in no other one, containers aside."""
    outer: list[nn.Module] = []
    others: list[nn.Module] = []
    for child in module.children():
        inside = _outermost(child, maps) if isinstance(child, nn.Sequential | nn.ModuleList) else []
        outer += inside or ([child] if child in maps else [])
        if not inside and child not in maps:
            others.append(child)
    # Only then a wrapper, whose own output is not a map, is looked into.
    return outer or [inner for child in others for inner in _outermost(child, maps)]
