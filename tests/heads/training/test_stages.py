from __future__ import annotations

import re

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
def test_how_much_of_a_backbone_trains(name):
    model = build_model(settings(name).model, classes=3, load_weights=False)
    everything = {name for name, _ in model.backbone.named_parameters()}
    note = freeze(model, "2")
    expected = {p for p in everything if p.startswith(LAST_TWO[name])}
    assert trained(model) == expected
    assert all(any(p.startswith(stage) for p in expected) for stage in LAST_TWO[name])
    stages = int(re.fullmatch(r"\d+ of (\d+) backbone stages \(the stem counts\) frozen", note).group(1))
    assert stages > 3
    for unfreeze, free, note in (
        ("all", everything, "nothing is frozen"),
        ("none", set(), "the whole backbone is frozen"),
        ("99", everything, f"0 of {stages} "),
        ("0", set(), f"{stages} of {stages} "),
    ):
        assert freeze(model, unfreeze).startswith(note)
        assert trained(model) == free
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


def test_how_much_trains_in_each_epoch():
    """The smallest ResNet has five stages: the stem and four more."""
    for unfreeze, every, lora_rank, expected, last in (
        ("2", 0, 0, "2 2 2 2 2 2 2", 1),
        ("all", 0, 0, "all all all all all all all", 1),
        ("2", 1, 0, "0 1 2 2 2 2 2", 3),
        ("2", 2, 0, "0 0 1 1 2 2 2", 5),
        ("3", 3, 0, "0 0 0 1 1 1 2", 10),
        ("all", 1, 0, "0 1 2 3 4 all all", 6),
        ("99", 1, 0, "0 1 2 3 4 99 99", 6),
        ("0", 2, 0, "0 0 0 0 0 0 0", 1),
        ("none", 2, 0, "none none none none none none none", 1),
        ("2", 1, 2, "2 2 2 2 2 2 2", 1),  # adapters know no progressive unfreezing
    ):
        chosen = settings(unfreeze=unfreeze, unfreeze_every=every, lora_rank=lora_rank).model
        model = build_model(chosen, classes=3, load_weights=False)
        assert [unfrozen_at(epoch, model, chosen) for epoch in range(1, 8)] == expected.split()
        assert fully_unfrozen_epoch(model, chosen) == last


# What the optimizer gets


def layer_of(backbone: str, name: str) -> int:
    """Layers of the smallest nets by hand, the first is 0."""
    if backbone == "test_resnet":
        return int(name[len("layer")]) if name.startswith("layer") else 0
    blocks = re.match(r"blocks\.(\d)\.", name)
    return int(blocks.group(1)) + 1 if blocks else 6 if name.startswith("norm.") else 0


def groups_of(model, chosen):
    """Parameter name -> (rate relative to learning_rate, weight decay); each name once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    values = {}
    for group in parameter_groups(model, chosen.optim):
        assert group["params"]
        for parameter in group["params"]:
            assert names[id(parameter)] not in values, "in two groups"
            values[names[id(parameter)]] = (group["lr_scale"], group["weight_decay"])
    return values


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
    assert groups_of(model, chosen) == expected
    assert any(name.startswith("backbone.") for name in expected) is (unfreeze != "none")


def test_a_net_without_parameters_trains_its_classifier():
    chosen = settings("hybrid_pixels", image_size=32, layer_decay=0.5)
    model = build_model(chosen.model, classes=3, load_weights=False)
    assert set(groups_of(model, chosen)) == {f"classifier.{n}" for n, _ in model.classifier.named_parameters()}
