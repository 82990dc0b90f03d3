from __future__ import annotations

import csv
import math
import traceback
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hybrid.data.decode import read_and_decode
from hybrid.device import Compute
from hybrid.errors import DataError, HeadError
from hybrid.heads import train as training
from hybrid.heads.backbone import build_model, freeze, transforms
from hybrid.heads.backbone_head import train_backbone_head
from hybrid.heads.train import _loader, _Loop, _optimizer, _schedule, train, training_compute

CPU = Compute("cpu", "fp32", "test")


def start(settings, classes: int = 3):
    torch.manual_seed(settings.seed)
    model = build_model(settings, classes)
    freeze(model, settings.unfreeze)
    return model


def run(data, settings, compute=CPU, model=None, change=lambda augment, plain: (augment, plain)):
    """Train; gives the model, the best epoch, and every (row, is best, weights) as the epochs end."""
    model = model or start(settings)
    log = []

    def on_epoch(row, best):
        log.append((row, best, {name: tensor.clone() for name, tensor in model.state_dict().items()}))

    trained, best_epoch = train(model, data, change(*transforms(model, settings)), settings, compute, on_epoch)
    return trained, best_epoch, log


def script(monkeypatch, scores):
    """Let validation find these (loss, accuracy), an epoch after another."""
    rest = iter(scores)
    monkeypatch.setattr(_Loop, "validate", lambda self, loader: next(rest))


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Learning


@pytest.mark.parametrize("changes", [{}, {"balanced_sampling": False, "schedule": "none", "hidden": 0}])
def test_it_learns_and_the_log_tells_the_truth(coloured, recipe, changes):
    data, settings = coloured((12, 12, 12), (4, 5, 6)), recipe(**changes)
    model, best_epoch, log = run(data, settings)
    rows = [row for row, _, _ in log]
    assert [row.epoch for row in rows] == list(range(1, len(rows) + 1))
    best = min(rows, key=lambda row: row.val_loss)
    assert best_epoch == best.epoch
    assert best.val_accuracy > 0.9
    assert not model.training
    # Evaluate the returned model by hand.
    plain = transforms(model, settings)[1]
    with torch.no_grad():
        logits = model(torch.stack([plain(read_and_decode(record)) for record in data.val.records]))
    log_p = torch.log_softmax(logits.double(), dim=1)
    right = (log_p.argmax(1).numpy() == data.val.target).astype(float)
    assert best.val_loss == pytest.approx(-log_p[range(15), data.val.target].mean().item(), rel=1e-4)
    assert best.val_accuracy == pytest.approx(np.mean([right[data.val.target == c].mean() for c in range(3)]))
    assert all(row.images_per_second == pytest.approx(36 / row.seconds) for row in rows)


def test_frozen_stages_stay_bit_by_bit(coloured, recipe):
    settings = recipe(unfreeze="2", epochs=2, patience=9)
    model = start(settings)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    run(coloured(), settings, model=model)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    trained = ("backbone.layer3.", "backbone.layer4.", "classifier.")
    assert changed == {name for name in before if name.startswith(trained)}


def test_training_in_bf16_keeps_fp32_weights(coloured, recipe):
    settings = recipe(epochs=2, mixed_precision="bf16")
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.dtype)
            return x

    model = start(settings)
    model.classifier.append(Spy())
    _, _, log = run(coloured(), settings, training_compute(settings, CPU), model)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(math.isfinite(row.train_loss + row.val_loss) for row, _, _ in log)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_gives_the_same_weights_bit_by_bit(coloured, recipe, tmp_path, workers):
    data = coloured((5, 5, 6), (2, 2, 2))
    weights = []
    for seed in (3, 3, 4):
        folder = tmp_path / f"log-{len(weights)}"
        folder.mkdir()
        torch.rand(len(weights))  # the state of the world before must not matter
        settings = recipe(epochs=2, patience=9, seed=seed, workers=workers)
        weights.append(train_backbone_head(data, settings, CPU, folder, lambda line: None).tensors())
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


# The best epoch


@pytest.mark.parametrize(
    ("monitor", "scores", "patience", "stopped", "best"),
    [
        ("loss", [(1.0, 0), (0.9, 0), (0.95, 0), (0.91, 0), (0.9, 0), (0.5, 0)], 3, 5, 2),
        ("loss", [(1.0, 0), (0.9, 0), (0.95, 0), (0.91, 0), (0.8, 0), (0.9, 0)], 3, 6, 5),
        ("loss", [(1.0, 0.5), (1.1, 0.9)], 1, 2, 1),
        ("accuracy", [(1.0, 0.5), (2.0, 0.9), (0.1, 0.9), (0.2, 0.8)], 2, 4, 2),
        ("loss", [(math.nan, 0.9), (1.0, 0), (math.inf, 1), (math.nan, 1)], 2, 4, 2),
        ("accuracy", [(math.nan, 0.9), (1.0, 0.2), (1.0, 0.1), (1.0, 0.1)], 2, 4, 2),
    ],
)
def test_early_stopping(monkeypatch, coloured, recipe, monitor, scores, patience, stopped, best):
    script(monkeypatch, scores)
    settings = recipe(epochs=6, patience=patience, monitor=monitor)
    model, best_epoch, log = run(coloured((2, 3, 3)), settings)
    assert len(log) == stopped
    assert best_epoch == best
    assert same(model.state_dict(), log[best - 1][2])
    assert not same(model.state_dict(), log[-1][2]) or best == stopped
    assert max(row.epoch for row, is_best, _ in log if is_best) == best


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_validation_that_is_never_finite(monkeypatch, coloured, recipe, monitor):
    script(monkeypatch, [(math.nan, 0.9)] * 2)
    with pytest.raises(HeadError, match="validation loss was not finite") as caught:
        run(coloured((2, 3, 3)), recipe(epochs=2, monitor=monitor))
    assert "learning_rate" in caught.value.fix


