from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from hybrid.errors import DataError, StoreError
from hybrid.heads.training.dataset import split_by_training, training_set
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage

ENCODER = "encoder"


def vector(content: str) -> np.ndarray:
    """The embedding that the store holds of a content: its own hash as numbers."""
    digest = hashlib.sha256(content.encode()).digest()[:16]
    return np.frombuffer(digest, dtype=np.uint8).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    with EmbeddingStore(tmp_path / "index.sqlite") as opened:
        yield opened


def add(store: EmbeddingStore, *rows: tuple) -> None:
    """Add images, each (path, label, split) or (path, label, split, content)."""
    images = [
        StoredImage(ImageRecord(f"/d/{path}", "/d", label, split, 1, 1), (content or [f"content of {path}"])[0])
        for path, label, split, *content in rows
    ]
    store.write_batch(images, {image.sha256: vector(image.sha256) for image in images}, ENCODER)


def named(label: str, count: int, split: str | None = None) -> list[tuple]:
    return [(f"{split}/{label}/{number:03d}.jpg", label, split) for number in range(count)]


def choose(store, *, limit_to=None, val_fraction=0.25, seed=0):
    return training_set(store, ENCODER, limit_to=limit_to, val_fraction=val_fraction, seed=seed)


def paths(images) -> list[str]:
    return [record.path.removeprefix("/d/") for record in images.records]


def labels(data, images) -> Counter:
    return Counter(data.classes[target] for target in images.target)


def notes(data) -> str:
    return "\n".join(data.notes)


# Which images stand where


def test_the_validation_split_that_the_sources_name_is_used(store):
    add(store, *named("cat", 5, "train"), *named("dog", 4, None), *named("cat", 2, "val"), *named("dog", 1, "val"))
    data = choose(store)
    assert data.classes == ("cat", "dog")
    assert paths(data.val) == ["val/cat/000.jpg", "val/cat/001.jpg", "val/dog/000.jpg"]
    assert labels(data, data.train) == {"cat": 5, "dog": 4}
    assert {record.split for record in data.train.records} == {"train", None}
    assert "the split that the sources name" in notes(data)


@pytest.mark.parametrize("split", ["train", None, "val"])
def test_else_a_stratified_part_is_cut_by_the_seed(store, split):
    add(store, *named("cat", 40, split), *named("dog", 20, split), *named("emu", 2, split), *named("fox", 1, split))
    data = choose(store)
    assert labels(data, data.val) == {"cat": 10, "dog": 5, "emu": 1}
    assert labels(data, data.train) == {"cat": 30, "dog": 15, "emu": 1, "fox": 1}
    assert not set(paths(data.train)) & set(paths(data.val))
    assert "stratified 25%" in notes(data)
    assert "seed 0" in notes(data)
    assert paths(choose(store).val) == paths(data.val) != paths(choose(store, seed=2).val)


@pytest.mark.parametrize("val", [0, 3])
def test_the_test_split_and_images_without_a_label_are_never_used(store, val):
    rows = [row for label in ("cat", "dog") for row in [*named(label, 9, "train"), *named(label, val, "val")]]
    left = [*named("cat", 8, "test"), *named("emu", 8, "test"), ("x.jpg", None, None), ("y.jpg", None, "val")]
    add(store, *rows, *left)
    data = choose(store)
    assert data.classes == ("cat", "dog")
    assert set(paths(data.train) + paths(data.val)) == {path for path, *_ in rows}


@pytest.mark.parametrize("val", [0, 3])
def test_everything_is_aligned(store, val):
    rng = np.random.default_rng(0)
    rows = [row for label in "abc" for row in [*named(label, 9, "train"), *named(label, val, "val")]]
    add(store, *(rows[i] for i in rng.permutation(len(rows))))
    data = choose(store)
    of_path = {image.record.path: image for image in store.images()}
    for part in (data.train, data.val):
        assert len(part) == len(part.records) == len(part.hashes) == len(part.target) == len(part.embeddings)
        assert part.embeddings.dtype == np.float32
        assert part.target.dtype == np.intp
        for record, content, target, embedding in zip(
            part.records, part.hashes, part.target, part.embeddings, strict=True
        ):
            assert of_path[record.path] == StoredImage(record, content)
            assert data.classes[target] == record.label
            assert np.array_equal(embedding, vector(content))


