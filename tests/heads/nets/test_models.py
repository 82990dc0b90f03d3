from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg
from timm.optim import param_groups_layer_decay
from torch import nn

from hybrid.config import HeadSettings
from hybrid.errors import HeadError
from hybrid.heads.nets import models
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.training.stages import freeze

NAMES = sorted(models.__all__)
# Features at the default size of image, stages of the backbone.
FACTS = {
    "hybrid_autoencoder": (128, 4),
    "hybrid_cifar_cnn": (128, 3),
    "hybrid_cifar_resnet18": (512, 5),
    "hybrid_cnn": (256 * 2 * 2, 4),
    "hybrid_pixels": (3 * 32 * 32, 0),
    "hybrid_resblock": (256, 5),
}


def settings(backbone: str, **changes) -> HeadSettings:
    plain = {"pretrained": False, "image_size": 32, "hidden": 0, "dropout": (0.0, 0.0)}
    return HeadSettings(**{"backbone": backbone, **plain, **changes})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# All of them


def test_timm_knows_the_networks_and_their_input():
    assert set(FACTS) == set(NAMES) == set(timm.list_models("hybrid_*"))
    for name, (features, _) in FACTS.items():
        model = timm.create_model(name, num_classes=0)
        config = resolve_data_config({}, model=model)
        assert config["mean"] == config["std"] == (0.5, 0.5, 0.5)
        assert config["crop_pct"] == 1.0
        assert config["input_size"] == (3, *[32 if "cifar" in name or "pixels" in name else 64] * 2)
        first = get_pretrained_cfg(name).first_conv
        assert first is None or isinstance(model.get_submodule(first), nn.Conv2d)
        # A linear layer of its own where classes are asked for.
        classifier = timm.create_model(name, num_classes=7).eval()
        assert classifier(torch.zeros(1, *config["input_size"])).shape == (1, 7)
        assert count(classifier) - count(model) == features * 7 + 7
        with pytest.raises(HeadError, match=name) as caught:
            build_model(settings(name, pretrained=True).model, classes=3)
        assert "No pretrained weights exist" in caught.value.got
        assert "--set pretrained=false" in caught.value.fix
    with pytest.raises(HeadError, match="cannot build hybrid_cnn") as caught:
        build_model(settings("hybrid_cnn", backbone_args={"depth": 3}).model, classes=3)
    assert "depth" in caught.value.got


@pytest.mark.parametrize("name", NAMES)
def test_features_at_any_size_and_the_same_ones_from_the_same_seed(name):
    for size in (16, 32, 50):
        features = 3 * size * size if name == "hybrid_pixels" else FACTS[name][0]
        images = torch.rand(2, 3, size, size)
        answers = []
        for _ in range(2):
            torch.manual_seed(3)
            model = build_model(settings(name, image_size=size).model, classes=5).eval()
            answers.append(model(images))
        assert model.backbone.head_hidden_size == features
        assert model.backbone(images).shape == (2, features)
        assert torch.isfinite(model.backbone(images)).all()
        assert answers[0].shape == (2, 5)
        assert torch.equal(*answers)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_trains(name):
    """What no gradient reaches would be dead."""
    torch.manual_seed(0)
    model = build_model(settings(name).model, classes=4)
    images = torch.randn(8, 3, 32, 32)
    features = model.backbone(images)
    loss = model.classifier(features).square().sum()
    if name == "hybrid_autoencoder":
        loss = loss + model.backbone.reconstruction_loss(features, images)
    loss.backward()
    # timm starts each residual branch at zero by its last norm: no gradient gets past that one yet.
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    branch = ("conv1", "conv2", "bn1")
    assert [n for n in still if not (n.startswith("backbone.layer") and any(part in n for part in branch))] == []


