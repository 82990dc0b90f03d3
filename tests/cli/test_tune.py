"""`hybrid tune` with the smallest real network."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid.cli.tune import tune
from hybrid.errors import ConfigError
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


def in_a_fresh_process(*arguments, cwd):
    code = "import typer\nfrom hybrid.cli.tune import tune\napp = typer.Typer()\napp.command()(tune)\napp()\n"
    env = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tune")
    for number, name in enumerate(("red", "grün & blue")):
        (root / "data" / name).mkdir(parents=True)
        for index in range(8):
            pixels = np.random.default_rng((number, index)).normal(60 + 120 * number, 30, (24, 24, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "data" / name / f"{index}.png")
    (root / "small.toml").write_text(RECIPE)
    return root


def rows_in(file):
    return list(csv.DictReader(file.open(encoding="utf-8")))


def test_two_trials_then_a_third_in_a_fresh_process(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    tune(["data"], recipe="small.toml", trials=2, epochs=2, out=Path("out"))
    said = capsys.readouterr()
    assert "0 of 2 trials are finished" in said.err
    assert "optimistic" in said.err
    assert "the recipe's own" in said.out
    assert said.out.splitlines()[0].split()[:3] == ["trial", "validation", "loss"]
    rows = rows_in(folder / "out" / "trials.csv")
    assert [row["state"] for row in rows] == ["finished", "finished"]
    log = rows_in(folder / "out" / "trials" / "0" / "log.csv")
    assert float(rows[0]["score"]) == pytest.approx(min(float(row["val_loss"]) for row in log), rel=1e-4)
    assert Image.open(folder / "out" / "importance.png").width > 400

    arguments = ("data", "--recipe", "small.toml", "--epochs", "2", "--out", "out", "--trials", "3")
    second = in_a_fresh_process(*arguments, cwd=folder)
    assert "2 of 3 trials are finished" in second.stderr
    assert [line.split("]")[0] for line in second.stderr.splitlines() if line.startswith("[")] == ["[3/3"]
    again = rows_in(folder / "out" / "trials.csv")
    assert again[:2] == rows

    # The best recipe trains the same: as a recipe of its own it is trial 0 of another study.
    assert load_recipe("out/best.toml").epochs == 2
    tune(["data"], recipe="out/best.toml", trials=1, out=Path("again"))
    trained = rows_in(folder / "again" / "trials.csv")[0]
    assert trained["score"] == min((row["score"] for row in again), key=float)

    with pytest.raises(ConfigError, match="another recipe") as caught:
        tune(["data"], recipe="small.toml", trials=3, epochs=2, seed=1, out=Path("out"))
    assert caught.value.got == "another seed"


def test_the_test_split_is_not_used(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "split").mkdir()
    for split in ("train", "test"):
        shutil.copytree(folder / "data", folder / "split" / split)
    for image in (folder / "split" / "test").rglob("*.png"):
        Image.open(image).rotate(90).save(image)
    tune(["split/train", "split/test"], recipe="small.toml", trials=1, epochs=1, out=Path("split/out"))
    assert "2 classes, 14 training and 2 validation photos" in capsys.readouterr().err


def test_a_linear_recipe_is_refused_before_images_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="nothing to tune"):
        tune(["no-such-folder"], recipe="clip-linear")