def test_a_loss_that_is_not_finite_is_told_at_once(coloured, recipe):
    settings = recipe(epochs=3, schedule="none", learning_rate=0.004, batch_size=6)
    photos = []

    def poison(augment, plain):
        def augment_all_but_the_39th(image):
            photos.append(image)
            return augment(image) * (math.nan if len(photos) == 39 else 1)

        return augment_all_but_the_39th, plain

    # 24 photos are 4 batches of 6: the 39th stands in epoch 2, batch 3.
    with pytest.raises(HeadError, match="training loss is nan") as caught:
        run(coloured(), settings, change=poison)
    assert caught.value.got == "epoch 2, batch 3, learning rate 0.004"
    assert "mixed_precision=off" in caught.value.fix


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_became_unreadable(coloured, recipe, workers):
    data = coloured((3, 3, 3))
    broken = data.train.records[4].path
    Image.new("RGB", (9, 9)).save(broken, "PPM")
    with pytest.raises(DataError, match="no longer be read") as caught:
        run(data, recipe(workers=workers, balanced_sampling=False))
    assert caught.value.got.startswith(f"{broken}: not an image")
    assert "build-index" in caught.value.fix
    assert "Traceback" not in str(caught.value)
    # Loader processes that the garbage collector finds in a cycle take ten seconds to end.
    traceback.clear_frames(caught.tb)


# Rates


@pytest.mark.parametrize(("warmup_epochs", "epochs"), [(0, 4), (1, 4), (3, 4), (9, 4), (1, 1)])
def test_cosine_schedule_by_hand(recipe, warmup_epochs, epochs):
    settings = recipe(epochs=epochs, warmup_epochs=warmup_epochs, learning_rate=0.02, backbone_rate=0.1)
    updates, rates = 5, []
    optimizer = _optimizer(start(settings), settings)
    schedule = _schedule(optimizer, settings, updates)
    for number in range(epochs * updates + 1):
        if number:
            schedule.step_update(number)
        rates.append([group["lr"] for group in optimizer.param_groups])
    warmup = min(warmup_epochs, epochs - 1) * updates
    for number, found in enumerate(rates):
        for rate, peak in zip(found, (0.02, 0.02, 0.002, 0.002), strict=True):
            expected = peak / 2 * (1 + math.cos(math.pi * number / (epochs * updates)))
            if number < warmup:
                expected = 0.0002 + (peak - 0.0002) * number / warmup
            assert rate == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_log_holds_the_rate_after_each_epoch(coloured, recipe):
    settings = recipe(epochs=4, patience=9, learning_rate=0.01, warmup_epochs=0)
    _, _, log = run(coloured((4, 4, 4)), settings)
    expected = [0.01 / 2 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (1, 2, 3, 4)]
    assert [row.learning_rate for row, _, _ in log] == pytest.approx(expected, abs=1e-12)
    _, _, log = run(coloured((4, 4, 4), seed=5), recipe(epochs=2, schedule="none", learning_rate=0.01))
    assert [row.learning_rate for row, _, _ in log] == [0.01, 0.01]


