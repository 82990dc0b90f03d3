"""`hybrid audit` on drawn animals with the bundled encoder: both lists, every format, the picture, errors."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from hybrid.cli.audit import audit
from hybrid.cli.build_index import build_index
from hybrid.demo.animals import demo_classes
from hybrid.demo.painting import draw
from hybrid.errors import ConfigError, MissingExtraError
from hybrid.tools.audit import DUPLICATES_ABOVE


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four animals, six images each in train; one image lies in the folder of another animal, one is in val too."""
    root = tmp_path_factory.mktemp("audit")
    animals = demo_classes().seen[:16:4]
    for animal in animals:
        (root / "train" / animal.name).mkdir(parents=True)
        for i in range(6):
            picture = draw(animal, np.random.default_rng((i, *animal.name.encode())))
            picture.save(root / "train" / animal.name / f"{i}.jpg")
    names = [animal.name for animal in animals]
    wrong = root / "train" / names[1] / "wrong $x$.jpg"
    draw(animals[0], np.random.default_rng(99)).save(wrong)
    (root / "val" / names[2]).mkdir(parents=True)
    (root / "val" / names[2] / "copy.jpg").write_bytes((root / "train" / names[2] / "0.jpg").read_bytes())
    app = typer.Typer()
    app.command()(build_index)
    arguments = [str(root / "train"), str(root / "val"), "--encoder", "tiny", "--run", str(root / "run")]
    done = CliRunner().invoke(app, [*arguments, "--precision", "fp32", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    return root, names


@pytest.fixture
def call(world, monkeypatch):
    root, _ = world
    monkeypatch.chdir(root)
    app = typer.Typer()
    app.command()(audit)

    def run(*arguments):
        # Drawings of one animal look alike to the bundled encoder: a threshold that only the copy passes.
        given = [] if "--duplicates-above" in arguments else ["--duplicates-above", "0.9999"]
        return CliRunner().invoke(app, ["--run", "run", "--device", "cpu", *given, *arguments])

    return run


def test_table(call, world):
    names = world[1]
    before = {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in (world[0] / "run").rglob("*") if f.is_file()}
    done = call()
    assert done.exit_code == 0, done.output
    assert "duplicates: 2 of 26 photos in 1 group (similarity above 0.9999)" in done.stdout
    lines = done.stdout.splitlines()
    (copied,) = [line for line in lines if f"train/{names[2]}/0.jpg" in line]
    assert "copy" in copied
    assert "crosses splits" in copied
    (suspect,) = [line for line in lines if "wrong $x$.jpg" in line]
    # Long labels go on in the next line, so only the first words of label, suggested, zero-shot and nearest stand here.
    given, right = names[1].split()[0], names[0].split()[0]
    assert re.search(rf"{given} .*{right} .* 0\.\d\d\d .*{right} .*{right}", suspect), suspect
    assert "zero-shot, which names 4 of 4 labels" in done.stderr
    after = {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in (world[0] / "run").rglob("*") if f.is_file()}
    assert after == before


def test_jsonl_and_csv_say_the_same(call, world):
    names = world[1]
    done = call("--format", "jsonl")
    group, *suspects = (json.loads(line) for line in done.stdout.splitlines())
    assert (group["finding"], group["exact"], group["faults"]) == ("duplicates", True, ["crosses splits"])
    assert (suspects[0]["label"], suspects[0]["suggested"]) == (names[1], names[0])
    assert suspects[0]["path"].endswith("wrong $x$.jpg")
    assert call("--out", "sub/found.csv").exit_code == 0
    rows = list(csv.DictReader((world[0] / "sub/found.csv").open()))
    assert [row["finding"] for row in rows] == ["duplicates"] * 2 + ["label"] * len(suspects)
    assert float(rows[2]["score"]) == suspects[0]["score"]
    assert rows[2]["nearest"] == f"{names[0]} 5"


def test_sheet(call, world):
    done = call("--sheet", "new/sheet.png")
    assert done.exit_code == 0, done.output
    assert Image.open(world[0] / "new/sheet.png").format == "PNG"
    assert "most suspicious labels: new/sheet.png" in done.stderr


def test_top_cuts_the_table(call):
    done = call("--duplicates-above", "0.9", "--top", "1")
    assert done.exit_code == 0, done.output
    assert "more (--top, --out FILE.jsonl)" in done.stdout
    assert "WARNING" in done.stderr
    whole = call("--duplicates-above", "0.9", "--format", "jsonl", "--top", "1").stdout.splitlines()
    assert sum(json.loads(line)["finding"] == "duplicates" for line in whole) > 1


def test_a_large_group_is_cut_in_the_table(call):
    done = call("--duplicates-above", "0.0", "--no-labels")
    assert "duplicates: 26 of 26 photos in 1 group" in done.stdout
    assert "and 18 more" in done.stdout


def test_duplicates_alone(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    done = call("--no-labels")
    assert done.exit_code == 0, done.output
    assert "labels:" not in done.stdout
    assert isinstance(call().exception, MissingExtraError)


def test_nothing_found(call, world):
    done = call("--duplicates-above", "1", "--no-labels", "--run", "run")
    assert "in 1 group" in done.stdout
    app = typer.Typer()
    app.command()(build_index)
    folder = world[0] / "train" / world[1][3]
    made = CliRunner().invoke(app, [str(folder), "--encoder", "tiny", "--run", "plain", "--device", "cpu"])
    assert made.exit_code == 0, made.output
    done = call("--run", "plain", "--sheet", "none.png")
    assert done.exit_code == 0, done.output
    assert "duplicates: none among 6 photos (similarity above 0.9999)" in done.stdout
    assert "labels: none judged" in done.stdout
    assert "the index holds no labeled photo" in done.stderr
    assert "no picture: no label looks wrong" in done.stderr
    assert not (world[0] / "none.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sheet", "x.pdf"), "--sheet is a PNG"),
        (("--sheet", "x.png", "--no-labels"), "--sheet: only for the check of labels"),
        (("--prompts", "animals", "--templates", "simple", "--no-labels"), "--prompts, --templates: only for"),
        (("--out", "x.doc"), "format of --out is not clear"),
    ],
)
def test_wrong_flags(call, arguments, words):
    error = call(*arguments).exception
    assert isinstance(error, ConfigError)
    assert words in error.what


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan"])
def test_a_threshold_that_is_no_cosine(call, value):
    assert call("--duplicates-above", value).exit_code == 2


def test_the_default_threshold_stands_in_the_help(call):
    assert f"default: {DUPLICATES_ABOVE}" in " ".join(call("--help").stdout.split())
