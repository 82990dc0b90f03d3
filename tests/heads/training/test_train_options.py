"""What a recipe can add to a training: progressive unfreezing, mixing, moving average, clipping, scaled gradients."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from torch import nn

from hybrid.device import Compute
from hybrid.errors import HeadError
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.training import train as training
from hybrid.heads.training.train import _Loop
from hybrid.heads.transforms import transforms
from hybrid.images.pipeline import read_and_decode

CPU = Compute("cpu", "fp32", "test")


def copy_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


# Progressive unfreezing


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_stages_join_one_by_one(monkeypatch, colored, recipe, run, ema_decay):
    settings = recipe(unfreeze="2", unfreeze_every=1, epochs=4, patience=9, ema_decay=ema_decay, hidden=0)
    trained, weights, original = [], [], _Loop.train_epoch

    def spy(self, epoch):
        free = (n for n, p in self.model.named_parameters() if p.requires_grad and n.startswith("backbone"))
        trained.append({n.split(".")[1] for n in free})
        assert all(parameter.requires_grad for parameter in self.model.classifier.parameters())
        weights.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        figures = original(self, epoch)
        weights.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        return figures

    monkeypatch.setattr(_Loop, "train_epoch", spy)
    run(colored(), settings)
    assert trained == [set(), {"layer4"}, {"layer3", "layer4"}, {"layer3", "layer4"}]
    for epoch in range(4):
        before, after = weights[2 * epoch : 2 * epoch + 2]
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        parts = tuple(f"backbone.{stage}." for stage in trained[epoch])
        assert changed == {name for name in before if name.startswith((*parts, "classifier."))}, epoch + 1


def test_patience_counts_from_the_last_unfreezing(script, colored, recipe, run):
    data = colored((2, 2, 2), (1, 1, 1))
    for every, patience, stopped in ((0, 2, 3), (2, 2, 6), (1, 3, 5), (3, 9, 8)):
        script([(1.0, 0.5)] * 8)
        settings = recipe(unfreeze="2", unfreeze_every=every, epochs=8, patience=patience)
        _, best_epoch, log = run(data, settings)
        assert (len(log), best_epoch) == (stopped, 1)


# Mixing


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_the_loss_of_mixed_images_by_hand(recipe, loop, mixup, cutmix):
    """Image i holds the number i, so that the mixed images tell their shares."""
    inside = loop(recipe(mixup=mixup, cutmix=cutmix, label_smoothing=0.3))
    target = np.array([0, 2, 1, 1])
    smoothed = np.eye(3)[target] * 0.7 + 0.1
    logits = np.random.default_rng(0).normal(size=(4, 3))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    kinds, shares = set(), []
    for seed in range(12):
        np.random.seed(seed)
        images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 24, 24).contiguous()
        mixed, found = inside.mix(images, torch.from_numpy(target))
        kinds.add("mixup" if len(mixed[0].unique()) == 1 and 0 < mixed[0].mean() < 3 else "cutmix")
        share = 1 - float(mixed[0].mean()) / 3  # image 0 is paired with image 3
        shares.append(share)
        expected = share * smoothed + (1 - share) * smoothed[::-1]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        loss = inside.loss(torch.from_numpy(logits), found.double())
        assert loss.item() == pytest.approx(-(expected * log_p).sum(1).mean(), rel=1e-5)
    assert len(set(shares)) > 6
    assert "mixup" in kinds or not mixup
    assert "cutmix" in kinds or not cutmix


def test_mixing_leaves_the_odd_image_of_a_batch_out(colored, recipe, run, loop):
    """24 images: 4 x 5 + 4 give five batches of 4; 3 x 7 + 3 give 6 + 6 + 6 + 2."""
    data = colored(seed=7)
    for batch_size, images in ((5, 20), (8, 24), (7, 18 + 2)):
        _, _, log = run(data, recipe(mixup=0.4, cutmix=1.0, batch_size=batch_size, epochs=2, patience=9))
        for row, _, _ in log:
            assert row.images_per_second * row.seconds == pytest.approx(images)
            assert 0 <= row.train_accuracy <= 1
    inside = loop(recipe())
    assert inside.mix is None, "nothing is mixed by default"
    assert isinstance(inside.loss, nn.CrossEntropyLoss)


# The moving average


def test_the_average_is_the_recursion_over_the_weights(monkeypatch, colored, recipe, run):
    recorded, original = [], _Loop.update

    def record(self, loss, epoch, number):
        original(self, loss, epoch, number)
        recorded.append(copy_of(self.model))

    monkeypatch.setattr(_Loop, "update", record)
    data = colored((6, 5, 5), (2, 3, 2))
    settings = recipe(ema_decay=0.6, learning_rate=0.01, epochs=3, patience=9, schedule="none")
    model, best_epoch, log = run(data, settings)
    # timm's warm-up: 1 - (n + 1) ** (-2/3) after n updates more than the first, at most `ema_decay`.
    averages, average = [], recorded[0]
    for count, weights in enumerate(recorded):
        decay = 0.0 if count == 0 else min(0.6, 1 - (1 + count) ** (-2 / 3))
        average = {
            name: value if value.dtype.kind == "i" else decay * average[name] + (1 - decay) * value
            for name, value in weights.items()
        }
        averages.append(average)
    assert len(averages) == 6, "two batches, three epochs"
    assert 1 - 3 ** (-2 / 3) < 0.6 < 1 - 6 ** (-2 / 3), "both the warm-up and the limit are met"
    kept = copy_of(model)
    for name, value in averages[2 * best_epoch - 1].items():
        np.testing.assert_allclose(kept[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    # What was validated is the average, not the weights.
    plain = transforms(model, settings)[1]
    pixels = torch.stack([plain(read_and_decode(record)) for record in data.val.records])
    for epoch, (row, _, weights) in enumerate(log, start=1):
        losses = []
        for state in (averages[2 * epoch - 1], {name: tensor.numpy() for name, tensor in weights.items()}):
            twin = build_model(settings.model, 3).eval()
            twin.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in state.items()})
            with torch.no_grad():
                losses.append(nn.functional.cross_entropy(twin(pixels), torch.from_numpy(data.val.target)).item())
        assert row.val_loss == pytest.approx(losses[0], rel=1e-4)
        assert abs(losses[1] - losses[0]) > 1e-3 * losses[0]


# Gradients


def test_the_gradients_norm_is_clipped(recipe, loop):
    for clip_grad in (None, 0.01):
        inside, norms = loop(recipe(clip_grad=clip_grad)), []
        step = inside.optimizer.step

        def measured(inside=inside, norms=norms, step=step):
            gradients = [p.grad.double() for p in inside.model.parameters() if p.grad is not None]
            norms.append(float(sum((gradient**2).sum() for gradient in gradients)) ** 0.5)
            step()

        inside.optimizer.step = measured
        inside.epoch(1)
        assert len(norms) == 3
        assert norms == pytest.approx([0.01] * 3, rel=1e-3) if clip_grad else min(norms) > 0.01


def test_the_gradient_scaler_is_a_part_of_the_checkpoint(recipe, loop):
    """A CPU trains in fp32 or bf16; the scaler of fp16 is put in by hand."""
    inside, later, plain = loop(recipe()), loop(recipe()), loop(recipe())
    assert plain.state([])["scaler"] is None
    inside.processes._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
    later.processes._accelerator.scaler = torch.amp.GradScaler("cpu")
    # Scalers make their scale when they are first used.
    assert inside.processes._accelerator.scaler.scale(torch.ones(1)).item() == 1024.0
    file = io.BytesIO()
    torch.save(inside.state([]), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert later.resume(state) == []
    assert later.processes.scaler_state() == inside.processes.scaler_state()
    assert later.processes._accelerator.scaler.scale(torch.ones(1)).item() == 1024.0
    assert plain.resume(state) == [], "no scaler to give it to"


def test_names_of_the_checkpoint(recipe, loop):
    """A resumed training needs all of these; a new part of the loop needs a new name here."""
    state = loop(recipe(ema_decay=0.9, schedule="plateau")).state([])
    assert set(state) == {"rows", "model", "average", "optimizer", "schedule", "scaler", "best"}
    assert state["average"].keys() == state["model"].keys()
    assert re.fullmatch(r".*num_bad_epochs.*", " ".join(state["schedule"]))


def test_a_gpu_without_memory_is_a_named_error(colored, recipe, run, monkeypatch):
    def full(self, number):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(training._Loop, "epoch", full)
    with pytest.raises(HeadError, match="memory is too small") as caught:
        run(colored(), recipe())
    assert "2 GiB" in caught.value.got
    assert "--batch-size" in caught.value.fix