@pytest.mark.parametrize("unfreeze", ["all", "2", "none"])
def test_weight_decay_is_for_matrices_only(recipe, unfreeze):
    settings = recipe(unfreeze=unfreeze, weight_decay=0.03, learning_rate=0.02, backbone_rate=0.25)
    model = start(settings)
    found = {
        id(parameter): (group["weight_decay"], group["lr"])
        for group in _optimizer(model, settings).param_groups
        for parameter in group["params"]
    }
    expected = {
        id(parameter): (0.03 if parameter.ndim > 1 else 0.0, 0.02 if name.startswith("classifier.") else 0.005)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert found == expected
    assert {decay for decay, _ in found.values()} == {0.03, 0.0}


# Batches and loss


def test_class_balanced_sampling(coloured, recipe):
    data = coloured((60, 12, 3), (1, 1, 1))
    loader = _loader(data.train, lambda image: torch.zeros(1), recipe(), train=True)
    drawn = Counter(int(data.train.target[index]) for _ in range(20) for index in loader.sampler)
    assert drawn.total() == 20 * 75
    assert all(0.29 < drawn[number] / drawn.total() < 0.38 for number in range(3))
    plain = _loader(data.train, lambda image: torch.zeros(1), recipe(balanced_sampling=False), train=True)
    once, again = list(plain.sampler), list(plain.sampler)
    assert sorted(once) == list(range(75))
    assert once != again


def test_validation_sees_every_photo_once_in_order(coloured, recipe):
    data = coloured()
    loader = _loader(data.val, lambda image: torch.zeros(1), recipe(), train=False)
    assert torch.cat([target for _, target in loader]).tolist() == data.val.target.tolist()


@pytest.mark.parametrize(("photos", "batches"), [(15, [8, 7]), (16, [8, 8]), (17, [8, 8]), (18, [8, 8, 2])])
def test_no_batch_of_one_photo_is_trained_on(coloured, recipe, photos, batches):
    data = coloured((photos - 8, 5, 3), (1, 1, 1))
    loader = _loader(data.train, lambda image: torch.zeros(1), recipe(), train=True)
    assert [len(target) for _, target in loader] == batches


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_smoothing_by_hand(recipe, smoothing):
    settings = recipe(label_smoothing=smoothing)
    loss = _Loop(start(settings), settings, CPU, 3).loss
    # Probabilities 1/2, 1/4, 1/4: -log p of the target is log 2, the mean over classes is (5/3) log 2.
    found = loss(torch.log(torch.tensor([[0.5, 0.25, 0.25]])), torch.tensor([0]))
    assert found.item() == pytest.approx(math.log(2) * ((1 - smoothing) + smoothing * 5 / 3), rel=1e-6)


def test_figures_of_validation_by_hand(coloured, recipe):
    """Accuracy is the mean over the classes that there are; the loss the mean over photos, not smoothed."""
    settings = recipe(label_smoothing=0.5)
    loop = _Loop(start(settings), settings, CPU, 3)
    loop.model = nn.Identity()
    p = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    target = torch.tensor([0, 0, 0, 2])
    batches = [(torch.log(p[:3]), target[:3]), (torch.log(p[3:]), target[3:])]
    loss, accuracy = loop.validate(batches)
    assert loss == pytest.approx((3 * math.log(2) + math.log(4)) / 4, rel=1e-6)
    assert accuracy == pytest.approx((2 / 3 + 1) / 2)


# Precision


@pytest.mark.parametrize(
    ("device", "own", "mixed_precision", "expected"),
    [
        ("cpu", "fp32", "auto", "fp32"),
        ("cpu", "bf16", "auto", "bf16"),
        ("cuda:1", "fp16", "auto", "fp16"),
        ("cpu", "bf16", "off", "fp32"),
        ("cuda", "fp16", "off", "fp32"),
        ("cpu", "fp32", "bf16", "bf16"),
        ("cuda", "fp16", "bf16", "bf16"),
        ("cuda", "fp32", "fp16", "fp16"),
        ("cpu", "fp32", "fp16", HeadError),
        ("mps", "fp32", "fp16", HeadError),
    ],
)
def test_mixed_precision(recipe, device, own, mixed_precision, expected):
    settings, compute = recipe(mixed_precision=mixed_precision), Compute(device, own, "as the machine has it")
    if expected is HeadError:
        with pytest.raises(HeadError, match="needs CUDA"):
            training_compute(settings, compute)
        return
    found = training_compute(settings, compute)
    assert (found.device, found.precision) == (device, expected)
    assert found.reason == (
        "as the machine has it" if mixed_precision == "auto" else f"mixed_precision={mixed_precision} asked for"
    )


# What is left behind


@pytest.mark.parametrize("epochs", [1, 4])
def test_log_and_curves(monkeypatch, coloured, recipe, tmp_path, epochs):
    said, folder = [], tmp_path / "log"
    folder.mkdir()
    script(monkeypatch, [(1.0, 0.1), (0.5, 0.7), (0.6, 0.6), (0.7, 0.5)])
    settings = recipe(epochs=epochs, patience=2, warmup_epochs=0, learning_rate=0.01)
    train_backbone_head(coloured((2, 3, 3)), settings, CPU, folder, said.append)
    assert {file.name for file in folder.iterdir()} == {"log.csv", "curves.png"}
    with (folder / "log.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == list(training.EpochLog.__dataclass_fields__)
    assert [row["epoch"] for row in rows] == [str(number + 1) for number in range(epochs)]
    assert [float(row["val_loss"]) for row in rows] == [1.0, 0.5, 0.6, 0.7][:epochs]
    assert [float(row["val_accuracy"]) for row in rows] == [0.1, 0.7, 0.6, 0.5][:epochs]
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0, abs=1e-9)
    with Image.open(folder / "curves.png") as picture:
        assert picture.format == "PNG"
        assert 600 < picture.width < 2000
        assert 250 < picture.height < 1200
        pixels = np.asarray(picture.convert("RGB"))
    assert 0.005 < (pixels < 250).any(axis=2).mean() < 0.5, "lines on white"
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    epoch_lines = [line for line in said if line.startswith("epoch")]
    assert len(epoch_lines) == epochs
    assert [line.endswith("*") for line in epoch_lines] == [True, True, False, False][:epochs]
    assert f"kept epoch {min(epochs, 2)} of {epochs}, the best by validation loss" in said