# Which classes


def test_limit_to_finds_labels_by_class_key(store):
    add(store, *named("Sea_Horse", 4), *named("dog", 4), *named("cat", 4))
    data = choose(store, limit_to=["cat", "sea-horse", "CAT"])
    assert data.classes == ("Sea_Horse", "cat")
    assert labels(data, data.train) + labels(data, data.val) == {"Sea_Horse": 4, "cat": 4}


def test_what_cannot_train(store):
    for rows in ([], [("x.jpg", None, "train")], [("y.jpg", "cat", "test")]):
        add(store, *rows)
        with pytest.raises(DataError, match="no labeled photos") as caught:
            choose(store)
        assert "build-index" in caught.value.fix
    add(store, *named("cat", 1), *named("dog", 1), ("cat/copy.jpg", "cat", None, "content of None/cat/000.jpg"))
    with pytest.raises(DataError, match="no class has two photos") as caught:
        choose(store)
    assert caught.value.got == "2 photos of 2 classes"
    for limit_to, got in ((["cat"], "cat"), ([], "none")):
        with pytest.raises(DataError, match="at least two classes") as caught:
            choose(store, limit_to=limit_to)
        assert caught.value.got == got
    add(store, *named("cat", 4, "train"), *named("dog", 4, "train"), *named("emu", 2, "val"), *named("gnu", 4, "test"))
    with pytest.raises(DataError, match="without a training photo") as caught:
        choose(store)
    assert caught.value.got == "emu"
    assert choose(store, limit_to=["cat", "dog"]).classes == ("cat", "dog")
    with pytest.raises(DataError, match="no photo of") as caught:
        choose(store, limit_to=["cat", "unicorn", "gnu", "dog"])
    assert caught.value.got == "unicorn, gnu"
    assert "cat, dog" in caught.value.expected
    assert "--classes" in caught.value.fix
    store.write_batch([StoredImage(ImageRecord("/d/new.jpg", "/d", "cat", None, 1, 1), "no vector")])
    with pytest.raises(StoreError, match=r"1 of .* have no vector"):
        choose(store, limit_to=["cat", "dog"])


@pytest.mark.parametrize("twin", ["sea horse", "SEA-HORSE", "Sea  Horse"])
def test_labels_that_are_one_class(store, twin):
    add(store, *named("Sea_Horse", 4), *named(twin, 4), *named("dog", 4))
    data = choose(store)
    name = min("Sea_Horse", twin)
    assert data.classes == (name, "dog")
    assert Counter(data.train.target.tolist() + data.val.target.tolist()) == {0: 8, 1: 4}
    note = next(note for note in data.notes if "one class" in note)
    assert all(f"{label!r} (4)" in note for label in ("Sea_Horse", twin))
    assert note.endswith(f"as {name}")
    assert "dog" not in note


def test_letters_and_signs_are_classes_of_their_own(store):
    add(store, *(image for label in ("A", "a", "1", "-1", "C", "C#") for image in named(label, 4)))
    assert choose(store).classes == ("-1", "1", "A", "C", "C#", "a")


def test_no_class_has_the_name_of_the_answer_for_none(store):
    add(store, *named("cat", 4), *named("None_of_these", 4), *named("dog", 4))
    with pytest.raises(DataError, match=r"'None_of_these' is what an image of no class is answered with"):
        choose(store)


# Contents


def test_a_class_whose_photos_all_carry_another_label_is_named(store):
    content = [f"content {i}" for i in range(4)]
    add(store, *((f"photos/cat/{i}.jpg", "cat", None, content[i]) for i in range(4)))
    add(store, *((f"moved/tiger/{i}.jpg", "tiger", None, content[i]) for i in range(4)), *named("dog", 4))
    with pytest.raises(DataError, match="every photo of cat, tiger carries another label too") as caught:
        choose(store)
    assert all(name in caught.value.got for name in ("photos/cat/0.jpg is cat", "moved/tiger/0.jpg is tiger"))
    assert "--replace" in caught.value.fix


