"""`hybrid explain`, zero-shot alone, in this process: files written, table shown, errors named."""

from __future__ import annotations

import json

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from hybrid.cli.explain import Method, explain
from hybrid.errors import ConfigError
from hybrid.tools.explain.attribution import METHODS


@pytest.fixture
def run(tmp_path, clip_folder, image, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image(3).save("cat_1.jpg")
    (tmp_path / "names.txt").write_text("cat\nsea-horse $x$\n")
    app = typer.Typer()
    app.command()(explain)

    def call(*arguments):
        given = ["--prompts", "names.txt", "--encoder", str(clip_folder), "--precision", "fp32", *arguments]
        return CliRunner().invoke(app, given)

    return call


def test_writes_a_picture_and_its_numbers(run, tmp_path):
    done = run("cat_1.jpg")
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "cat_1.explanation.png").format == "PNG"
    said = json.loads((tmp_path / "cat_1.explanation.json").read_text())
    assert {"photo", "label", "experts", "gate", "neighbours", "maps", "notes"} <= set(said)
    assert said["expert"] == "zero-shot"
    assert [m["of"] for m in said["maps"]] == ["encoder"]
    for shown in ("cat_1.explanation.png", "cat_1.explanation.json", said["label"], "zero-shot"):
        assert shown in done.stdout
    assert sorted(p.name for p in tmp_path.glob("*.part")) == []


def test_out_and_class(run, tmp_path):
    done = run("cat_1.jpg", "--out", "new/x.PNG", "--class", "SEA_HORSE $x$")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "new/x.json").read_text())["maps"][0]["label"] == "sea-horse $x$"
    assert (tmp_path / "new/x.PNG").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cat_1.jpg", "--out", "x.pdf"), "PNG of the explanation"),
        (("photo.png", "--out", "photo.png"), "the photo itself"),
        (("several",), "one photo"),
        (("cat_1.jpg", "--class", "zebra"), "not in the list"),
    ],
)
def test_named_errors(run, image, tmp_path, arguments, words):
    (tmp_path / "several").mkdir()
    for name in ("photo.png", "several/a.png", "several/b.png"):
        image(4).save(tmp_path / name)
    done = run(*arguments)
    assert isinstance(done.exception, ConfigError)
    assert words in str(done.exception)


def test_the_methods_of_the_command_are_the_librarys():
    assert tuple(method.value for method in Method) == METHODS
