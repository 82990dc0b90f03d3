from __future__ import annotations

import pickle
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from hybrid.config import HeadSettings
from hybrid.errors import HeadError
from hybrid.heads.nets.backbone import build_classifier, build_model, weights_note


def settings(backbone: str = "test_resnet", **changes) -> HeadSettings:
    return HeadSettings(**{"backbone": backbone, "pretrained": False, "image_size": 64, "hidden": 16, **changes})


def backbone_state(name: str = "test_resnet", seed: int = 7) -> dict[str, torch.Tensor]:
    """Weights of a timm model with its own classifier, no number of them the same in two seeds."""
    torch.manual_seed(seed)
    state = timm.create_model(name, num_classes=11).state_dict()
    return {name: torch.rand_like(t) if t.is_floating_point() else t for name, t in state.items()}


# The classifier


def test_a_classifier_with_a_hidden_layer():
    classifier = build_classifier(features=20, classes=7, hidden=512, dropout=(0.1, 0.4))
    first, linear, norm, _, second, last = classifier
    assert [type(layer) for layer in classifier] == [
        nn.Dropout,
        nn.Linear,
        nn.BatchNorm1d,
        nn.ReLU,
        nn.Dropout,
        nn.Linear,
    ]
    assert (first.p, second.p) == (0.1, 0.4)
    assert (linear.in_features, linear.out_features) == (20, 512)
    assert norm.num_features == 512
    assert (last.in_features, last.out_features) == (512, 7)


def test_a_classifier_without_hidden_layer():
    classifier = build_classifier(features=20, classes=7, hidden=0, dropout=(0.1, 0.4))
    assert [type(layer) for layer in classifier] == [nn.Dropout, nn.Linear]
    assert classifier[0].p == 0.1
    assert (classifier[1].in_features, classifier[1].out_features) == (20, 7)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit", "mobilenetv3_small_050"]
)
def test_images_to_logits(name):
    model = build_model(settings(name).model, classes=5).eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    assert model.classifier[1].out_features == 16


# Batch norms


@pytest.mark.parametrize(("freeze_norms", "from_weights"), [(True, True), (False, True), (True, False)])
def test_batch_norms_of_loaded_weights_stay_as_they_are(tmp_path, freeze_norms, from_weights):
    save_file(backbone_state(), tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors") if from_weights else None
    model = build_model(settings(freeze_norms=freeze_norms, backbone_weights=weights).model, classes=3)
    before = {name: buffer.clone() for name, buffer in model.backbone.named_buffers()}
    model.train()
    model(torch.rand(4, 3, 64, 64))
    changed = any(not torch.equal(before[name], buffer) for name, buffer in model.backbone.named_buffers())
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    frozen = freeze_norms and from_weights
    assert changed is not frozen
    assert {norm.training for norm in norms} == {not frozen}
    assert model.classifier[2].training, "the classifier's own norm learns"
    assert model.backbone.layer1.training
    assert not any(module.training for module in model.eval().modules())


# Weights


@pytest.mark.parametrize("kind", ["safetensors", "pt", "state_dict", "half"])
def test_local_weights(tmp_path, kind):
    state = backbone_state()
    file = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, file)
    elif kind == "half":
        torch.save({name: tensor.half() for name, tensor in state.items()}, file)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "state_dict" else state, file)
    chosen = settings(backbone_weights=str(file), pretrained=True)
    model = build_model(chosen.model, classes=3)
    assert not {"fc.weight", "fc.bias"} & set(model.backbone.state_dict())
    for name, tensor in model.backbone.state_dict().items():
        expected = state[name].half().to(tensor.dtype) if kind == "half" else state[name]
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, expected), name
    assert str(file) in weights_note(chosen.model)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_local_weights_that_do_not_fit(tmp_path, ending):
    state = backbone_state()
    del state["layer3.0.conv1.weight"], state["conv1.0.weight"]
    state["layer4.0.bn1.bias"] = torch.zeros(5)
    file = tmp_path / f"w.{ending}"
    (save_file if ending == "safetensors" else torch.save)(state, file)
    with pytest.raises(HeadError, match="does not fit the backbone") as caught:
        build_model(settings(backbone_weights=str(file)).model, classes=3)
    missing, unfit = caught.value.got.split(";")
    assert "conv1.0.weight" in missing
    assert "layer3.0.conv1.weight" in missing
    assert "layer4.0.bn1.bias" in unfit


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("content", ["trap", "module", "list", "tensor", "noise", "empty"])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_what_is_no_plain_tensors_is_refused_and_not_executed(tmp_path, content, ending):
    file, mark = tmp_path / f"w.{ending}", tmp_path / "executed"
    if content in ("noise", "empty"):
        file.write_bytes(b"not a checkpoint" * 10 if content == "noise" else b"")
    else:
        things = {"trap": {"w": Trap(mark)}, "module": nn.Linear(2, 2), "list": [1, 2], "tensor": torch.zeros(3)}
        torch.save(things[content], file)
    with pytest.raises(HeadError, match="cannot read") as caught:
        build_model(settings(backbone_weights=str(file)).model, classes=3)
    assert "plain tensors" in caught.value.expected
    assert not mark.exists()


