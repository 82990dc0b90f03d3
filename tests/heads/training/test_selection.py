from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections import Counter

import pytest
from PIL import Image

from hybrid.errors import DataError
from hybrid.heads.training.dataset import training_set
from hybrid.heads.training.selection import read_images, split_images
from hybrid.images.sources import scan
from hybrid.index.store import EmbeddingStore

FRACTIONS = {"val_fraction": 0.25, "seed": 0}


def read_splits(sources, test_sources=(), progress=lambda count: None, **choice):
    test = read_images(scan(test_sources), progress) if test_sources else None
    return split_images(read_images(scan(sources), progress), test, **choice)


def counts(classes, images):
    return Counter(classes[target] for target in images.target)


def notes(splits):
    return "\n".join(splits.data.notes)


def hashes(*parts):
    return {sha256 for part in parts for sha256 in part.hashes}


def test_images_and_hashes_are_those_of_the_files(image_folder):
    folder = image_folder({"cat": 8, "dog": 8})
    splits = read_splits([folder], test_fraction=0.25, **FRACTIONS)
    data, test = splits.data, splits.test
    assert data.classes == ("cat", "dog")
    assert [counts(data.classes, part) for part in (data.train, data.val, test)] == [
        {"cat": 4, "dog": 4},
        {"cat": 2, "dog": 2},
        {"cat": 2, "dog": 2},
    ]
    assert len(hashes(data.train, data.val, test)) == 16
    for part in (data.train, data.val, test):
        assert part.embeddings.shape == (len(part), 0)
        assert part.embeddings.dtype.name == "float32"
        for record, sha256, target in zip(part.records, part.hashes, part.target, strict=True):
            assert sha256 == hashlib.sha256(record.read_bytes()).hexdigest()
            assert record.label == data.classes[target]
    assert "test: a stratified 25%" in notes(splits)


def test_the_same_training_set_as_from_an_index(image_folder, tmp_path):
    folder = image_folder({"cat": 9, "dog": 7, "emu": 1})
    shutil.copy(folder / "cat" / "000.jpg", folder / "cat" / "copy.jpg")
    images = read_images(scan([folder])).images
    with EmbeddingStore(tmp_path / "index.sqlite") as store:
        store.write_batch(images, {image.sha256: [1.0] for image in images}, "e")
        indexed = training_set(store, "e", limit_to=None, **FRACTIONS)
    splits = read_splits([folder], **FRACTIONS)
    assert splits.test is None
    assert splits.data.train.records == indexed.train.records
    assert splits.data.val.records == indexed.val.records
    assert splits.data.notes == indexed.notes


def test_named_splits_are_used(image_folder):
    root = image_folder({"cat": 8, "dog": 8}, "d/train", seed=1).parent
    image_folder({"cat": 3, "dog": 3}, "d/val", seed=2)
    splits = read_splits([root], test_fraction=0.25, **FRACTIONS)
    assert (len(splits.data.train), len(splits.data.val), len(splits.test)) == (12, 6, 4)
    assert {r.split for r in splits.test.records} == {"train"}, "the validation split stays whole"
    image_folder({"cat": 2, "dog": 2, "emu": 3}, "d/test", seed=3)
    splits = read_splits([root], test_fraction=0.5, **FRACTIONS)
    assert {r.split for r in splits.test.records} == {"test"}
    assert (len(splits.data.train), len(splits.data.val), len(splits.test)) == (16, 6, 4)
    assert splits.data.classes == ("cat", "dog")
    assert "test: left out 3 photos of classes that are not trained" in notes(splits)
    assert "test: the split that the sources name" in notes(splits)


def test_test_sources_go_first_and_match_labels_by_class_key(image_folder):
    root = image_folder({"Sea_Horse": 6, "dog": 6}, "d/train", seed=1).parent
    image_folder({"dog": 2}, "d/test", seed=2)
    given = image_folder({"sea horse": 3, "dog": 2, "emu": 4}, "given", seed=3)
    shutil.copy(given / "dog" / "000.jpg", given / "dog" / "copy.jpg")
    splits = read_splits([root], test_sources=[given], **FRACTIONS)
    assert counts(splits.data.classes, splits.test) == {"Sea_Horse": 3, "dog": 2}
    assert {r.source for r in splits.test.records} == {str(given)}
    assert "2 photos of the split test in the sources are not used" in notes(splits)
    assert "test: left out 1 photos that are copies" in notes(splits)
    assert "test: left out 4 photos of classes" in notes(splits)


