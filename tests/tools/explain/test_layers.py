from __future__ import annotations

import timm
import torch
from torch import nn

from hybrid.tools.explain.layers import find_map_layer

# Backbone, pixels, and the layer that is the last one with a map by the network's own description.
CASES = [
    ("test_convnext", 64, "stages.1", "channels-first", 8, 0),
    ("test_resnet", 112, "layer3.0", "channels-first", 7, 0),
    ("test_efficientnet", 112, "blocks.3.0", "channels-first", 7, 0),
    ("mobilenetv2_035", 224, "bn2", "channels-first", 7, 0),
    ("mobilenetv3_small_050", 224, "blocks.5.0", "channels-first", 7, 0),
    ("test_vit", 160, "blocks.4", "tokens", 10, 1),
    ("test_vit3", 160, "norm", "tokens", 10, 1),
    ("test_mambaout", 160, "stages.2", "channels-last", 10, 0),
]


class Classifier(nn.Module):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, nn.Linear(features, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.backbone(images))


def network(name: str, size: int, **arguments) -> Classifier:
    torch.manual_seed(0)
    fixed = {"img_size": size} if "vit" in name or "swin" in name else {}
    backbone = timm.create_model(name, num_classes=0, **fixed, **arguments)
    return Classifier(backbone, backbone.head_hidden_size).eval().requires_grad_(False)


def image(size: int, width: int | None = None) -> torch.Tensor:
    return torch.randn(1, 3, size, width or size, generator=torch.Generator().manual_seed(1))


def test_the_last_map():
    for name, size, last, layout, side, prefix in CASES:
        layer = find_map_layer(network(name, size), image(size), 1)
        assert (layer.name, layer.layout) == (f"backbone.{last}", layout)
        assert (layer.grid, layer.prefix) == ((side, side), prefix)
    swin = network("swin_tiny_patch4_window7_224", 224, embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    layer = find_map_layer(swin, image(224), 0)
    assert (layer.name, layer.layout, layer.grid) == ("backbone.norm", "channels-last", (7, 7))
    mixer = Classifier(timm.models.MlpMixer(patch_size=32, num_blocks=2, embed_dim=16, num_classes=0), 16).eval()
    layer = find_map_layer(mixer, image(224), 0)
    assert (layer.name, layer.layout, layer.grid) == ("backbone.norm", "tokens", (7, 7))


def test_networks_without_large_maps_and_wide_images():
    layer = find_map_layer(network("test_resnet", 64), image(64), 1, least_side=100)
    assert layer.grid[0] == 32, "the largest"
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8), nn.ReLU(), nn.Linear(8, 2))
    assert find_map_layer(linear, image(8), 0) is None
    wide = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layer = find_map_layer(wide, image(32, 64), 0)
    assert (layer.name, layer.grid) == ("1", (8, 16))


def test_tapping_changes_nothing_and_reads_the_map():
    for name in ("test_mambaout", "test_resnet", "test_vit"):
        model, pixels = network(name, 160), image(160)
        layer = find_map_layer(model, pixels, 0)
        before, read = model(pixels), []
        with layer.tapped() as tap:
            tap.register_forward_hook(lambda _m, _i, output, read=read: read.append(output))
            torch.testing.assert_close(model(pixels), before)
        assert read[0].shape[-2:] == layer.grid
        assert model(pixels).equal(before)
        assert not any(module._forward_hooks for module in model.modules()), "no hook is left behind"
    # Tokens are put in rows.
    tokens = torch.arange(101.0).reshape(1, 101, 1).expand(1, 101, 5)
    mapped = layer.to_map(tokens)
    assert mapped.shape == (1, 5, 10, 10)
    assert mapped[0, 0, 0].tolist() == list(range(1, 11))
    assert layer.restore(mapped, tokens).equal(tokens)
