"""`hybrid add-class` and `hybrid remove-class`, in this process, on a run made here."""

from __future__ import annotations

import re
import sys

import pytest
import typer
from typer.testing import CliRunner

from hybrid.cli.add_class import add_class, known_by, remove_class
from hybrid.cli.main import COMMANDS
from hybrid.cli.show import EXIT_UNREADABLE
from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.errors import ArtifactError, DataError
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore
from hybrid.run.classes import read_classes, support_classes
from hybrid.run.files import Layout, write_run


@pytest.fixture
def made(tmp_path, image_folder, clip_folder, monkeypatch):
    """A run with 3 cats and 2 dogs, and 4 llamas that are not in it."""
    monkeypatch.chdir(tmp_path)
    image_folder({"cat": 3, "dog": 2}, "train")
    image_folder({"llama": 4}, "new", seed=1)
    settings = EncoderSettings(model=str(clip_folder), precision="fp32")
    encoder = load_encoder(settings, "cpu")
    layout = Layout(tmp_path / "run")
    write_run(layout, settings, encoder)
    with EmbeddingStore(layout.store) as store:
        build_index(scan([tmp_path / "train"]), encoder, store)
    return layout


def call(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*arguments, "--run", "run"])


def found(layout):
    with EmbeddingStore(layout.store) as store:
        (fingerprint,) = {f for (f,) in store._db.execute("SELECT DISTINCT fingerprint FROM embeddings")}
    classes, _ = support_classes(layout, (fingerprint,), ("cat", "dog"), ())
    return {cls.name: (len(cls.hashes), cls.named, cls.synonyms) for cls in classes}


def test_add_more_and_remove(made):
    done = call(add_class, "llama", "new/llama/000.jpg", "new/llama/001.jpg", "--synonym", "alpaca", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert done.stdout == "llama: shown by 2 photos and known by its name (also alpaca); 2 new in run\n"
    assert "encoder:" in done.stderr
    done = call(add_class, "LLAMA", "new", "--no-name", "--device", "cpu", "--batch-size", "1", "--workers", "2")
    assert done.stdout == "llama: shown by 4 photos alone; 2 new in run\n"
    assert found(made) == {"llama": (4, False, ("alpaca",))}
    done = call(add_class, "llama", "--name")
    assert done.stdout == "llama: shown by 4 photos and known by its name (also alpaca); 0 new in run\n"
    done = call(remove_class, "Llama")
    assert done.stdout == "llama: forgotten, with 4 photos\n"
    assert found(made) == {}
    assert read_classes(made).added == ()


def test_by_name_alone(made):
    done = call(add_class, "[red] llama")
    assert done.stdout == "[red] llama: known by its name alone; 0 new in run\n"
    assert found(made) == {"[red] llama": (0, True, ())}


def test_several_folders_and_manifests_are_taken_without_their_labels(made, tmp_path, image_folder):
    image_folder({"x": 1, "y": 1}, "other", seed=2)
    (tmp_path / "list.csv").write_text("path,label,split\nother/x/000.jpg,x,test\n")
    done = call(add_class, "llama", "list.csv", "other/y", "new/llama/000.jpg")
    assert done.stdout.startswith("llama: shown by 3 photos")
    assert set(found(made)) == {"llama"}


def test_unreadable_images_are_listed_and_exit_3(made, tmp_path):
    (tmp_path / "new/llama/002.jpg").write_bytes(b"torn")
    done = call(add_class, "llama", "new")
    assert done.exit_code == EXIT_UNREADABLE
    assert "llama: shown by 3 photos" in done.stdout
    assert "1 unreadable, skipped" in done.stderr
    assert "002.jpg: not an image" in done.stderr
    done = call(add_class, "alpaca", "new/llama/002.jpg")
    assert isinstance(done.exception, DataError)
    assert "none of the photos of alpaca can be read" in str(done.exception)
    assert set(found(made)) == {"llama"}


def test_notes_go_to_stderr(made):
    call(add_class, "llama", "new")
    done = call(remove_class, "dog")
    assert done.stdout == "dog: forgotten, with 2 photos\n"
    assert re.search(r"build-index of .*train brings its photos back", done.stderr)


def test_errors(made, tmp_path):
    done = call(add_class, "llama", "train/cat/000.jpg")
    assert isinstance(done.exception, DataError)
    assert "the index has another label" in str(done.exception)
    assert isinstance(call(add_class, "llama", "nowhere.jpg").exception, DataError)
    assert isinstance(call(remove_class, "llama").exception, DataError)
    made.run.unlink()
    for command in (add_class, remove_class):
        done = call(command, "llama")
        assert isinstance(done.exception, ArtifactError)
        assert "hybrid build-index" in str(done.exception)


def test_how_a_class_is_known_in_words():
    assert known_by(0, True, ()) == "known by its name alone"
    assert known_by(0, True, ("a", "b")) == "known by its name (also a, b) alone"
    assert known_by(1, False, ("a",)) == "shown by 1 photo alone"
    assert known_by(5, True, ("a",)) == "shown by 5 photos and known by its name (also a)"


def test_they_are_commands():
    assert {"add-class", "remove-class"} <= set(COMMANDS)


def test_adding_imports_nothing_that_only_others_need(made, monkeypatch):
    """The seconds that the command takes are those of its imports."""
    call(add_class, "alpaca")  # what the encoder needs is there
    others = {"sklearn", "scipy", "timm", "matplotlib", "captum", "optuna", "peft", "accelerate", "cleanlab"}
    for name in {*others, *(module for module in sys.modules if module.split(".")[0] in others)}:
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    done = call(add_class, "llama", "new")
    assert done.exit_code == 0, done.exception