def test_the_trap_works(tmp_path):
    """Else the test above would show nothing."""
    pickle.loads(pickle.dumps(Trap(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_missing_local_weights(tmp_path):
    with pytest.raises(HeadError, match="do not exist") as caught:
        build_model(settings(backbone_weights=str(tmp_path / "none.pt")).model, classes=3)
    assert "none.pt" in caught.value.got


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("backbone", ["test_resnet", "convnext_tiny", "hf-hub:timm/nothing"])
def test_pretrained_weights_without_network(monkeypatch, tmp_path, offline, backbone):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    tried = []
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *args, **more: tried.append(more["pretrained"]) or create(*args, **more)
    )
    with pytest.raises(HeadError, match="not in the cache and cannot be downloaded") as caught:
        build_model(settings(backbone, pretrained=True).model, classes=3)
    assert backbone in caught.value.what
    assert all(way in caught.value.fix for way in ("--backbone-weights", "--set pretrained=false", "--head linear"))
    assert len(caught.value.got.splitlines()) == 1
    assert True not in tried, "the hub's client would try for a minute"


def test_pretrained_weights_from_the_cache(monkeypatch, tmp_path):
    state = backbone_state()
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = build_model(settings(pretrained=True).model, classes=3)
    assert torch.equal(model.backbone.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    assert "timm's pretrained weights" in weights_note(settings(pretrained=True).model)


def test_a_saved_head_needs_no_first_weights():
    build_model(settings(pretrained=True).model, classes=3, load_weights=False)
    build_model(settings(backbone_weights="/nowhere.pt").model, classes=3, load_weights=False)
    assert "random weights" in weights_note(settings().model)


# Wrong recipes


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("convnext_tinny", "convnext_tiny"),
        ("resnet5O", "resnet50"),
        ("mobilnetv2_100", "mobilenetv2_100"),
        ("xq7", "nothing"),
    ],
)
def test_an_unknown_backbone(name, near):
    with pytest.raises(HeadError, match=f"timm knows no model {name}") as caught:
        build_model(settings(name).model, classes=3)
    assert near in caught.value.got


@pytest.mark.parametrize("pretrained", [True, False])
def test_an_unknown_tag(pretrained):
    with pytest.raises(HeadError, match=r"cannot build test_resnet\.none") as caught:
        build_model(settings("test_resnet.none", pretrained=pretrained).model, classes=3)
    assert "r160_in1k" in caught.value.expected


@pytest.mark.parametrize("pretrained", [True, False])
def test_arguments_the_backbone_does_not_take(pretrained):
    with pytest.raises(HeadError, match="cannot build test_resnet") as caught:
        build_model(settings(backbone_args={"nonsense": 3}, pretrained=pretrained).model, classes=3)
    assert "nonsense" in caught.value.got


def test_arguments_reach_the_backbone():
    model = build_model(settings("test_efficientnet", backbone_args={"pad_type": "same"}).model, classes=3)
    assert type(model.backbone.conv_stem).__name__ == "Conv2dSame"


@pytest.mark.parametrize(("name", "size"), [("test_convnext", 16), ("test_vit", 100)])
def test_a_size_the_backbone_cannot_take(name, size):
    with pytest.raises(HeadError, match=f"{name} cannot take photos of {size} x {size}") as caught:
        build_model(settings(name, image_size=size).model, classes=3)
    assert "--set image_size" in caught.value.fix


@pytest.mark.parametrize("size", [32, 96, 160])
def test_a_backbone_of_a_fixed_size_is_built_for_the_recipes(size):
    model = build_model(settings("test_vit", image_size=size).model, classes=3).eval()
    assert model.backbone.pos_embed.shape[1] == (size // 16) ** 2 + 1
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 3)