def test_copies_count_once_and_the_same_bytes_under_two_labels_are_left_out(store):
    copies = [(f"train/cat/copy{i}.jpg", "cat", "train", "content of train/cat/000.jpg") for i in (1, 2)]
    add(store, *named("cat", 4, "train"), *named("dog", 4, "train"), *named("cat", 2, "val"), *copies)
    data = choose(store)
    assert len({*data.train.hashes, *data.val.hashes}) == len(data.train) + len(data.val) == 10
    assert "train/cat/copy1.jpg" not in paths(data.train) + paths(data.val)
    assert "left out 2 photos that are copies" in notes(data)
    assert "two labels" not in notes(data)
    add(store, *((f"{label}/odd.jpg", label, split, "odd") for label, split in (("cat", "train"), ("dog", "val"))))
    again = choose(store)
    assert (again.train.hashes, again.val.hashes) == (data.train.hashes, data.val.hashes)
    assert "left out 2 photos whose same bytes carry two labels: /d/cat/odd.jpg, /d/dog/odd.jpg" in notes(again)


def test_a_label_outside_limit_to_tears_nothing(store):
    copy = ("emu/x.jpg", "emu", None, "content of None/cat/000.jpg")
    add(store, *named("cat", 4), *named("dog", 4), *named("emu", 4), copy)
    data = choose(store, limit_to=["cat", "dog"])
    assert len(data.train) + len(data.val) == 8
    assert "left out" not in notes(data)


def test_a_content_in_training_and_validation_is_only_trained_on(store):
    # The paths sort val before z: the split must decide, not the path.
    leak = [("z/cat/leak.jpg", "cat", "train", "leak"), ("a/cat/leak.jpg", "cat", "val", "leak")]
    add(store, *named("cat", 4, "train"), *named("dog", 4, "train"), *named("cat", 2, "val"), *leak)
    data = choose(store)
    assert "z/cat/leak.jpg" in paths(data.train)
    assert "leak" not in data.val.hashes
    assert len(data.val) == 2
    assert "left out 1 photos that are copies" in notes(data)


def test_a_validation_split_of_copies_alone_is_cut_anew(store):
    copies = [(f"val/cat/{i}.jpg", "cat", "val", f"content of train/cat/{i:03d}.jpg") for i in range(3)]
    add(store, *named("cat", 8, "train"), *named("dog", 8, "train"), *copies)
    data = choose(store)
    assert labels(data, data.val) == {"cat": 2, "dog": 2}
    assert not set(data.train.hashes) & set(data.val.hashes)
    assert "stratified" in notes(data)


# What calibrates a head that is there already


def test_split_by_training_goes_by_the_content(store):
    add(store, *named("cat", 8), *named("dog", 6))
    data = choose(store)
    every = {
        sha256: (record.path, label, vector(sha256))
        for part in (data.train, data.val)
        for sha256, record, label in zip(part.hashes, part.records, (data.classes[t] for t in part.target), strict=True)
    }
    # Not the cut of now, and the head's classes in another order.
    trained = frozenset(sorted(every)[::2])
    split = split_by_training(data, ("dog", "cat"), trained | {"of a photo that is gone"})
    assert split.classes == ("dog", "cat")
    assert split.notes == data.notes
    assert set(split.train.hashes) == trained
    assert set(split.val.hashes) == set(every) - trained
    for part in (split.train, split.val):
        for row, sha256 in enumerate(part.hashes):
            path, label, embedding = every[sha256]
            assert part.records[row].path == path
            assert split.classes[part.target[row]] == label
            np.testing.assert_array_equal(part.embeddings[row], embedding)


def test_an_index_that_no_longer_fits_the_head(store):
    add(store, *named("cat", 8), *named("dog", 6))
    data = choose(store)
    hashes = (*data.train.hashes, *data.val.hashes)
    cats = [h for part in (data.train, data.val) for h, t in zip(part.hashes, part.target, strict=True) if t == 0]
    own = ("cat", "dog")
    for trained, classes in ((hashes, own), ((), own), (cats, own), (hashes[::2], ("cat", "emu"))):
        with pytest.raises(DataError, match="no longer fits the head") as caught:
            split_by_training(data, classes, frozenset(trained))
        assert "of its 2 classes" in caught.value.expected
        assert f"{len(trained)} photos that trained it" in caught.value.got
        assert f"{len(hashes) - len(trained)} others" in caught.value.got
        assert "train-head" in caught.value.fix
