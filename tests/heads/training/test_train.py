from __future__ import annotations

import math
import traceback

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hybrid.device import Compute
from hybrid.errors import DataError, HeadError
from hybrid.heads.training import train as training
from hybrid.heads.training.train import _Loop, training_compute
from hybrid.heads.transforms import transforms
from hybrid.images.pipeline import read_and_decode

CPU = Compute("cpu", "fp32", "test")


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Learning


@pytest.mark.parametrize("changes", [{}, {"balanced_sampling": False, "schedule": "none", "hidden": 0}])
def test_it_learns_and_the_log_tells_the_truth(colored, recipe, run, changes):
    data, settings = colored((12, 12, 12), (4, 5, 6)), recipe(**changes)
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


def test_frozen_stages_stay_bit_by_bit(colored, recipe, run, start):
    settings = recipe(unfreeze="2", epochs=2, patience=9)
    model = start(settings)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    run(colored(), settings, model=model)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    trained = ("backbone.layer3.", "backbone.layer4.", "classifier.")
    assert changed == {name for name in before if name.startswith(trained)}


def test_training_in_bf16_keeps_fp32_weights(colored, recipe, run, start):
    settings = recipe(epochs=2, mixed_precision="bf16")
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.dtype)
            return x

    model = start(settings)
    model.classifier.append(Spy())
    _, _, log = run(colored(), settings, training_compute(settings, CPU), model)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(math.isfinite(row.train_loss + row.val_loss) for row, _, _ in log)


# The best epoch


def test_early_stopping(script, colored, recipe, run):
    data = colored((2, 3, 3))
    for monitor, scores, patience, stopped, best in (
        ("loss", [(1.0, 0), (0.9, 0), (0.95, 0), (0.91, 0), (0.9, 0), (0.5, 0)], 3, 5, 2),
        ("loss", [(1.0, 0), (0.9, 0), (0.95, 0), (0.91, 0), (0.8, 0), (0.9, 0)], 3, 6, 5),
        ("loss", [(1.0, 0.5), (1.1, 0.9)], 1, 2, 1),
        ("accuracy", [(1.0, 0.5), (2.0, 0.9), (0.1, 0.9), (0.2, 0.8)], 2, 4, 2),
        ("loss", [(math.nan, 0.9), (1.0, 0), (math.inf, 1), (math.nan, 1)], 2, 4, 2),
        ("accuracy", [(math.nan, 0.9), (1.0, 0.2), (1.0, 0.1), (1.0, 0.1)], 2, 4, 2),
    ):
        script(scores)
        model, best_epoch, log = run(data, recipe(epochs=6, patience=patience, monitor=monitor))
        assert (len(log), best_epoch) == (stopped, best)
        assert same(model.state_dict(), log[best - 1][2])
        assert not same(model.state_dict(), log[-1][2]) or best == stopped
        assert max(row.epoch for row, is_best, _ in log if is_best) == best


def test_validation_that_is_never_finite(script, colored, recipe, run):
    data = colored((2, 3, 3))
    for monitor in ("loss", "accuracy"):
        script([(math.nan, 0.9)] * 2)
        with pytest.raises(HeadError, match="validation loss was not finite") as caught:
            run(data, recipe(epochs=2, monitor=monitor))
        assert "learning_rate" in caught.value.fix


@pytest.mark.parametrize(("mixup", "count", "epoch", "batch"), [(0.0, 39, 2, 3), (0.0, 1, 1, 1), (0.4, 39, 2, 3)])
def test_a_loss_that_is_not_finite_is_told_at_once(colored, recipe, run, mixup, count, epoch, batch):
    settings = recipe(epochs=3, schedule="none", learning_rate=0.004, batch_size=6, mixup=mixup)
    images = []

    def poison(augment, plain):
        def augment_all_but_one(image):
            images.append(image)
            return augment(image) * (math.nan if len(images) == count else 1)

        return augment_all_but_one, plain

    # 24 images are 4 batches of 6: the 39th stands in epoch 2, batch 3.
    with pytest.raises(HeadError, match="training loss is nan") as caught:
        run(colored(), settings, change=poison)
    assert caught.value.got == f"epoch {epoch}, batch {batch}, learning rate 0.004"
    assert "mixed_precision=off" in caught.value.fix