@pytest.mark.parametrize("name", NAMES)
def test_stages_can_be_frozen_and_have_an_order_for_layer_decay(name):
    model = build_model(settings(name).model, classes=3)
    stages = FACTS[name][1]
    everything = [n for n, _ in model.backbone.named_parameters()]
    assert freeze(model, "99").startswith(f"0 of {stages} ")
    assert [n for n, p in model.backbone.named_parameters() if p.requires_grad] == everything
    freeze(model, "1")
    last = {
        "hybrid_autoencoder": ("stages.3.", "code.", "decoder."),
        "hybrid_cifar_cnn": ("stages.2.",),
        "hybrid_cnn": ("stages.3.",),
        "hybrid_pixels": (),
    }.get(name, ("layer4.",))
    trained = [n for n, p in model.backbone.named_parameters() if p.requires_grad]
    assert trained == [n for n in everything if n.startswith(last)]
    assert bool(trained) is bool(stages)
    assert freeze(model, "none") == "the whole backbone is frozen"
    if stages:
        freeze(model, "all")
        groups = param_groups_layer_decay(model.backbone, weight_decay=0.0, layer_decay=0.5)
        rates = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        of = {n: rates[id(p)] for n, p in model.backbone.named_parameters()}
        assert of[everything[0]] == min(of.values()) < of[everything[-1]] == max(of.values())
        in_order = [of[n] for n in everything if n.startswith(("stages.", "layer"))]
        assert in_order == sorted(in_order)


# He's initialization


def test_he_initialization_layer_by_layer():
    for name, layer, inputs in (
        ("hybrid_cnn", "stages.3.0", 128 * 9),
        ("hybrid_cifar_cnn", "stages.2.1.conv", 128 * 9),
        ("hybrid_autoencoder", "stages.3.conv", 128 * 9),
        ("hybrid_autoencoder", "code", 256 * 4 * 4),
        # timm's ResNet counts outputs instead of inputs.
        ("hybrid_cifar_resnet18", "conv1", 64 * 9),
        ("hybrid_cifar_resnet18", "layer4.1.conv2", 512 * 9),
        ("hybrid_resblock", "layer4.0.conv1", 256 * 9),
    ):
        torch.manual_seed(0)
        weight = timm.create_model(name, num_classes=0).get_submodule(layer).weight.detach().double()
        assert weight.numel() > 1500
        expected = math.sqrt(2 / inputs)
        assert float(weight.std()) == pytest.approx(expected, rel=0.05), (name, layer)
        assert float(weight.mean()) == pytest.approx(0.0, abs=0.05 * expected + 1e-3), (name, layer)


def test_he_initialization_keeps_the_scale_through_relus():
    """The property that the method is named for: forty layers, and the signal is neither gone nor grown."""
    torch.manual_seed(0)
    net = nn.Sequential(*[layer for _ in range(40) for layer in (nn.Linear(256, 256), nn.ReLU())]).apply(
        models.he_normal
    )
    before = torch.randn(64, 256)
    with torch.no_grad():
        ratio = float(net(before).square().mean() / before.square().mean())
    assert 0.1 < ratio < 10
    assert not any(layer.bias.any() for layer in net if isinstance(layer, nn.Linear))


# One by one


def test_pixels_and_a_linear_layer_are_logistic_regression():
    model = build_model(settings("hybrid_pixels", image_size=16).model, classes=4).eval()
    assert count(model.backbone) == 0
    assert count(model) == 3 * 16 * 16 * 4 + 4
    images = torch.randn(5, 3, 16, 16)
    linear = model.classifier[-1]
    x = images.numpy().reshape(5, -1)
    expected = x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    np.testing.assert_allclose(model(images).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    # channels_last is another order in memory only.
    strided = images.to(memory_format=torch.channels_last)
    np.testing.assert_allclose(model(strided).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert timm.create_model("hybrid_pixels", img_size=(2, 5), num_classes=0).head_hidden_size == 30


def test_the_plain_cnn_against_its_layers_one_by_one():
    by_hand = sum(a * b * 9 + b for a, b in pairwise((3, 32, 64, 128, 256)))
    assert count(timm.create_model("hybrid_cnn", num_classes=0)) == by_hand == 388_416
    torch.manual_seed(1)
    model = timm.create_model("hybrid_cnn", num_classes=0, channels=[4, 8], grid=2)
    assert count(model) == (3 * 4 * 9 + 4) + (4 * 8 * 9 + 8)
    assert timm.create_model("hybrid_cnn", num_classes=0, channels=[4, 8], grid=3).head_hidden_size == 8 * 9
    images = torch.randn(2, 3, 16, 16)
    x = images
    for stage in model.stages:
        x = nn.functional.conv2d(x, stage[0].weight, stage[0].bias, padding=1).clamp(min=0)
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2).amax(dim=(3, 5))
    assert x.shape == (2, 8, 4, 4)
    x = x.reshape(2, 8, 2, 2, 2, 2).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(model(images), x)


def test_parameters_of_the_cifar_cnn():
    def stage(a: int, b: int) -> int:
        return a * b * 9 + b * b * 9 + 2 * (2 * b)  # two convolutions without bias, two norms

    model = timm.create_model("hybrid_cifar_cnn", num_classes=0)
    assert count(model) == stage(3, 32) + stage(32, 64) + stage(64, 128) == 287_456
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 128, 4, 4)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 6


