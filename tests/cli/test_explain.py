"""`hybrid explain`, zero-shot alone: files written, table shown, errors named."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from hybrid.cli.explain import Method
from hybrid.tools.explain.explanation import METHODS


@pytest.fixture
def explain(hybrid, tmp_path, clip_folder, image, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image(3).save("cat_1.jpg")
    (tmp_path / "names.txt").write_text("cat\nsea-horse $x$\n")
    given = ("--prompts", "names.txt", "--encoder", clip_folder, "--precision", "fp32")
    return lambda *arguments, rc=0: hybrid("explain", *arguments, *given, rc=rc)


def test_writes_a_picture_and_its_numbers(explain, tmp_path):
    done = explain("cat_1.jpg")
    assert Image.open(tmp_path / "cat_1.explanation.png").format == "PNG"
    numbers = json.loads((tmp_path / "cat_1.explanation.json").read_text())
    assert {"photo", "label", "experts", "gate", "neighbours", "maps", "notes"} <= set(numbers)
    assert numbers["expert"] == "zero-shot"
    assert [m["of"] for m in numbers["maps"]] == ["encoder"]
    for text in ("cat_1.explanation.png", "cat_1.explanation.json", numbers["label"], "zero-shot"):
        assert text in done.out
    assert list(tmp_path.glob("*.part")) == []
    explain("cat_1.jpg", "--out", "new/x.PNG", "--class", "SEA_HORSE $x$")
    assert json.loads((tmp_path / "new/x.json").read_text())["maps"][0]["label"] == "sea-horse $x$"
    assert (tmp_path / "new/x.PNG").is_file()


def test_errors(explain, image, tmp_path):
    (tmp_path / "several").mkdir()
    for name in ("photo.png", "several/a.png", "several/b.png"):
        image(4).save(tmp_path / name)
    for arguments, message in (
        (("cat_1.jpg", "--out", "x.pdf"), "--out is a PNG"),
        (("photo.png", "--out", "photo.png"), "--out is an input: the photo"),
        (("several",), "one photo"),
        (("cat_1.jpg", "--class", "zebra"), "not in the list"),
    ):
        assert message in explain(*arguments, rc=1).err


def test_the_methods_of_the_command_are_the_librarys():
    assert tuple(method.value for method in Method) == METHODS
