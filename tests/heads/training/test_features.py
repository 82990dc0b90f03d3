"""Features of a frozen backbone: computed once, and a training on them is the training on the images."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from hybrid.device import Compute
from hybrid.errors import DataError
from hybrid.heads.nets.backbone import ImageClassifier, build_model
from hybrid.heads.nets.lora import add_adapters
from hybrid.heads.training import features, loader
from hybrid.heads.training import train as training
from hybrid.heads.training.features import FrozenFeatures, is_steady, parts_to_keep
from hybrid.heads.training.stages import freeze
from hybrid.heads.transforms import transforms
from hybrid.images.pipeline import read_and_decode

CPU = Compute("cpu", "fp32", "test")
BF16 = Compute("cpu", "bf16", "test")


@pytest.fixture
def frozen(recipe):
    """A recipe with a frozen backbone without batch norm, which stays as it is even with random weights."""
    return lambda **changes: recipe(
        **{"backbone": "test_convnext", "image_size": 32, "unfreeze": "none", "patience": 9, "epochs": 3} | changes
    )


@pytest.fixture
def decoded(monkeypatch):
    """How often each image is read."""
    counts, read = Counter(), loader.read
    monkeypatch.setattr(loader, "read", lambda record, *a, **k: counts.update([record.path]) or read(record, *a, **k))
    return counts


@pytest.fixture
def never(monkeypatch):
    """Turn the keeping of features off."""
    return lambda: monkeypatch.setattr(training, "parts_to_keep", lambda *a, **k: (False, False))


def plain_twice(augment, plain):
    return plain, plain


def figures(log):
    return [(row.train_loss, row.train_accuracy, row.val_loss, row.val_accuracy, row.learning_rate) for row, *_ in log]


def same(model, other) -> bool:
    first, second = model.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# The same training


@pytest.mark.parametrize(
    ("changes", "compute", "tolerance"),
    [
        ({"dropout": (0.4, 0.3)}, CPU, 1e-5),
        ({"ema_decay": 0.8, "clip_grad": 0.5, "hidden": 0, "balanced_sampling": False}, CPU, 1e-5),
        ({"batch_size": 23, "optimizer": "lamb", "schedule": "plateau", "monitor": "accuracy"}, CPU, 1e-5),
        ({"backbone": "test_vit"}, CPU, 1e-5),
        ({"mixed_precision": "bf16"}, BF16, 2e-2),
    ],
)
def test_training_on_features_is_training_on_images(
    colored, frozen, run, decoded, never, start, changes, compute, tolerance
):
    data, settings, lines = colored(), frozen(**changes), []
    trained, best, log = run(data, settings, compute, change=plain_twice, say=lines.append)
    assert decoded == Counter(r.path for part in (data.train, data.val) for r in part.records), "each photo once"
    assert lines == [f"the backbone is frozen: features of {n} photos are computed once" for n in (24, 12)]
    never()
    decoded.clear()
    model, expected_best, expected_log = run(data, settings, compute, change=plain_twice)
    assert decoded.total() >= 3 * (23 + 12)
    np.testing.assert_allclose(figures(log), figures(expected_log), rtol=tolerance, atol=tolerance)
    assert best == expected_best
    weights = model.state_dict()
    torch.testing.assert_close(trained.state_dict(), weights, rtol=tolerance, atol=tolerance)
    first = start(settings).state_dict()
    assert any(not torch.allclose(weights[n], first[n], atol=1e-3) for n in weights if n.startswith("classifier."))
    assert not trained.training


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.8}, {"mixup": 0.4, "cutmix": 1.0}])
def test_where_images_are_augmented_the_validation_images_pass_once(colored, frozen, run, decoded, never, changes):
    data, settings, lines = colored(), frozen(balanced_sampling=False, **changes), []
    change = plain_twice if settings.augment.mixup else None
    trained, _, log = run(data, settings, change=change, say=lines.append)
    counts = {record.path: 3 for record in data.train.records} | {record.path: 1 for record in data.val.records}
    assert decoded == counts
    assert lines == ["the backbone is frozen: features of 12 photos are computed once"]
    never()
    model, _, expected = run(data, settings, change=change)
    assert figures(log) == figures(expected), "to the last bit"
    assert same(trained, model)


def test_a_training_that_was_broken_off_ends_with_the_same_bits(colored, frozen, run, start, tmp_path):
    data, settings = colored(), frozen(ema_decay=0.8, schedule="plateau", epochs=4)
    whole, best, log = run(data, settings, change=plain_twice)

    def stop(row, best):
        if row.epoch == 2:
            raise KeyboardInterrupt

    model = start(settings)
    plain = transforms(model, settings)[1]
    with pytest.raises(KeyboardInterrupt):
        training.train(model, data, (plain, plain), settings, CPU, stop, checkpoints=tmp_path)
    resumed, again, rows = run(data, settings, change=plain_twice, checkpoints=tmp_path)
    assert again == best
    assert figures(rows) == figures(log)
    assert same(resumed, whole)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["model"].keys() == model.classifier.state_dict().keys(), "what never changes is not written"
    # An image that became unreadable.
    Image.new("RGB", (9, 9)).save(data.train.records[4].path, "PPM")
    with pytest.raises(DataError, match="no longer be read"):
        run(data, settings, change=plain_twice)


# Features


def test_batches_of_features_are_those_of_the_images(colored, frozen, start):
    data, settings = colored((6, 7, 4), (1, 1, 1)), frozen()
    model = start(settings).eval()
    plain = transforms(model, settings)[1]
    features = FrozenFeatures(model, data.train, plain, settings, CPU, lambda line: None)
    assert len(features) == 17
    with torch.no_grad():
        rows = model.backbone(torch.stack([plain(read_and_decode(record)) for record in data.train.records]))
    for train, epoch in ((True, 1), (True, 2), (False, 1)):
        kept, images = features.loader(train), loader.make_loader(data.train, plain, settings, train=train)
        assert len(kept) == len(images) == (2 if train else 3), "no batch of one photo is trained on"
        for batches in (kept, images):
            batches.sampler.set_epoch(epoch)
        order = [index for index, _ in kept.sampler]
        for number, ((values, target), (pictures, expected)) in enumerate(zip(kept, images, strict=True)):
            assert values.shape == (len(pictures), model.backbone.head_hidden_size)
            assert torch.equal(target, expected)
            own = order[number * 8 : number * 8 + len(target)]
            torch.testing.assert_close(values, rows[own], rtol=1e-4, atol=1e-5)
            assert not values.requires_grad
    convolutions = start(frozen(backbone="test_resnet"))
    for compute, dtype in ((CPU, torch.float32), (BF16, torch.bfloat16)):
        batch, _ = next(iter(FrozenFeatures(convolutions, data.val, plain, settings, compute, print).loader(False)))
        assert batch.dtype == dtype, "the precision that the classifier would get"


# When they may be kept


def steady(settings, compute=CPU) -> bool:
    torch.manual_seed(0)
    model = build_model(settings.model, 3)
    freeze(model, settings.model.unfreeze) if not settings.model.lora_rank else add_adapters(model, settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    answer = is_steady(model, settings, compute)
    assert torch.equal(torch.rand(1), expected), "dropout draws on as if nothing were"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return answer


def test_steady(frozen, start, tmp_path):
    vit = {"backbone": "test_vit"}
    for changes, expected in (
        ({}, True),
        ({"unfreeze": "0"}, True),
        ({"unfreeze": "1"}, False),
        ({"unfreeze": "all"}, False),
        ({"unfreeze": "1", "unfreeze_every": 2}, False),
        ({"unfreeze": "none", "unfreeze_every": 2}, True),
        ({"lora_rank": 2}, False),
        # Batch norms of random weights gather statistics; stochastic depth and dropout draw.
        ({"backbone": "test_resnet"}, False),
        ({"backbone_args": {"drop_path_rate": 0.3}}, False),
        (vit | {"backbone_args": {"proj_drop_rate": 1e-4}}, False),
        (vit | {"backbone_args": {"attn_drop_rate": 1e-4}}, False),
    ):
        assert steady(frozen(**changes)) is expected, changes
        assert steady(frozen(**changes), BF16) is expected, changes
    assert not is_steady(start(frozen()), frozen(unfreeze="1", unfreeze_every=1), CPU), "frozen at first only"
    weights = {"backbone": "test_resnet", "backbone_weights": str(tmp_path / "w.safetensors"), "pretrained": True}
    save_file(start(frozen(backbone="test_resnet")).backbone.state_dict(), weights["backbone_weights"])
    for freeze_norms in (True, False):
        assert steady(frozen(**weights, freeze_norms=freeze_norms)) is freeze_norms


class Odd(nn.Module):
    """A backbone that is another one in training: it draws, counts, or answers otherwise."""

    head_hidden_size = 3

    def __init__(self, oddity: str) -> None:
        super().__init__()
        self.oddity = oddity
        self.register_buffer("count", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and self.oddity == "draws":
            torch.rand(1)
        if self.training and self.oddity == "counts":
            self.count += 1
        return images.mean((2, 3)) * (2 if self.training and self.oddity == "answers otherwise" else 1)


def test_each_way_not_to_be_steady(frozen):
    for oddity in ("none", "draws", "counts", "answers otherwise"):
        model = ImageClassifier(Odd(oddity), nn.Linear(3, 2), False)
        assert is_steady(model, frozen(), CPU) is (oddity == "none")
        assert model.backbone.count == 0


def test_parts_to_keep(colored, frozen, start, monkeypatch):
    data = colored()  # 24 images train and 12 validate

    def kept(augmented=False, **changes):
        settings = frozen(**changes)
        return parts_to_keep(start(settings), data, settings, CPU, augmented=augmented)

    assert kept() == (True, True)
    assert kept(augmented=True) == kept(mixup=0.1) == kept(cutmix=0.1) == (False, True)
    assert kept(unfreeze="1") == (False, False)
    size = 4 * start(frozen()).backbone.head_hidden_size
    for images, expected in ((36, (True, True)), (35, (False, True)), (11, (False, False))):
        with monkeypatch.context() as patch:
            patch.setattr(features, "MOST_BYTES", images * size)
            assert kept() == expected
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        assert kept() == (False, False), "several processes share the images out"
    monkeypatch.setattr(features, "is_steady", lambda *a: True)  # the batch norms are not, without weights
    for weight, expected in ((0.0, True), (1.0, False)):
        assert kept(backbone="hybrid_autoencoder", image_size=64, reconstruction=weight) == (expected, expected)
