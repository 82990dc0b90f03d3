"""Training on the GPU: it learns in fp16, and goes on where it was stopped."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from PIL import Image

from hybrid.config import HeadSettings
from hybrid.device import resolve
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.nets.backbone_head import load_backbone_head, save_backbone_head
from hybrid.heads.training.fit import train_backbone_head
from hybrid.images.pipeline import read_each
from hybrid.images.sources import scan

pytestmark = pytest.mark.cuda
COLORS = {"red": (200, 40, 40), "green": (40, 180, 40), "blue": (40, 40, 200)}
EPOCHS = 6
SMALL = {
    "backbone": "test_resnet",
    "pretrained": False,
    "unfreeze": "all",
    "image_size": 32,
    "hidden": 16,
    "learning_rate": 3e-3,
    "backbone_rate": 1.0,
    "epochs": EPOCHS,
    "patience": EPOCHS,
    "batch_size": 12,
    "workers": 0,
}


class StoppedError(Exception):
    """In the place of a kill."""


def write(folder, each, seed):
    rng = np.random.default_rng(seed)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = rng.normal(color, 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.jpg", quality=92)
    records = scan([folder]).records
    target = np.array([list(COLORS).index(record.label) for record in records], dtype=np.intp)
    return LabeledImages(records, tuple(r.path for r in records), target, np.zeros((len(target), 0), dtype=np.float32))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colors")
    return TrainingSet(tuple(COLORS), write(folder / "train", 16, 0), write(folder / "val", 6, 1), ())


@pytest.fixture
def train(data, tmp_path, device):
    def train(name, stop_after=None, checkpoints=None, **changes):
        """Rows of the log, the head, and what was said."""
        settings = HeadSettings(**SMALL | changes)
        rows, said, log = [], [], tmp_path / name
        log.mkdir(exist_ok=True)

        def note(row):
            rows.append(row)
            if row.epoch == stop_after:
                raise StoppedError

        head = None
        with contextlib.suppress(StoppedError):
            head = train_backbone_head(
                data, settings, resolve(device), log, said.append, checkpoints=checkpoints, on_epoch=note
            )
        return rows, head, said

    return train


def answers(head, images):
    read = read_each(images.records, lambda image, _: head.prepare(image), min_side=head.min_side)
    return head.logits([image.prepared for image in read], images.embeddings)


@pytest.mark.parametrize("precision", ["auto", "bf16", "off"])
def test_it_learns_in_each_precision(train, data, precision):
    rows, head, _ = train("whole", mixed_precision=precision)
    assert rows[-1].train_loss < 0.75 * rows[0].train_loss
    assert (answers(head, data.val).argmax(axis=1) == data.val.target).mean() > 0.9


def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped(train, tmp_path):
    whole, _, _ = train("whole")
    train("stopped", stop_after=3, checkpoints=tmp_path / "kept")
    rest, head, said = train("stopped", checkpoints=tmp_path / "kept")
    assert any("going on after epoch" in line for line in said), said
    assert head is not None
    # Sums on a GPU have no order of their own, so the same draws give losses that are only nearly the same.
    by_epoch = {row.epoch: row.train_loss for row in whole}
    for row in rest:
        assert row.train_loss == pytest.approx(by_epoch[row.epoch], rel=0.05)
        assert row.learning_rate == pytest.approx(whole[row.epoch - 1].learning_rate)
    assert rest[-1].epoch == EPOCHS


def test_the_head_answers_as_on_a_cpu(train, data, tmp_path):
    _, head, _ = train("whole")
    save_backbone_head(head, tmp_path / "head.safetensors")
    on_cpu = load_backbone_head(tmp_path / "head.safetensors", head.classes, head.settings, resolve("cpu", "fp32"))
    found, expected = answers(head, data.val), answers(on_cpu, data.val)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.1)
