"""Copies of an image are one."""

from hybrid.images.records import ImageRecord
from hybrid.index.contents import by_content, joined_label
from hybrid.index.store import StoredImage


def record(path, label=None):
    return ImageRecord(path, "/data", label, None, 1, 1)


def test_copies_are_grouped_in_order():
    images = [StoredImage(record(path), sha256) for path, sha256 in (("b", "2"), ("a", "1"), ("c", "2"))]
    grouped = by_content(images)
    assert {name: [r.path for r in records] for name, records in grouped.items()} == {"2": ["b", "c"], "1": ["a"]}
    assert list(grouped) == ["2", "1"]
    assert by_content([]) == {}


def test_labels_of_copies_are_joined_once_each():
    assert joined_label([record("a", "zebra"), record("b"), record("c", "ass"), record("d", "zebra")]) == "ass / zebra"
    assert joined_label([record(name, name) for name in "ecbdaf"]) == "a / b / c / d / e / f"
    assert joined_label([record("a", "zebra")]) == "zebra"
    assert joined_label([record("a"), record("b")]) is None
