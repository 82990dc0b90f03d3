"""Boxes of one photo lie on one side of a cut."""

from __future__ import annotations

from hybrid.heads.training.dataset import cut_photos
from hybrid.images.boxes import Box
from hybrid.images.records import BoxRecord, ImageRecord
from hybrid.images.splits import stratified_split
from hybrid.index.store import StoredImage


def stored(photo: str, label: str, number: int | None = None) -> StoredImage:
    record = ImageRecord(f"/{photo}.jpg", "/", label, None, 1, 1)
    if number is not None:
        record = BoxRecord.of(record, Box.of(number / 100, 0, 0.5, 0.5), "animal", 1)
    return StoredImage(record, record.path)


def test_whole_photos_are_held_out_and_every_class_trains():
    images = [stored(f"{n}", "cat" if (n + k) % 3 else "dog", k) for n in range(40) for k in range(3)]
    images += [stored(f"rare{n}", label, k) for n in range(6) for k, label in enumerate(("cat", f"rare {n}"))]
    for seed in range(5):
        train, val = cut_photos(images, 0.2, seed)
        assert sorted((*train, *val), key=images.index) == images
        assert {one.record.file for one in train}.isdisjoint(one.record.file for one in val)
        assert {one.record.label for one in train} == {one.record.label for one in images}
        assert 15 <= len(val) <= 30


def test_whole_photos_are_cut_as_ever():
    images = [stored(f"{n}", f"class {n % 7}") for n in range(60)]
    train, val = cut_photos(images, 0.15, 3)
    expected = stratified_split([str(one.record.label) for one in images], 0.15, 3)
    assert (train, val) == tuple([images[place] for place in side] for side in expected)
