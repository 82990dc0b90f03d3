"""Sequences in several splits, and bursts, by hand."""

from __future__ import annotations

from hybrid.images.records import ImageRecord
from hybrid.tools.audit.duplicates import Duplicate, DuplicateGroup
from hybrid.tools.audit.leakage import find_leakage, is_burst


def image(path, split=None, sequence=None, time=None, source="/d/all.csv"):
    return ImageRecord(path, source, "fox", split, 1, 1, sequence=sequence, time=time)


def test_sequences_in_several_splits():
    records = [
        image("/1", "train", "a", source="/d/train.csv"),
        image("/2", "test", "a", source="/d/test.csv"),
        image("/3", "test", "a", source="/d/test.csv"),
        # Another folder's manifest counts its own.
        image("/4", "train", "1"),
        image("/5", "test", "1", source="/e/all.csv"),
        # Without a split or a sequence nothing leaks.
        image("/6", "train", "b"),
        image("/7", None, "b"),
        image("/8", "train"),
        image("/9", "test"),
        image("/x", "val", "c"),
        image("/y", "train", "c"),
    ]
    found = find_leakage(records)
    assert [(one.sequence, one.splits) for one in found.split] == [
        ("a", {"test": 2, "train": 1}),
        ("c", {"train": 1, "val": 1}),
    ]
    assert (found.sequences, found.images) == (5, 5)


def test_bursts():
    at = "2025-07-14T06:12:{:02d}".format
    assert is_burst([image("/1", sequence="a"), image("/2", sequence="a")])
    assert not is_burst([image("/1", sequence="a"), image("/2", sequence="b")])
    assert not is_burst([image("/1", sequence="a"), image("/2")])
    assert not is_burst([image("/1", sequence="a"), image("/2", sequence="a", source="/d/other.csv")])
    assert is_burst([image("/1", time=at(1)), image("/2", time=at(20)), image("/3", time=at(11))])
    assert not is_burst([image("/1", time=at(1)), image("/2", time=at(12))])
    assert not is_burst([image("/1", time="2025-07-14"), image("/2", time="2025-07-14")])
    frames = [Duplicate(image(f"/{i}", sequence="a"), f"content {i}", 0.99) for i in range(2)]
    assert DuplicateGroup(tuple(frames), 0.99).burst
    copies = [Duplicate(image(f"/{i}", sequence="a"), "one content", 1.0) for i in range(2)]
    assert not DuplicateGroup(tuple(copies), 1.0).burst
