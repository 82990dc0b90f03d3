from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from hybrid.errors import StoreError
from hybrid.images.records import ImageRecord
from hybrid.index.given import GivenLabel
from hybrid.index.store import LABELED, EmbeddingStore, StoredImage
from hybrid.labels.names import NONE
from tests.index.conftest import to_format_1

A = "encoder-a"


def give(store, sha256, label, why="person", undoes=None):
    (number,) = store.write_labels([GivenLabel(0, sha256, label, None, "ann", "2026-01-01T00:00:00", why, undoes)])
    return number


def fill(store):
    """Contents a (cat, twice), b (dog, val), c and d without a label, d of split test."""
    labels = {"a1": "cat", "a2": "cat", "b": "dog", "c": None, "d": None}
    splits = {"b": "val", "c": "val", "d": "test"}
    images = [
        StoredImage(ImageRecord(f"/p/{name}", "/p", label, splits.get(name), 1, 1), name[0])
        for name, label in labels.items()
    ]
    store.write_batch(images, {name: np.ones(4, np.float32) for name in "abcd"}, A)


def seen(store):
    """What every way of reading says, one against the other: label and split by path."""
    images = store.images()
    rows = {row.path: (row.label, row.split) for row in store.image_rows()}
    assert rows == {i.record.path: (i.record.label, i.record.split) for i in images}
    assert store.images_with({i.sha256 for i in images}) == store.images_at(list(rows)) == images
    labels = [label for label, _ in rows.values() if label is not None]
    assert store.labels() == {label: labels.count(label) for label in sorted(set(labels))}
    assert store.all_labeled == (len(labels) == len(rows))
    vectors = store.rows(A)
    hashes = vectors.hashes(vectors.ids())
    for wanted in (None, ["cat"], ["dog", "yak"]):
        own = {i.sha256 for i in images if i.record.label is not None and (not wanted or i.record.label in wanted)}
        assert {hashes[number] for number in vectors.ids_labeled(wanted).tolist()} == own
        if wanted:
            assert {i.sha256 for i in store.images_sharing(wanted)} == own
    return {path.removeprefix("/p/"): said for path, said in rows.items()}


def test_a_label_holds_for_every_copy_and_every_way_of_reading_until_it_is_taken_back(store):
    fill(store)
    before = seen(store)
    revision = store.revision
    number = give(store, "a", "yak")
    assert store.revision == revision + 1
    assert seen(store) == before | {"a1": ("yak", None), "a2": ("yak", None)}
    # The sources' own rows are as they were.
    assert {row.label for row in store.source_rows()} == {"cat", "dog", None}
    other = give(store, "a", "dog")
    assert seen(store)["a1"] == ("dog", None)
    give(store, "a", None, undoes=other)
    assert seen(store)["a1"] == ("yak", None)
    give(store, "a", None, undoes=number)
    assert seen(store) == before
    assert [row.undoes for row in store.given_labels()] == [None, None, other, number]


def test_chosen_images_without_a_label_of_their_source_are_never_held_out(store):
    fill(store)
    for content, why in (("a", "margin"), ("b", "margin"), ("c", "margin"), ("d", "margin")):
        give(store, content, "yak", why)
    # The source's split test stays, whatever was chosen; so does the place of what had a label already.
    yaks = {"a1": None, "a2": None, "b": "val", "c": "train", "d": "test"}
    assert seen(store) == {path: ("yak", split) for path, split in yaks.items()}
    assert [i.record.path for i in store.images() if i.trains_only] == ["/p/c"]
    give(store, "c", "yak", "random")
    assert seen(store)["c"] == ("yak", "val")
    assert not any(i.trains_only for i in store.images())


def test_none_of_these_is_no_label_and_a_negative(store):
    fill(store)
    give(store, "a", NONE)
    give(store, "c", "cat")
    give(store, "d", "cat")
    labels = {"a1": None, "a2": None, "b": "dog", "c": "cat", "d": "cat"}
    assert {path: label for path, (label, _) in seen(store).items()} == labels
    assert store.negatives() == ["a"]
    assert [i.is_negative for i in store.images()] == [True, True, False, False, False]


def test_what_is_written_back_is_what_the_source_said(store):
    fill(store)
    give(store, "c", "yak")
    (image,) = store.images_with({"c"})
    moved = replace(image, record=replace(image.record, mtime_ns=9))
    store.write_batch([moved.as_its_source_says()])
    row = next(row for row in store.source_rows() if row.path == "/p/c")
    assert (row.label, row.split, row.mtime_ns) == (None, "val", 9)
    assert seen(store)["c"] == ("yak", "train")


def test_a_run_that_moves_takes_its_own_images_along(tmp_path):
    with EmbeddingStore(tmp_path / "a" / "i.sqlite") as store:
        path = str(tmp_path / "a" / "photos" / "x.jpg")
        image = StoredImage(ImageRecord(path, LABELED, None, None, 1, 1), "x")
        store.write_batch([image], {"x": np.ones(4, np.float32)}, A)
        assert store.images() == store.images_at([path]) == [image]
    (tmp_path / "a").rename(tmp_path / "b")
    with EmbeddingStore(tmp_path / "b" / "i.sqlite") as store:
        (there,) = store.images()
        assert there.record.path == str(tmp_path / "b" / "photos" / "x.jpg")
        store.remove([there.record.path])
        assert store.is_empty


def test_a_store_of_format_1_takes_labels(store):
    fill(store)
    store.close()
    to_format_1(store.path)
    with EmbeddingStore(store.path) as old:
        assert old.labels_in_force() == {}
        give(old, "a", "yak")
        assert old.format == 2
        assert old.labels() == {"dog": 1, "yak": 2}


@pytest.mark.parametrize("harm", ["UPDATE labels SET label = 'gnu' WHERE id = 1", "DELETE FROM labels WHERE id = 1"])
def test_damage_is_found_and_mended(store, harm):
    fill(store)
    give(store, "a", "yak")
    give(store, "c", "yak")
    store.close()
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute(harm)
    with EmbeddingStore(store.path) as torn:
        with pytest.raises(StoreError, match=r"labels? .*that (a person|people) gave"):
            torn.labels()
        assert torn.mend() == ["label 1, which a person gave"]
        assert torn.labels() == {"cat": 2, "dog": 1, "yak": 1}
        assert [row.why for row in torn.given_labels()] == ["lost", "person"]
