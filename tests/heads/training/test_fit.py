from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import new_run
from PIL import Image, ImageColor
from safetensors.torch import save_file
from torchvision.transforms import Resize

from hybrid.device import Compute
from hybrid.errors import HeadError
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.training import fit
from hybrid.heads.training.fit import train_backbone_head
from hybrid.heads.training.train import EpochLog
from hybrid.images.pipeline import read_and_decode
from hybrid.images.records import ImageRecord
from hybrid.run.files import HeadInfo
from hybrid.run.heads import HeadDraft, load_head

CPU = Compute("cpu", "fp32", "test")


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def read_log(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open(newline="") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


# The seed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_gives_the_same_weights_bit_by_bit(colored, recipe, tmp_path, workers):
    data = colored((5, 5, 6), (2, 2, 2))
    weights = []
    for seed in (3, 3, 4):
        torch.rand(len(weights))  # the state of the world before must not matter
        settings = recipe(epochs=2, patience=9, seed=seed, workers=workers)
        weights.append(train_backbone_head(data, settings, CPU, tmp_path, lambda line: None).tensors())
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


# What is left behind


@pytest.mark.parametrize("epochs", [1, 4])
def test_log_and_curves(script, colored, recipe, tmp_path, epochs):
    lines, folder = [], tmp_path / "log"
    folder.mkdir()
    script([(1.0, 0.1), (0.5, 0.7), (0.6, 0.6), (0.7, 0.5)])
    settings = recipe(epochs=epochs, patience=2, warmup_epochs=0, learning_rate=0.01)
    train_backbone_head(colored((2, 3, 3)), settings, CPU, folder, lines.append)
    assert {file.name for file in folder.iterdir()} == {"log.csv", "curves.png"}
    rows = read_log(folder)
    assert list(rows[0]) == list(EpochLog.__dataclass_fields__)
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
    assert [row["val_loss"] for row in rows] == [1.0, 0.5, 0.6, 0.7][:epochs]
    assert [row["val_accuracy"] for row in rows] == [0.1, 0.7, 0.6, 0.5][:epochs]
    assert rows[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)
    with Image.open(folder / "curves.png") as picture:
        assert picture.format == "PNG"
        assert 600 < picture.width < 2000
        assert 250 < picture.height < 1200
        pixels = np.asarray(picture.convert("RGB"))
    assert 0.005 < (pixels < 250).any(axis=2).mean() < 0.5, "lines on white"
    epoch_lines = [line for line in lines if line.startswith("epoch")]
    assert [line.endswith("*") for line in epoch_lines] == [True, True, False, False][:epochs]
    assert f"kept epoch {min(epochs, 2)} of {epochs}, the best by validation loss" in lines


def test_it_says_what_it_does(colored, recipe, tmp_path):
    data, weights = colored((2, 2, 2), (1, 1, 1)), tmp_path / "w.safetensors"
    save_file(build_model(recipe().model, 3).backbone.state_dict(), weights)
    for unfreeze, pretrained, warned in (("2", False, True), ("all", False, False), ("2", True, False)):
        settings = recipe(epochs=1, unfreeze=unfreeze, backbone_weights=str(weights) if pretrained else None)
        lines = []
        head = train_backbone_head(data, settings, CPU, tmp_path, lines.append)
        text = "\n".join(lines)
        assert ("random weights stay frozen" in text) is warned
        assert (f"weights from {weights}" in text) is pretrained
        assert ("3 of 5 backbone stages" in text) is (unfreeze == "2")
        assert "training on cpu fp32 (test), 0 loader processes" in text
        everything = sum(t.numel() for n, t in head.tensors().items() if "running" not in n and "num_batches" not in n)
        assert f" of {everything / 1e6:.2f} M parameters train" in text
    lines = []
    settings = recipe(epochs=2, unfreeze="2", unfreeze_every=1)
    head = train_backbone_head(data, settings, CPU, tmp_path, lines.append)
    text = "\n".join(lines)
    assert "one stage more every 1 epochs, all from epoch 3" in text
    assert "note: 2 epochs end before that" in text
    assert 0 < head.training.trainable < head.training.parameters


def test_a_watcher_gets_each_row_and_can_end_the_training(colored, recipe, tmp_path):
    rows: list[EpochLog] = []

    def watch(row: EpochLog) -> None:
        rows.append(row)
        if row.epoch == 2:
            raise KeyboardInterrupt

    data = colored((2, 2, 2), (1, 1, 1))
    with pytest.raises(KeyboardInterrupt):
        train_backbone_head(data, recipe(epochs=4), CPU, tmp_path, lambda line: None, on_epoch=watch)
    assert [row.epoch for row in rows] == [1, 2]
    assert len(read_log(tmp_path)) == 2, "the row is written before it is watched"


# Folds


def test_folds_train_an_ensemble(colored, recipe, tmp_path, monkeypatch):
    data, lines, seeds = colored((6, 6, 6), (3, 3, 3)), [], []
    train_one = fit._train_one
    monkeypatch.setattr(fit, "_train_one", lambda part, own, *a: seeds.append(own.seed) or train_one(part, own, *a))
    head = train_backbone_head(data, recipe(folds=3, epochs=2, seed=5), CPU, tmp_path, lines.append)
    assert seeds == [5, 6, 7]
    folds = [tmp_path / f"fold_{number}" for number in (1, 2, 3)]
    assert sorted(tmp_path.glob("fold*")) == folds
    assert all({p.name for p in fold.iterdir()} == {"log.csv", "curves.png"} for fold in folds)
    assert [line for line in lines if line.startswith("fold")] == [
        f"fold {number} of 3: 12 training and 6 validation photos" for number in (1, 2, 3)
    ]
    best = [min(read_log(fold), key=lambda row: row["val_loss"])["val_accuracy"] for fold in folds]
    assert f"accuracy {np.mean(best):.3f} +- {np.std(best, ddof=1):.3f}" in lines[-1]
    assert head.training.val_accuracy == pytest.approx(np.mean(best), abs=1e-5)
    # The head's members are the folds' networks, in order.
    assert {name.split(".")[1] for name in head.tensors()} == {"0", "1", "2"}
    assert not torch.equal(*(head.tensors()[f"members.{n}.classifier.1.weight"] for n in (0, 1)))


# Odd classes


ODD = ('a "quoted" name', "🦓 zebra", "a/b\\c", ".hidden", "=cmd|' /C calc'!A0", "  ", "ß\u0301,\n;")


@pytest.fixture
def hues(tmp_path) -> Callable[..., TrainingSet]:
    """Images of one hue a class: `hues((5, 5), (2, 2))`."""

    def make(train: tuple[int, ...], val: tuple[int, ...]) -> TrainingSet:
        def part(counts, name):
            records, target = [], []
            for number, count in enumerate(counts):
                for index in range(count):
                    path = tmp_path / f"{name} {number} {index}.png"
                    hue = f"hsv({360 * number / len(counts) + index % 5}, 90%, 80%)"
                    Image.new("RGB", (24, 24), ImageColor.getrgb(hue)).save(path)
                    records.append(ImageRecord(str(path), str(tmp_path), None, None, path.stat().st_size, 1))
                    target.append(number)
            hashes = tuple(record.path for record in records)
            return LabeledImages(tuple(records), hashes, np.array(target, np.intp), np.zeros((len(target), 4), "f4"))

        return TrainingSet(tuple(str(n) for n in range(len(train))), part(train, "train"), part(val, "val"), ())

    return make


def scores(head, data) -> np.ndarray:
    pixels = [head.prepare(read_and_decode(record)) for record in data.val.records]
    return head.logits(pixels, np.empty((0, 0), np.float32))


STILL = {"rotation": 0.0, "colour_jitter": 0.0, "crop_scale": 1.0, "backbone": "hybrid_pixels", "hidden": 0}


def test_labels_with_odd_characters(hues, recipe, tmp_path):
    count = len(ODD)
    data = replace(hues((6,) * count, (2,) * count), classes=ODD)
    settings = recipe(**STILL, epochs=12, learning_rate=0.02, label_smoothing=0.0, patience=12)
    layout = new_run(tmp_path / "run")
    with HeadDraft(layout) as draft:
        head = train_backbone_head(data, settings, CPU, draft.folder, lambda line: None, checkpoints=tmp_path / "kept")
        info = HeadInfo(
            settings=settings, classes=ODD, encoder_identity=None, train_photos=42, val_photos=14, trained_on=()
        )
        draft.save(head, info)
        draft.publish()
    loaded, info = load_head(layout, CPU)
    assert loaded.classes == info.classes == ODD
    expected = scores(head, data)
    np.testing.assert_array_equal(scores(loaded, data), expected)
    assert expected.argmax(1).tolist() == data.val.target.tolist()


@pytest.mark.parametrize(
    ("train", "val"), [((100, 1), (4, 4)), ((6, 6), (3, 3)), ((1, 1), (1, 1)), ((1, 20, 1), (0, 3, 3))]
)
def test_few_images_few_classes(hues, recipe, tmp_path, train, val):
    """A hundred to one, one image of a class, two classes, and a class that validation has no image of."""
    data = hues(train, val)
    settings = recipe(**STILL, epochs=6, learning_rate=0.02, patience=6)
    head = train_backbone_head(data, settings, CPU, tmp_path, lambda line: None)
    logits = scores(head, data)
    assert logits.shape == (sum(val), len(train))
    assert (logits.argmax(1) == data.val.target).mean() == head.training.val_accuracy == 1.0


NOTHING = {"rotation": 0.0, "colour_jitter": 0.0, "crop_scale": 1.0, "flip": 0.0}


def test_without_augmentation_images_are_trained_on_as_they_are_answered(monkeypatch, colored, recipe, tmp_path):
    class Seen(Exception):  # noqa: N818
        pass

    def spy(model, data, transforms, *rest, **more):
        raise Seen(*transforms)

    monkeypatch.setattr(fit, "train", spy)
    data = colored()
    for changes in (
        {},
        {"mixup": 0.4},
        {"rotation": 1.0},
        {"colour_jitter": 0.1},
        {"crop_scale": 0.99},
        {"flip": 0.5},
        {"random_erasing": 0.1},
        {"auto_augment": "rand-m9-mstd0.5"},
        {"regions": "tiles"},
    ):
        with pytest.raises(Seen) as caught:
            train_backbone_head(data, recipe(**NOTHING | changes), CPU, tmp_path, lambda line: None)
        first, second = caught.value.args
        assert (first is second) is (changes in ({}, {"mixup": 0.4})), changes
        assert isinstance(second.transforms[0], Resize), "the plain one, which crops nothing at random"


def test_a_frozen_backbone_sees_each_image_once(colored, recipe, tmp_path):
    data, frozen = colored(), {"backbone": "test_convnext", "image_size": 32, "unfreeze": "none"}
    for changes, counts, note in (
        (NOTHING, [24, 12], False),
        ({}, [12], True),
        ({"unfreeze": "all"}, [], False),
        ({"lora_rank": 2}, [], False),
    ):
        lines = []
        train_backbone_head(data, recipe(**frozen | {"epochs": 2} | changes), CPU, tmp_path, lines.append)
        assert [line for line in lines if "computed once" in line] == [
            f"the backbone is frozen: features of {count} photos are computed once" for count in counts
        ]
        assert any(line.startswith("note: without augmentation") for line in lines) is note


def test_a_recipe_that_cannot_be_trained_writes_no_log(colored, recipe, tmp_path):
    with pytest.raises(HeadError, match="cannot make the optimizer"):
        train_backbone_head(colored(), recipe(optimizer="nonsense"), CPU, tmp_path, lambda line: None)
    assert not (tmp_path / "log.csv").exists()
