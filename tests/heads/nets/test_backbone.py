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


def test_the_classifier():
    classifier = build_classifier(features=20, classes=7, hidden=512, dropout=(0.1, 0.4))
    kinds = [nn.Dropout, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]
    assert [type(layer) for layer in classifier] == kinds
    first, linear, norm, _, second, last = classifier
    assert (first.p, second.p) == (0.1, 0.4)
    assert (linear.in_features, linear.out_features) == (20, 512)
    assert norm.num_features == 512
    assert (last.in_features, last.out_features) == (512, 7)
    dropout, linear = build_classifier(features=20, classes=7, hidden=0, dropout=(0.1, 0.4))
    assert dropout.p == 0.1
    assert (linear.in_features, linear.out_features) == (20, 7)


def test_images_to_logits():
    for name in ("test_resnet", "test_convnext", "test_efficientnet", "test_vit", "mobilenetv3_small_050"):
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


def test_local_weights(tmp_path):
    state = backbone_state()
    half = {name: tensor.half() for name, tensor in state.items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    torch.save(half, tmp_path / "half.pt")
    for name in ("w.safetensors", "plain.pt", "nested.pt", "half.pt"):
        file = tmp_path / name
        chosen = settings(backbone_weights=str(file), pretrained=True).model
        own = build_model(chosen, classes=3).backbone.state_dict()
        assert not {"fc.weight", "fc.bias"} & set(own)
        for key, tensor in own.items():
            assert tensor.dtype == state[key].dtype
            assert torch.equal(tensor, half[key].to(tensor.dtype) if name == "half.pt" else state[key]), key
        assert str(file) in weights_note(chosen)


def test_local_weights_that_are_missing_or_do_not_fit(tmp_path):
    state = backbone_state()
    del state["layer3.0.conv1.weight"], state["conv1.0.weight"]
    state["layer4.0.bn1.bias"] = torch.zeros(5)
    for save, file in ((save_file, tmp_path / "w.safetensors"), (torch.save, tmp_path / "w.pt")):
        with pytest.raises(HeadError, match="do not exist") as caught:
            build_model(settings(backbone_weights=str(file)).model, classes=3)
        assert file.name in caught.value.got
        save(state, file)
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


def test_what_is_not_plain_tensors_is_refused_and_not_executed(tmp_path):
    mark = tmp_path / "executed"
    for ending in ("pt", "safetensors"):
        file = tmp_path / f"w.{ending}"
        for content in ({"w": Trap(mark)}, nn.Linear(2, 2), [1, 2], torch.zeros(3), b"not a checkpoint" * 10, b""):
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                torch.save(content, file)
            with pytest.raises(HeadError, match="cannot read") as caught:
                build_model(settings(backbone_weights=str(file)).model, classes=3)
            assert "plain tensors" in caught.value.expected
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists(), "the trap works, else this would show nothing"


def test_local_weights_are_known_by_their_content_and_damage_is_named(tmp_path):
    """Whatever the ending says."""
    state, file = backbone_state(), tmp_path / "w.pt"
    chosen = settings(backbone_weights=str(file), pretrained=True).model
    save_file(state, file)
    loaded = build_model(chosen, classes=3).backbone.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
    whole = {"safetensors": file.read_bytes()}
    torch.save(state, file)
    whole["torch"] = file.read_bytes()
    for content, got in (
        (whole["safetensors"][:100], "cut off or damaged, 100 bytes are fewer than its header says"),
        (whole["safetensors"][:-9], "SafetensorError"),
        ((2**60).to_bytes(8, "little") + b"{}", "cut off or damaged"),
        (whole["torch"][: len(whole["torch"]) // 2], "a torch checkpoint without its end"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"<!doctype html>", "an HTML page"),
        (b"", "the file is empty"),
    ):
        file.write_bytes(content)
        with pytest.raises(HeadError, match="cannot read") as caught:
            build_model(chosen, classes=3)
        assert got in caught.value.got
        assert "again" in caught.value.fix
    file.unlink()
    file.mkdir()
    with pytest.raises(HeadError, match="cannot read") as caught:
        build_model(chosen, classes=3)
    assert caught.value.got == f"{file}: not a file"
    file.rmdir()
    state["conv1.0.weight"][0, 0, 0, 0] = torch.nan
    save_file(state, file)
    with pytest.raises(HeadError, match="values that are not finite"):
        build_model(chosen, classes=3)


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("backbone", ["test_resnet", "convnext_tiny", "hf-hub:timm/nothing"])
def test_pretrained_weights_without_network(monkeypatch, tmp_path, offline, backbone):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    pretrained, create = [], timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: pretrained.append(k["pretrained"]) or create(*a, **k))
    with pytest.raises(HeadError, match="not in the cache and cannot be downloaded") as caught:
        build_model(settings(backbone, pretrained=True).model, classes=3)
    assert backbone in caught.value.what
    assert all(way in caught.value.fix for way in ("--backbone-weights", "--set pretrained=false", "--head linear"))
    assert len(caught.value.got.splitlines()) == 1
    assert True not in pretrained, "the hub's client would try for a minute"


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
    # A saved head needs no first weights.
    build_model(settings("convnext_tiny", pretrained=True).model, classes=3, load_weights=False)
    build_model(settings(backbone_weights="/nowhere.pt").model, classes=3, load_weights=False)
    assert "random weights" in weights_note(settings().model)


# Other recipes


def test_what_timm_cannot_build():
    for name, near in (
        ("convnext_tinny", "convnext_tiny"),
        ("resnet5O", "resnet50"),
        ("mobilnetv2_100", "mobilenetv2_100"),
        ("xq7", "nothing"),
    ):
        with pytest.raises(HeadError, match=f"timm knows no model {name}") as caught:
            build_model(settings(name).model, classes=3)
        assert near in caught.value.got
    for pretrained in (True, False):
        with pytest.raises(HeadError, match=r"cannot build test_resnet\.none") as caught:
            build_model(settings("test_resnet.none", pretrained=pretrained).model, classes=3)
        assert "r160_in1k" in caught.value.expected
        with pytest.raises(HeadError, match="cannot build test_resnet") as caught:
            build_model(settings(backbone_args={"nonsense": 3}, pretrained=pretrained).model, classes=3)
        assert "nonsense" in caught.value.got
    for name, size in (("test_convnext", 16), ("test_vit", 100)):
        with pytest.raises(HeadError, match=f"{name} cannot take photos of {size} x {size}") as caught:
            build_model(settings(name, image_size=size).model, classes=3)
        assert "--set image_size" in caught.value.fix


def test_arguments_and_size_reach_the_backbone():
    model = build_model(settings("test_efficientnet", backbone_args={"pad_type": "same"}).model, classes=3)
    assert type(model.backbone.conv_stem).__name__ == "Conv2dSame"
    for size in (32, 96, 160):  # a backbone of a fixed size is built for the recipe's
        model = build_model(settings("test_vit", image_size=size).model, classes=3).eval()
        assert model.backbone.pos_embed.shape[1] == (size // 16) ** 2 + 1
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 3)
