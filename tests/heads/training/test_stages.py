from __future__ import annotations

import re

import numpy as np
import pytest
from torch import nn

from hybrid.config import HeadSettings
from hybrid.errors import HeadError
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.training.stages import freeze, fully_unfrozen_epoch, parameter_groups, unfrozen_at


def settings(backbone: str = "test_resnet", **changes) -> HeadSettings:
    return HeadSettings(**{"backbone": backbone, "pretrained": False, "image_size": 64, "hidden": 16, **changes})


# Freezing

LAST_TWO = {
    "test_convnext": ("stages.2.", "stages.3.", "head.norm."),
    "test_resnet": ("layer3.", "layer4."),
    "test_efficientnet": ("blocks.3.", "blocks.4.", "conv_head.", "bn2."),
    "mobilenetv3_small_050": ("blocks.4.", "blocks.5.", "conv_head."),
    "test_mambaout": ("stages.2.", "stages.3.", "head."),
    "test_nfnet": ("stages.2.", "stages.3.", "final_conv."),
    "test_vit": ("blocks.4.", "blocks.5.", "norm."),
}


def trained(model) -> set[str]:
    return {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", LAST_TWO)
def test_the_last_two_stages_train_and_nothing_else(name):
    model = build_model(settings(name).model, classes=3, load_weights=False)
    said = freeze(model, "2")
    expected = {p for p, _ in model.backbone.named_parameters() if p.startswith(LAST_TWO[name])}
    assert trained(model) == expected
    assert all(any(p.startswith(stage) for p in expected) for stage in LAST_TWO[name])
    assert "backbone stages (the stem counts) frozen" in said
    assert all(parameter.requires_grad for parameter in model.classifier.parameters())


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "mobilenetv3_small_050", "test_vit"])
def test_all_none_and_more_stages_than_there_are(name):
    model = build_model(settings(name).model, classes=3, load_weights=False)
    everything = {name for name, _ in model.backbone.named_parameters()}
    assert freeze(model, "all") == "nothing is frozen"
    assert trained(model) == everything
    assert freeze(model, "none") == "the whole backbone is frozen"
    assert trained(model) == set()
    first = freeze(model, "99")
    assert trained(model) == everything
    second = freeze(model, "0")
    assert trained(model) == set()
    stages = int(re.match(r"0 of (\d+) ", first).group(1))
    assert stages > 3
    assert second.startswith(f"{stages} of {stages} ")
    assert all(parameter.requires_grad for parameter in model.classifier.parameters())


def test_a_model_whose_stages_timm_does_not_say():
    model = build_model(settings("test_resnet").model, classes=3, load_weights=False)
    model.backbone = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(HeadError, match="does not say what the stages") as caught:
        freeze(model, "2")
    assert "unfreeze=all" in caught.value.fix
    freeze(model, "all")
    assert trained(model) == {"0.weight", "0.bias"}


# One stage after another


@pytest.mark.parametrize(
    ("unfreeze", "every", "expected", "last"),
    [
        ("2", 0, ["2"] * 7, 1),
        ("all", 0, ["all"] * 7, 1),
        ("2", 1, ["0", "1", "2", "2", "2", "2", "2"], 3),
        ("2", 2, ["0", "0", "1", "1", "2", "2", "2"], 5),
        ("3", 3, ["0", "0", "0", "1", "1", "1", "2"], 10),
        ("all", 1, ["0", "1", "2", "3", "4", "all", "all"], 6),
        ("99", 1, ["0", "1", "2", "3", "4", "99", "99"], 6),
        ("0", 2, ["0"] * 7, 1),
        ("none", 2, ["none"] * 7, 1),
    ],
)
def test_how_much_trains_in_each_epoch(unfreeze, every, expected, last):
    """The smallest ResNet has five stages: the stem and four more."""
    chosen = settings(unfreeze=unfreeze, unfreeze_every=every)
    model = build_model(chosen.model, classes=3, load_weights=False)
    assert [unfrozen_at(epoch, model, chosen.model) for epoch in range(1, 8)] == expected
    assert fully_unfrozen_epoch(model, chosen.model) == last


def test_adapters_know_no_progressive_unfreezing():
    chosen = settings(unfreeze="2", unfreeze_every=1, lora_rank=2)
    model = build_model(chosen.model, classes=3, load_weights=False)
    assert unfrozen_at(1, model, chosen.model) == "2"
    assert fully_unfrozen_epoch(model, chosen.model) == 1


# What the optimizer gets


def layer_of(backbone: str, name: str) -> int:
    """Layers of the smallest nets by hand, the first is 0."""
    if backbone == "test_resnet":
        return int(name[len("layer")]) if name.startswith("layer") else 0
    blocks = re.match(r"blocks\.(\d)\.", name)
    return int(blocks.group(1)) + 1 if blocks else 6 if name.startswith("norm.") else 0


def found_groups(model, chosen):
    """Parameter name -> (rate relative to learning_rate, weight decay); each name once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in parameter_groups(model, chosen.optim):
        assert group["params"]
        for parameter in group["params"]:
            assert names[id(parameter)] not in found, "in two groups"
            found[names[id(parameter)]] = (group["lr_scale"], group["weight_decay"])
    return found


@pytest.mark.parametrize("unfreeze", ["all", "2", "none"])
@pytest.mark.parametrize("layer_decay", [None, 0.5, 1.0])
@pytest.mark.parametrize(("backbone", "last"), [("test_resnet", 4), ("test_vit", 6)])
def test_rates_of_the_layers_by_hand(backbone, last, layer_decay, unfreeze):
    chosen = settings(
        backbone, unfreeze=unfreeze, layer_decay=layer_decay, backbone_rate=0.1, weight_decay=0.03, hidden=8
    )
    model = build_model(chosen.model, classes=3, load_weights=False)
    freeze(model, unfreeze)
    expected = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0
        if name.startswith("backbone."):
            below = last - layer_of(backbone, name.removeprefix("backbone."))
            scale = 0.1 * (layer_decay or 1.0) ** below
        # Nor do the embeddings decay that timm names for a vision transformer.
        decays = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
        expected[name] = (pytest.approx(scale, rel=1e-12), 0.03 if decays else 0.0)
    found = found_groups(model, chosen)
    assert found == expected
    scales = [scale for name, (scale, _) in found.items() if name.startswith("backbone.")]
    if layer_decay == 0.5 and unfreeze != "none":
        by_layer = {
            layer_of(backbone, n.removeprefix("backbone.")): s for n, (s, _) in found.items() if "backbone" in n
        }
        in_order = [by_layer[layer] for layer in sorted(by_layer)]
        assert np.all(np.diff(in_order) > 0), "the later the faster"
        assert in_order[-1] == 0.1
    assert bool(scales) is (unfreeze != "none")


def test_a_net_without_parameters_trains_its_classifier():
    chosen = settings("hybrid_pixels", image_size=32, layer_decay=0.5)
    model = build_model(chosen.model, classes=3, load_weights=False)
    assert set(found_groups(model, chosen)) == {f"classifier.{n}" for n, _ in model.classifier.named_parameters()}