def test_the_cifar_resnet_keeps_small_images_large():
    model = timm.create_model("hybrid_cifar_resnet18", num_classes=0).eval()
    images = torch.zeros(1, 3, 32, 32)
    stem = model.maxpool(model.act1(model.bn1(model.conv1(images))))
    assert stem.shape == (1, 64, 32, 32)
    assert model.forward_features(images).shape == (1, 512, 4, 4)
    assert [stage["reduction"] for stage in model.feature_info] == [1, 1, 2, 4, 8]
    # As torchvision's and timm's ResNet-18, but for the stem: 3 x 3 instead of 7 x 7.
    usual = timm.create_model("resnet18", num_classes=0)
    assert count(usual) - count(model) == 3 * 64 * (49 - 9)


def test_the_small_residual_network():
    model = timm.create_model("hybrid_resblock", num_classes=0).eval()
    assert model.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 4, 4)
    assert [stage["reduction"] for stage in model.feature_info] == [2, 2, 4, 8, 16]
    blocks = [m for m in model.modules() if type(m).__name__ == "BasicBlock"]
    assert len(blocks) == 4
    assert all(isinstance(b.bn1, nn.BatchNorm2d) for b in blocks)


# The autoencoder


def test_what_the_code_paints_has_the_size_of_the_image():
    for height, width in ((16, 16), (32, 32), (50, 50), (64, 64), (32, 48)):
        model = timm.create_model("hybrid_autoencoder", num_classes=0, img_size=(height, width)).eval()
        code = model(torch.randn(2, 3, height, width))
        assert code.shape == (2, 128)
        images = model.reconstruct(code)
        assert images.shape == (2, 3, height, width)
        painted = model.decoder(code)
        assert images.shape != painted.shape or torch.equal(images, painted), "not resized where it need not be"


def test_the_reconstruction_loss_is_the_mean_squared_error():
    torch.manual_seed(0)
    model = timm.create_model("hybrid_autoencoder", num_classes=0, img_size=16).eval()
    images = torch.randn(3, 3, 16, 16)
    code = model(images)
    painted = model.reconstruct(code).detach().numpy()
    loss = model.reconstruction_loss(code, images)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(float(np.mean((painted - images.numpy()) ** 2)), rel=1e-5)
    half = model.bfloat16().reconstruction_loss(code.detach().bfloat16(), images.bfloat16())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss.item(), rel=0.03)


def test_training_on_one_batch_paints_it_better():
    torch.manual_seed(0)
    model = timm.create_model("hybrid_autoencoder", num_classes=0, img_size=16, channels=[8, 16], code=16)
    images = torch.rand(4, 3, 1, 1).expand(4, 3, 16, 16) * 2 - 1
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model.reconstruction_loss(model(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert losses[-1] < float(images.var()), "better than one mean color"


def test_parameters_of_the_autoencoder():
    encoder = sum(a * b * 9 + 2 * b for a, b in pairwise((3, 32, 64, 128, 256)))
    code = 256 * 16 * 128 + 128
    unfold = 128 * 256 * 16 + 256 * 16
    last = 16 * 3 * 9 + 3
    for size, widths in ((64, [256, 128, 64, 32, 16]), (224, [256, 128, 64, 32, 16, 16, 16])):
        upsample = sum(a * b * 16 + 2 * b for a, b in pairwise(widths))
        model = timm.create_model("hybrid_autoencoder", num_classes=0, img_size=size)
        assert count(model) == encoder + code + unfold + upsample + last


def test_the_decoder_does_not_run_for_an_answer():
    model = build_model(settings("hybrid_autoencoder").model, classes=3).eval()
    runs = []
    model.backbone.decoder.register_forward_hook(lambda *_: runs.append(1))
    model(torch.zeros(1, 3, 32, 32))
    assert runs == []
    model.backbone.reconstruct(torch.zeros(1, 128))
    assert runs == [1]
