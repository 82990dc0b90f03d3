from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from hybrid.device import Compute
from hybrid.errors import HeadError, MissingExtraError
from hybrid.heads.nets.backbone import ImageClassifier, build_model
from hybrid.heads.nets.backbone_head import load_backbone_head, save_backbone_head
from hybrid.heads.nets.lora import add_adapters, merge_adapters
from hybrid.heads.training.fit import train_backbone_head

CPU = Compute("cpu", "fp32", "test")
NETS = {
    "test_vit": {"image_size": 32},
    "test_resnet": {"image_size": 32},
    "mobilenetv2_050": {"image_size": 32, "backbone_args": {"pad_type": "same"}},
}


def adapted(settings, classes: int = 3):
    """A network with adapters that do something: as they are made, they do nothing."""
    torch.manual_seed(0)
    model = build_model(settings.model, classes)
    note = add_adapters(model, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model, note


@pytest.mark.parametrize("name", NETS)
def test_which_layers_have_adapters_and_the_merged_network_is_the_adapted_one(recipe, name):
    settings = recipe(backbone=name, lora_rank=3, lora_alpha=6.0, **NETS[name])
    torch.manual_seed(0)
    plain = build_model(settings.model, 3).eval()
    original = dict(plain.backbone.named_modules())
    model, note = adapted(settings)
    layers = {n.removeprefix("base_model.model.") for n, m in model.backbone.named_modules() if hasattr(m, "lora_A")}
    convolutions = {n for n, m in original.items() if isinstance(m, nn.Conv2d)}
    grouped = {n for n in convolutions if original[n].groups > 1}
    same_padded = {n for n in convolutions if type(original[n]).__name__ == "Conv2dSame"}
    assert layers == {n for n, m in original.items() if isinstance(m, nn.Linear)} | convolutions - grouped - same_padded
    assert bool(grouped) is bool(same_padded) is (name == "mobilenetv2_050")
    assert f"adapters of rank 3 on {len(layers)} " in note
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if "lora_" in n or n.startswith("classifier.")}
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        before = model.eval()(images)
        merged = merge_adapters(model).eval()
        after = merged(images)
        without = plain(images)
    assert (before - without).abs().max() > 1e-3, "the adapters do something"
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == plain.state_dict().keys()


class Twin(nn.Module):
    """A layer whose name ends like that of another, grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.block = nn.Sequential()
        self.block.add_module("conv", nn.Conv2d(4, 4, 3, groups=4))

    def forward(self, images):
        return self.block(self.conv(images)).mean((2, 3))


def test_a_name_means_one_layer(recipe):
    model = ImageClassifier(Twin(), nn.Linear(4, 3), False)
    add_adapters(model, recipe(lora_rank=2))
    assert {n for n, m in model.backbone.named_modules() if hasattr(m, "lora_A")} == {"base_model.model.conv"}


@pytest.mark.parametrize("name", NETS)
def test_training_changes_the_backbone_by_low_rank_alone(colored, recipe, tmp_path, monkeypatch, name):
    settings = recipe(backbone=name, lora_rank=2, epochs=1, freeze_norms=True, learning_rate=0.01, **NETS[name])
    data, lines = colored((4, 4, 4), (2, 2, 2)), []
    head = train_backbone_head(data, settings, CPU, tmp_path, lines.append)
    torch.manual_seed(settings.seed)
    before = build_model(settings.model, 3).state_dict()
    after = head.tensors()
    assert after.keys() == before.keys()
    changed = {n for n in before if not torch.equal(before[n], after[n]) and "running" not in n and "num_b" not in n}
    assert any(n.startswith("backbone.") for n in changed)
    assert {n for n in before if n.startswith("classifier.") and "running" not in n and "num_b" not in n} <= changed
    for n in changed:
        if n.startswith("backbone."):
            difference = (after[n] - before[n]).double().flatten(1)
            singular = np.linalg.svd(difference.numpy(), compute_uv=False)
            # peft's adapter of a convolution is a convolution of its shape to `rank` channels.
            assert singular[2:].max(initial=0) < 1e-4 * singular[0], n
    assert any("adapters of rank 2" in line for line in lines)
    assert head.training.parameters == sum(p.numel() for p in build_model(settings.model, 3).parameters())
    # Used where peft is not installed.
    save_backbone_head(head, tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = load_backbone_head(tmp_path / "model.safetensors", data.classes, settings, CPU)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for rng in map(np.random.default_rng, range(3))]
    none = np.empty((0, 0), np.float32)
    np.testing.assert_array_equal(loaded.logits(images, none), head.logits(images, none))


def test_what_cannot_be_adapted(recipe, monkeypatch):
    def adapt(**changes):
        settings = recipe(lora_rank=2, **changes)
        add_adapters(build_model(settings.model, 3), settings)

    for change in ({"layer_decay": 0.5}, {"unfreeze_every": 1}):
        with pytest.raises(HeadError, match="own layers frozen"):
            adapt(**change)
    with pytest.raises(HeadError, match="hybrid_pixels has no linear layer"):
        adapt(backbone="hybrid_pixels")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="peft") as caught:
        adapt()
    assert "lora" in caught.value.fix
