"""The block of classes that `hybrid info` shows."""

from __future__ import annotations

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from hybrid.cli import info as module
from hybrid.config import EncoderSettings, HeadSettings
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.run.classes import AddedClass, ClassesInfo
from hybrid.run.files import HeadInfo, Layout, write_json, write_run


class Named:
    name, identity, fingerprint = "an encoder", "identity", "fingerprint"


@pytest.fixture
def run(tmp_path):
    """Labels as given: `run(cat=3)`."""

    def make(**labels):
        layout = Layout(tmp_path / "run")
        write_run(layout, EncoderSettings(), Named)
        with EmbeddingStore(layout.store) as store:
            for label, count in labels.items():
                for i in range(count):
                    record = ImageRecord(f"/{label}/{i}", "/", label, None, 1, 1)
                    vector = {f"{label}{i}": np.array([1, 0], dtype=np.float32)}
                    store.write_batch([StoredImage(record, f"{label}{i}")], vector, Named.fingerprint)
        return layout

    return make


@pytest.fixture
def head(monkeypatch):
    """A run's head, as far as `info` asks before the gate."""

    def make(classes, left_out=()):
        made = HeadInfo(
            settings=HeadSettings(kind="linear"),
            classes=tuple(classes),
            encoder_identity=None,
            train_photos=1,
            val_photos=1,
            trained_on=(),
            left_out=tuple(left_out),
        )
        monkeypatch.setattr("hybrid.run.files.read_head_info", lambda layout: made)

    return make


def classes_of(layout):
    app = typer.Typer()
    app.command()(module.info)
    done = CliRunner().invoke(app, ["--run", str(layout.root)])
    lines = done.stdout.splitlines()
    return [line.removeprefix("classes   ") for line in lines if line.startswith("classes ")]


def test_how_each_class_is_known(run, head):
    layout = run(cat=3, dog=2, emu=1, yak=4, okapi=3, llama=5)
    head(("cat", "dog"), ("emu", "yak"))
    added = (
        AddedClass(name="quokka", synonyms=("[tiny] wallaby",)),
        AddedClass(name="okapi", named=False),
        AddedClass(name="cat", synonyms=("moggy",)),
    )
    write_json(layout.classes, ClassesInfo(added=added))
    assert classes_of(layout) == [
        "2 trained, 2 shown by photos, 1 only named; 2 labels of the index left out of training",
        "quokka: known by its name (also [tiny] wallaby) alone",
        "okapi: shown by 3 photos alone",
        "llama: shown by 5 photos and known by its name",
    ]


def test_left_out_labels_that_were_added_are_not_counted_as_left_out(run, head):
    layout = run(cat=3, dog=2, emu=1, yak=4)
    head(("cat", "dog"), ("emu", "yak"))
    write_json(layout.classes, ClassesInfo(added=(AddedClass(name="Emu"),)))
    assert classes_of(layout) == [
        "2 trained, 1 shown by photos, 0 only named; 1 label of the index left out of training",
        "Emu: shown by 1 photo and known by its name",
    ]


def test_without_a_head_every_label_is_shown(run):
    lines = classes_of(run(**{f"c{i:02d}": 1 for i in range(23)}))
    assert lines[0] == "0 trained, 23 shown by photos, 0 only named"
    assert lines[1] == "c00: shown by 1 photo and known by its name"
    assert len(lines) == 22
    assert lines[-1] == "and 3 more"


def test_only_trained_classes(run, head):
    layout = run(cat=1, dog=1)
    head(("cat", "dog"))
    assert classes_of(layout) == ["2 trained, 0 shown by photos, 0 only named"]


def test_images_without_a_vector_are_told(run):
    layout = run(cat=1)
    with EmbeddingStore(layout.store) as store:
        store.write_batch([StoredImage(ImageRecord("/x", "/", "cat", None, 1, 1), "other")])
    assert classes_of(layout)[1:] == [
        "cat: shown by 1 photo and known by its name",
        "1 photo of class cat has no vector in this precision: hybrid build-index again",
    ]
