"""`hybrid compare` as a user types it."""

from __future__ import annotations

import csv
import json

import pytest

RECIPE = """
backbone = "test_resnet"
pretrained = false
unfreeze = "all"
image_size = 24
hidden = 8
epochs = 1
batch_size = 4
workers = 0
"""


@pytest.fixture
def compare(hybrid, image_folder, tmp_path, monkeypatch):
    """Run the command on `photos` in a folder with `held` and `small.toml` beside it."""
    monkeypatch.chdir(tmp_path)
    image_folder({"cat": 10, "dog": 10}, seed=1)
    image_folder({"cat": 2, "dog": 3}, "held", seed=2)
    (tmp_path / "small.toml").write_text(RECIPE)
    return lambda *arguments, rc=0: hybrid("compare", "photos", *arguments, "--out", "o", rc=rc)


def table(folder):
    with (folder / "o" / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def results(folder):
    return json.loads((folder / "o" / "results.json").read_text())["results"]


def test_the_variations_come_out_of_one_command(compare, tmp_path):
    flags = ("--recipes", "small.toml", "--vary", "unfreeze=all,1", "--vary", "dropout=[0,0],[0.5,0.5]")
    done = compare(*flags)
    rows = table(tmp_path)
    assert len(rows) == 4
    assert rows[1]["name"] == "small unfreeze=all dropout=[0.5,0.5]"
    assert len({row["trainable"] for row in rows}) == 2
    assert len({row["parameters"] for row in rows}) == 1
    for word in ("accuracy", "GFLOPs", "multiply-add", "4 test photos"):
        assert word in done.out
    assert max(map(len, done.out.splitlines())) <= 160
    assert compare(*flags).err.count("finished before") == 4
    assert table(tmp_path) == rows


def test_flags_reach_the_settings(compare, tmp_path, image_folder):
    done = compare(
        *("--test", "held", "--recipes", "small.toml,clip-linear", "--encoder", "tiny"),
        *("--set", "label_smoothing=0.1", "--seed", "3", "--epochs", "2"),
    )
    network, linear = results(tmp_path)
    assert [network["name"], linear["name"]] == ["small", "clip-linear"]
    for row in (network, linear):
        assert row["photos"]["test"] == 5
        assert (row["settings"]["label_smoothing"], row["settings"]["seed"]) == (0.1, 3)
    assert network["epochs"] == 2
    assert linear["parameters"] > 1000 * linear["trainable"]
    assert "5 test photos" in done.out
    image_folder({"emu": 6}, seed=3)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    compare("--recipes", "small.toml", "--classes", "classes.txt", "--test-fraction", "0.4")
    (row,) = [row for row in results(tmp_path) if row["photos"]["test"] == 8]
    assert [scores["name"] for scores in row["classes"]] == ["cat", "dog"]


def test_a_failing_recipe_is_named_and_gives_exit_code_1(compare, tmp_path):
    done = compare("--recipes", "small.toml", "--vary", "backbone=test_resnet,no_such_net", rc=1)
    assert [bool(row["failed"]) for row in table(tmp_path)] == [False, True]
    assert "failed" in done.out
    assert "small backbone=no_such_net failed: timm knows no model" in done.err


def test_wrong_usage(compare, tmp_path):
    for flags, message in (
        (("nonsense",), "nonsense"),
        ((",",), "no recipe to compare"),
        (("small.toml", "--epochs", "2", "--vary", "epochs=1,2"), "a flag or --set"),
        (("small.toml", "--set", "hidden=4", "--vary", "hidden=1,2"), "a flag or --set"),
        (("clip-linear",), "reads CLIP embeddings"),
        (("small.toml", "--test-fraction", "0"), "no photos to test on"),
    ):
        assert message in compare("--recipes", *flags, rc=1).err
        assert not (tmp_path / "o").exists()