def test_a_test_image_that_also_trains_is_dropped(image_folder):
    train = image_folder({"cat": 6, "dog": 6}, "train", seed=1)
    test = image_folder({"cat": 2, "dog": 2}, "test", seed=2)
    shutil.copy(train / "cat" / "000.jpg", test / "cat" / "leak.jpg")
    shutil.copy(train / "cat" / "001.jpg", test / "dog" / "wrong_label.jpg")
    splits = read_splits([train], test_sources=[test], **FRACTIONS)
    assert len(splits.test) == 4
    assert not hashes(splits.test) & hashes(splits.data.train, splits.data.val)
    assert "test: left out 2 photos whose same bytes train or validate" in notes(splits)
    with pytest.raises(DataError, match="none of the test photos") as caught:
        read_splits([train], test_sources=[train], **FRACTIONS)
    assert "12 photos whose same bytes" in caught.value.got


def test_unreadable_images_and_contents_with_two_labels_are_nowhere(image_folder):
    folder = image_folder({"cat": 6, "dog": 6})
    (folder / "cat" / "bad.jpg").write_bytes(b"no photo")
    (folder / "cat" / "cut.jpg").write_bytes((folder / "cat" / "001.jpg").read_bytes()[:300])
    shutil.copy(folder / "cat" / "000.jpg", folder / "dog" / "torn.jpg")
    counted = []
    splits = read_splits([folder], test_fraction=0.3, **FRACTIONS, progress=counted.append)
    torn = hashlib.sha256((folder / "dog" / "torn.jpg").read_bytes()).hexdigest()
    everywhere = hashes(splits.data.train, splits.data.val, splits.test)
    assert torn not in everywhere
    assert len(everywhere) == 11
    for note in ("two labels", "left out 2 unreadable: ", "bad.jpg (not an image"):
        assert note in notes(splits)
    assert sum(counted) == 15


def test_images_of_a_shard(image, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number in range(8):
            out = io.BytesIO()
            image(number).convert("L").save(out, "PNG")
            for name, data in ((f"{number}.png", out.getvalue()), (f"{number}.cls", b"cat" if number % 2 else b"dog")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    splits = read_splits([tmp_path / "s.tar"], test_fraction=0.25, **FRACTIONS)
    assert splits.data.classes == ("cat", "dog")
    assert len(hashes(splits.data.train, splits.data.val, splits.test)) == 8


def test_the_test_does_not_depend_on_the_seed_of_the_training(image_folder):
    images = read_images(scan([image_folder({"cat": 20, "dog": 20})]))

    def split(val_fraction=0.25, seed=0, test_seed=7):
        return split_images(images, test_fraction=0.25, val_fraction=val_fraction, seed=seed, test_seed=test_seed)

    first, other, third = split(), split(seed=1, val_fraction=0.4), split(test_seed=8)
    assert first.test.hashes == other.test.hashes != third.test.hashes
    assert first.data.val.hashes != other.data.val.hashes


def test_classes_can_be_limited(image_folder):
    folder = image_folder({"cat": 6, "dog": 6, "a$b|c": 6, "emu": 1})
    splits = read_splits([folder], test_fraction=0.3, **FRACTIONS, limit_to=["A$B|C", "dog"])
    assert splits.data.classes == ("a$b|c", "dog")
    assert set(splits.test.target) == {0, 1}
    splits = read_splits([folder], test_fraction=0.3, **FRACTIONS)
    assert counts(splits.data.classes, splits.data.train)["emu"] == 1, "a class of one image trains"
    assert counts(splits.data.classes, splits.test)["emu"] == 0
    with pytest.raises(DataError, match="the sources have no photo of") as caught:
        read_splits([folder], **FRACTIONS, limit_to=["dog", "unicorn"])
    assert "build-index" not in caught.value.fix


def test_too_little(image_folder, tmp_path):
    for classes, problem in (({"cat": 1, "dog": 1}, "none can be held out for the test"), ({"cat": 6}, "two classes")):
        with pytest.raises(DataError, match=problem):
            read_splits([image_folder(classes, "-".join(classes))], test_fraction=0.2, **FRACTIONS)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="the sources hold no labeled photos") as caught:
        read_splits([tmp_path / "a.png"], **FRACTIONS)
    assert "build-index" not in caught.value.fix
