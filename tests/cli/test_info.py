"""The block of classes that `hybrid info` shows."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import give_head

from hybrid.config import EncoderSettings
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.run.classes import AddedClass, ClassesInfo
from hybrid.run.files import Layout, write_json, write_run


class Named:
    name, identity, fingerprint = "an encoder", "identity", "fingerprint"


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "run")


def make(layout, head=(), left_out=(), **labels):
    """Write a run of labels as given and what it says of its head: `make(layout, ("cat",), cat=3)`."""
    write_run(layout, EncoderSettings(), Named)
    with EmbeddingStore(layout.store) as store:
        for label, count in labels.items():
            for i in range(count):
                record = ImageRecord(f"/{label}/{i}", "/", label, None, 1, 1)
                vector = {f"{label}{i}": np.array([1, 0], dtype=np.float32)}
                store.write_batch([StoredImage(record, f"{label}{i}")], vector, Named.fingerprint)
    if head:
        give_head(layout, Named, head, left_out)


@pytest.fixture
def classes(layout, hybrid):
    """What the command says of the classes."""

    def read():
        lines = hybrid("info", "--run", layout.root).out.splitlines()
        return [line.removeprefix("classes   ") for line in lines if line.startswith("classes ")]

    return read


def test_how_each_class_is_known(layout, classes):
    make(layout, ("cat", "dog"), ("emu", "yak"), cat=3, dog=2, emu=1, yak=4, okapi=3, llama=5)
    added = (
        AddedClass(name="quokka", synonyms=("[tiny] wallaby", "mup")),
        AddedClass(name="okapi", named=False),
        AddedClass(name="cat", synonyms=("moggy",)),
    )
    write_json(layout.classes, ClassesInfo(added=added))
    assert classes() == [
        "2 trained, 2 shown by photos, 1 only named; 2 labels of the index left out of training",
        "quokka: known by its name (also [tiny] wallaby, mup) alone",
        "okapi: shown by 3 photos alone",
        "llama: shown by 5 photos and known by its name",
    ]
    write_json(layout.classes, ClassesInfo(added=(AddedClass(name="Emu"), AddedClass(name="okapi"))))
    assert classes()[:2] == [
        "2 trained, 3 shown by photos, 0 only named; 1 label of the index left out of training",
        "Emu: shown by 1 photo and known by its name",
    ]


def test_without_a_head_every_label_is_shown(layout, classes):
    make(layout, **{f"c{i:02d}": 1 for i in range(23)})
    lines = classes()
    assert lines[0] == "0 trained, 23 shown by photos, 0 only named"
    assert lines[1] == "c00: shown by 1 photo and known by its name"
    assert len(lines) == 22
    assert lines[-1] == "and 3 more"


def test_only_trained_classes(layout, classes):
    make(layout, ("cat", "dog"), cat=1, dog=1)
    assert classes() == ["2 trained, 0 shown by photos, 0 only named"]


def test_an_index_without_the_images_that_were_added_is_named(layout, hybrid):
    make(layout, ("cat", "dog"), cat=1, dog=1, okapi=2)
    write_json(layout.classes, ClassesInfo(added=(AddedClass(name="okapi", images=3, paths="three"),)))
    assert "photos that were added to class okapi" in hybrid("info", "--run", layout.root, rc=1).err


def test_images_without_a_vector_are_reported(layout, classes):
    make(layout, cat=1)
    with EmbeddingStore(layout.store) as store:
        store.write_batch([StoredImage(ImageRecord("/x", "/", "cat", None, 1, 1), "other")])
    assert classes()[1:] == [
        "cat: shown by 1 photo and known by its name",
        "1 photo of class cat has no vector in this precision: hybrid build-index again",
    ]
