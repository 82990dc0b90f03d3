"""`hybrid add-class` and `hybrid remove-class`, in this process, on a run made here."""

from __future__ import annotations

import sys

import pytest

from hybrid.run.classes import read_classes
from hybrid.run.files import Layout


@pytest.fixture
def call(hybrid, tmp_path, image_folder, clip_folder, monkeypatch):
    """Run a command on a run with 3 cats and 2 dogs, beside 4 llamas that are not in it."""
    monkeypatch.chdir(tmp_path)
    image_folder({"cat": 3, "dog": 2}, "train")
    image_folder({"llama": 4}, "new", seed=1)
    hybrid("build-index", "train", "--encoder", clip_folder, "--precision", "fp32", "--run", "run")
    return lambda *arguments, rc=0: hybrid(*arguments, "--run", "run", rc=rc)


def added(call):
    """What `info` says of the classes that the index gives no label."""
    lines = [line.removeprefix("classes   ") for line in call("info").out.splitlines() if line.startswith("classes")]
    return [line for line in lines[1:] if not line.startswith(("cat:", "dog:"))]


def test_add_more_and_remove(call, tmp_path):
    done = call("add-class", "llama", "new/llama/000.jpg", "new/llama/001.jpg", "--synonym", "alpaca")
    assert done.out == "llama: shown by 2 photos and known by its name (also alpaca); 2 new in run\n"
    assert "encoder:" in done.err
    done = call("add-class", "LLAMA", "new", "--no-name", "--batch-size", "1", "--workers", "2")
    assert done.out == "llama: shown by 4 photos alone; 2 new in run\n"
    assert added(call) == ["llama: shown by 4 photos alone"]
    done = call("add-class", "llama", "--name")
    assert done.out == "llama: shown by 4 photos and known by its name (also alpaca); 0 new in run\n"
    assert call("remove-class", "Llama").out == "llama: forgotten, with 4 photos\n"
    assert added(call) == []
    assert read_classes(Layout(tmp_path / "run")).added == ()
    done = call("remove-class", "dog")
    assert done.out == "dog: forgotten, with 2 photos\n"
    assert "train brings its photos back" in done.err


def test_several_folders_and_manifests_are_taken_without_their_labels(call, tmp_path, image_folder):
    image_folder({"x": 1, "y": 1}, "other", seed=2)
    (tmp_path / "list.csv").write_text("path,label,split\nother/x/000.jpg,x,test\n")
    done = call("add-class", "llama", "list.csv", "other/y", "new/llama/000.jpg")
    assert done.out.startswith("llama: shown by 3 photos")
    assert added(call) == ["llama: shown by 3 photos and known by its name"]


def test_unreadable_images_are_listed_and_exit_3(call, tmp_path):
    (tmp_path / "new/llama/002.jpg").write_bytes(b"torn")
    done = call("add-class", "llama", "new", rc=3)
    assert "llama: shown by 3 photos" in done.out
    assert "1 unreadable, skipped" in done.err
    assert "002.jpg: not an image" in done.err
    assert "none of the photos of alpaca can be read" in call("add-class", "alpaca", "new/llama/002.jpg", rc=1).err
    assert len(added(call)) == 1
    assert call("add-class", "[red] llama").out == "[red] llama: known by its name alone; 0 new in run\n"
    assert "[red] llama: known by its name alone" in added(call)


def test_errors(call, tmp_path):
    assert "the index has another label" in call("add-class", "llama", "train/cat/000.jpg", rc=1).err
    assert "nowhere.jpg" in call("add-class", "llama", "nowhere.jpg", rc=1).err
    assert "llama" in call("remove-class", "llama", rc=1).err
    Layout(tmp_path / "run").run.unlink()
    for command in ("add-class", "remove-class"):
        assert "hybrid build-index" in call(command, "llama", rc=1).err


def test_adding_imports_nothing_that_only_others_need(call, monkeypatch):
    """The seconds that the command takes are those of its imports."""
    call("add-class", "alpaca")  # what the encoder needs is there
    others = {"sklearn", "scipy", "timm", "matplotlib", "captum", "optuna", "peft", "accelerate", "cleanlab"}
    for name in {*others, *(module for module in sys.modules if module.split(".")[0] in others)}:
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    call("add-class", "llama", "new")
