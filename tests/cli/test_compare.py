"""`hybrid compare` as a user types it."""

from __future__ import annotations

import csv
import json

import pytest
import typer
from typer.testing import CliRunner

from hybrid.cli.compare import compare
from hybrid.errors import ConfigError, DataError

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
def hybrid(image_folder, tmp_path, monkeypatch):
    """Run the command in a folder with `images/`, `held/` and `small.toml`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    image_folder({"cat": 10, "dog": 10}, seed=1)
    image_folder({"cat": 2, "dog": 3}, "held", seed=2)
    (tmp_path / "small.toml").write_text(RECIPE)
    app = typer.Typer()
    app.command()(compare)

    def run(*arguments, rc=0):
        done = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        if isinstance(done.exception, Exception):
            raise done.exception
        assert done.exit_code == rc, done.output
        return done

    return run


def table(folder):
    with (folder / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_variations_come_out_of_one_command(hybrid, tmp_path):
    vary = ["--vary", "unfreeze=all,1", "--vary", "dropout=[0,0],[0.5,0.5]"]
    done = hybrid("photos", "--recipes", "small.toml", *vary, "--out", "o")
    rows = table(tmp_path / "o")
    assert len(rows) == 4
    assert rows[1]["name"] == "small unfreeze=all dropout=[0.5,0.5]"
    assert len({row["trainable"] for row in rows}) == 2
    assert len({row["parameters"] for row in rows}) == 1
    for word in ("accuracy", "GFLOPs", "multiply-add", "4 test photos"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 160
    again = hybrid("photos", "--recipes", "small.toml", *vary, "--out", "o")
    assert again.stderr.count("finished before") == 4
    assert table(tmp_path / "o") == rows


def test_flags_reach_the_settings(hybrid, tmp_path):
    done = hybrid(
        *("photos", "--test", "held", "--recipes", "small.toml,clip-linear", "--encoder", "tiny"),
        *("--set", "label_smoothing=0.1", "--seed", "3", "--epochs", "2", "--out", "o"),
    )
    found = json.loads((tmp_path / "o" / "results.json").read_text())["results"]
    assert [row["name"] for row in found] == ["small", "clip-linear"]
    for row in found:
        assert row["photos"]["test"] == 5
        assert (row["settings"]["label_smoothing"], row["settings"]["seed"]) == (0.1, 3)
    assert found[0]["epochs"] == 2
    assert found[1]["parameters"] > 1000 * found[1]["trainable"]
    assert "5 test photos" in done.stdout


def test_a_failing_recipe_is_named_and_gives_exit_code_1(hybrid, tmp_path):
    done = hybrid("photos", "--recipes", "small.toml", "--vary", "backbone=test_resnet,no_such_net", "--out", "o", rc=1)
    assert [bool(row["failed"]) for row in table(tmp_path / "o")] == [False, True]
    assert "failed" in done.stdout
    assert "small backbone=no_such_net failed: timm knows no model" in done.stderr


def test_classes_and_test_fraction(hybrid, tmp_path, image_folder):
    image_folder({"emu": 6}, seed=3)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    hybrid("photos", "--recipes", "small.toml", "--classes", "classes.txt", "--test-fraction", "0.4", "--out", "o")
    (found,) = json.loads((tmp_path / "o" / "results.json").read_text())["results"]
    assert [row["name"] for row in found["classes"]] == ["cat", "dog"]
    assert found["photos"]["test"] == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipes", "nonsense"], "nonsense"),
        (["--recipes", ","], "no recipe to compare"),
        (["--recipes", "small.toml", "--epochs", "2", "--vary", "epochs=1,2"], "a flag or --set"),
        (["--recipes", "small.toml", "--set", "hidden=4", "--vary", "hidden=1,2"], "a flag or --set"),
        (["--recipes", "clip-linear"], "reads CLIP embeddings"),
    ],
)
def test_wrong_usage(hybrid, tmp_path, arguments, said):
    with pytest.raises(ConfigError, match=said):
        hybrid("photos", *arguments, "--out", "o")
    assert not (tmp_path / "o").exists()


def test_no_test_images(hybrid):
    with pytest.raises(DataError, match="no photos to test on"):
        hybrid("photos", "--recipes", "small.toml", "--test-fraction", "0", "--out", "o")