@pytest.mark.parametrize(("device", "every", "updates"), [("cpu", 50, 6), ("cpu:0", 50, 8), ("cpu:0", 2, 7)])
def test_losses_that_a_gpu_still_computes_are_looked_at_later(
    monkeypatch, colored, recipe, run, device, every, updates
):
    """The third batch of the second epoch is bad; ``cpu:0`` is taken for a device that must be waited for."""
    updated, update, forward = [], _Loop.update, _Loop.forward

    def poisoned(self, images, target):
        logits, loss = forward(self, images, target)
        return logits, loss * (math.inf if len(updated) == 6 else 1)

    monkeypatch.setattr(_Loop, "forward", poisoned)
    monkeypatch.setattr(_Loop, "update", lambda self, *a: updated.append(1) or update(self, *a))
    monkeypatch.setattr(training, "LOOK_EVERY", every)
    settings = recipe(epochs=3, warmup_epochs=0, learning_rate=0.004, batch_size=6)
    with pytest.raises(HeadError, match="training loss is inf") as caught:
        run(colored(), settings, Compute(device, "fp32", "test"))
    # Half of the 12 updates are done: the cosine is at its middle.
    assert caught.value.got == "epoch 2, batch 3, learning rate 0.002"
    assert len(updated) == updates


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_figures_of_an_epoch_by_hand(monkeypatch, colored, recipe, run, device):
    """The loss is the mean over images, not over batches: 24 images are three batches of 7 and one of 3."""
    seen, forward = [], _Loop.forward

    def spy(self, images, target):
        logits, loss = forward(self, images, target)
        seen.append((logits.detach().clone(), target.clone()))
        return logits, loss

    monkeypatch.setattr(_Loop, "forward", spy)
    _, _, log = run(colored(), recipe(epochs=1, batch_size=7, label_smoothing=0.0), Compute(device, "fp32", "test"))
    assert [len(target) for _, target in seen] == [7, 7, 7, 3]
    logits, target = (torch.cat(parts) for parts in zip(*seen, strict=True))
    row = log[0][0]
    assert row.train_loss == pytest.approx(nn.functional.cross_entropy(logits, target).item(), rel=1e-6)
    assert row.train_accuracy == pytest.approx((logits.argmax(1) == target).double().mean().item())
    assert row.images_per_second * row.seconds == pytest.approx(24)


def test_a_training_after_a_failed_one_is_as_if_it_were_the_first(colored, recipe, run):
    data, settings = colored((4, 4, 4)), recipe(epochs=1)
    expected = run(data, settings)[0].state_dict()
    with pytest.raises(HeadError, match="training loss is nan"):
        run(data, settings, change=lambda augment, plain: (lambda image: augment(image) * math.nan, plain))
    with pytest.raises(ZeroDivisionError):
        run(data, settings, change=lambda augment, plain: (augment, lambda image: 1 / 0))
    assert same(run(data, settings)[0].state_dict(), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_became_unreadable(colored, recipe, run, workers):
    data = colored((3, 3, 3))
    broken = data.train.records[4].path
    Image.new("RGB", (9, 9)).save(broken, "PPM")
    with pytest.raises(DataError, match="no longer be read") as caught:
        run(data, recipe(workers=workers, balanced_sampling=False))
    assert caught.value.got.startswith(f"{broken}: not an image")
    assert "build-index" in caught.value.fix
    assert "Traceback" not in str(caught.value)
    # Loader processes that the garbage collector finds in a cycle take ten seconds to end.
    traceback.clear_frames(caught.tb)


# Rates, loss and figures


def test_the_log_holds_the_rate_after_each_epoch(colored, recipe, run):
    settings = recipe(epochs=4, patience=9, learning_rate=0.01, warmup_epochs=0)
    data = colored((4, 4, 4))
    _, _, log = run(data, settings)
    expected = [0.01 / 2 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (1, 2, 3, 4)]
    assert [row.learning_rate for row, _, _ in log] == pytest.approx(expected, abs=1e-12)
    _, _, log = run(data, recipe(epochs=2, schedule="none", learning_rate=0.01))
    assert [row.learning_rate for row, _, _ in log] == [0.01, 0.01]


def test_loss_and_figures_of_validation_by_hand(recipe, loop):
    for smoothing in (0.0, 0.2):
        loss = loop(recipe(label_smoothing=smoothing)).loss
        # Probabilities 1/2, 1/4, 1/4: -log p of the target is log 2, the mean over classes is (5/3) log 2.
        value = loss(torch.log(torch.tensor([[0.5, 0.25, 0.25]])), torch.tensor([0]))
        assert value.item() == pytest.approx(math.log(2) * ((1 - smoothing) + smoothing * 5 / 3), rel=1e-6)
    # Accuracy is the mean over the classes that there are; the loss the mean over images, not smoothed.
    inside = loop(recipe(label_smoothing=0.5))
    inside.model = nn.Identity()
    p = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    target = torch.tensor([0, 0, 0, 2])
    inside.val_set = [(torch.log(p[:3]), target[:3]), (torch.log(p[3:]), target[3:])]
    loss, accuracy = inside.validate()
    assert loss == pytest.approx((3 * math.log(2) + math.log(4)) / 4, rel=1e-6)
    assert accuracy == pytest.approx((2 / 3 + 1) / 2)


# Precision


def test_mixed_precision(recipe):
    own = "as the machine has it"
    for device, precision, mixed_precision, expected in (
        ("cpu", "fp32", "auto", "fp32"),
        ("cpu", "bf16", "auto", "bf16"),
        ("cuda:1", "fp16", "auto", "fp16"),
        ("cpu", "bf16", "off", "fp32"),
        ("cuda", "fp16", "off", "fp32"),
        ("cpu", "fp32", "bf16", "bf16"),
        ("cuda", "fp16", "bf16", "bf16"),
        ("cuda", "fp32", "fp16", "fp16"),
    ):
        reason = own if mixed_precision == "auto" else f"mixed_precision={mixed_precision} asked for"
        settings = recipe(mixed_precision=mixed_precision)
        assert training_compute(settings, Compute(device, precision, own)) == Compute(device, expected, reason)
    for device in ("cpu", "mps"):
        with pytest.raises(HeadError, match="needs CUDA"):
            training_compute(recipe(mixed_precision="fp16"), Compute(device, "fp32", own))
