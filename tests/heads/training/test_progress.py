"""What a training tells of its batches."""

from __future__ import annotations

from dataclasses import replace

from hybrid.device import Compute
from hybrid.heads.training.fit import train_backbone_head
from hybrid.heads.training.progress import Step, as_part

CPU = Compute("cpu", "fp32", "test")


def test_every_phase_is_told_to_its_end(colored, recipe, tmp_path):
    steps: list[Step] = []
    data = colored((6, 6, 5), (3, 3, 4))
    train_backbone_head(data, recipe(epochs=2, patience=9), CPU, tmp_path, lambda line: None, on_step=steps.append)
    told = [(step.epoch, step.phase) for step in steps]
    phases = [key for key in dict.fromkeys(told) if key[1] != "features"]
    assert phases == [(1, "training"), (1, "validating"), (2, "training"), (2, "validating")]
    for key in phases:
        images = [step.images for step, other in zip(steps, told, strict=True) if other == key]
        assert images == sorted(images)
        assert len(set(images)) == len(images)
    last = dict(zip(told, steps, strict=True))
    assert all(step.epochs == 2 for step in steps)
    assert [last[key].total for key in phases] == [17, 10, 17, 10]
    assert last[1, "validating"].images == 10
    assert last[1, "training"].images >= 16, "a last batch of one image is left out"
    losses = [step.loss for step in steps if step.phase == "training"]
    assert all(loss is not None and 0 < loss < 10 for loss in losses)


def test_trainings_inside_trainings_have_their_place():
    told: list[Step] = []
    step = Step("training", 1, 2, 3, 4)
    as_part(as_part(told.append, "gate head 2"), "fold 1 of 5")(step)
    assert told == [replace(step, part="gate head 2, fold 1 of 5")]
