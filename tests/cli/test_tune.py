"""`hybrid tune` with the smallest real network."""

from __future__ import annotations

import csv
import shutil

import pytest
from PIL import Image

from hybrid.heads.recipes import load_recipe

RECIPE = """
backbone = "test_resnet"
pretrained = false
unfreeze = "all"
image_size = 24
hidden = 16
backbone_rate = 1.0
batch_size = 8
workers = 0
mixed_precision = "off"
"""


def rows_in(file):
    return list(csv.DictReader(file.open(encoding="utf-8")))


@pytest.fixture
def tune(hybrid, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_folder({"red": 8, "grün & blue": 8}, "data")
    (tmp_path / "small.toml").write_text(RECIPE)
    return lambda *arguments, rc=0: hybrid("tune", *arguments, rc=rc)


def test_two_trials_then_a_third(tune, tmp_path):
    small = ("data", "--recipe", "small.toml", "--epochs", "2", "--out", "out")
    first = tune(*small, "--trials", "2")
    assert "0 of 2 trials are finished" in first.err
    assert "optimistic" in first.err
    assert "the recipe's own" in first.out
    assert first.out.splitlines()[0].split()[:3] == ["trial", "validation", "loss"]
    rows = rows_in(tmp_path / "out" / "trials.csv")
    assert [row["state"] for row in rows] == ["finished", "finished"]
    log = rows_in(tmp_path / "out" / "trials" / "0" / "log.csv")
    assert float(rows[0]["score"]) == pytest.approx(min(float(row["val_loss"]) for row in log), rel=1e-4)
    assert Image.open(tmp_path / "out" / "importance.png").width > 400

    second = tune(*small, "--trials", "3")
    assert "2 of 3 trials are finished" in second.err
    assert [line.split("]")[0] for line in second.err.splitlines() if line.startswith("[")] == ["[3/3"]
    again = rows_in(tmp_path / "out" / "trials.csv")
    assert again[:2] == rows

    # The best recipe trains the same: as a recipe of its own it is trial 0 of another study.
    assert load_recipe("out/best.toml").schedule.epochs == 2
    tune("data", "--recipe", "out/best.toml", "--trials", "1", "--out", "again")
    trained = rows_in(tmp_path / "again" / "trials.csv")[0]
    assert trained["score"] == min((row["score"] for row in again), key=float)

    error = tune(*small, "--trials", "3", "--seed", "1", rc=1).err
    assert "another recipe" in error
    assert "another seed" in error


def test_the_test_split_is_not_used(tune, tmp_path):
    (tmp_path / "split").mkdir()
    for split in ("train", "test"):
        shutil.copytree(tmp_path / "data", tmp_path / "split" / split)
    for image in (tmp_path / "split" / "test").rglob("*.jpg"):
        Image.open(image).rotate(90).save(image)
    done = tune(
        *("split/train", "split/test", "--recipe", "small.toml", "--trials", "1", "--epochs", "1", "--out", "split/out")
    )
    assert "2 classes, 14 training and 2 validation photos" in done.err
    # A linear recipe is refused before images are read.
    assert "nothing to tune" in tune("no-such-folder", "--recipe", "clip-linear", rc=1).err
