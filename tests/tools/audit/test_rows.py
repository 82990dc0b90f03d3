"""The rows of an audit."""

from __future__ import annotations

import pytest

from hybrid.prediction import Neighbor
from hybrid.tools.audit.audit import Audit
from hybrid.tools.audit.duplicates import Duplicate, DuplicateGroup
from hybrid.tools.audit.labels import Suspect
from hybrid.tools.audit.rows import CSV_COLUMNS, as_csv, as_json, nearest_labels


@pytest.fixture
def found(stored):
    a = stored('/d/a, "1".jpg', "tasse à café", "train", "a")
    b = stored("/d/b.jpg", "mug", None, "b")
    group = DuplicateGroup(
        (Duplicate(a.record, a.sha256, 0.98765432), Duplicate(b.record, b.sha256, 0.98765432)), 0.98765432
    )
    near = tuple(
        Neighbor(f"/d/n{i}.jpg", label, None, 0.9 - i / 10)
        for i, label in enumerate(["pen", "zip", "zip", "pen", "zip"])
    )
    suspect = Suspect(b.record, ("/d/c.jpg",), "mug", "tasse à café", 0.0123456789, 0.9, None, near)
    return Audit(9, 8, 7, 0.98, (group,), (suspect,), ())


def test_json(found):
    group, suspect = as_json(found)
    sha256 = [image.sha256 for image in found.duplicates[0].images]
    assert group == {
        "finding": "duplicates",
        "exact": False,
        "similarity": 0.987654,
        "faults": ["two labels"],
        "labels": ["mug", "tasse à café"],
        "splits": ["train"],
        "photos": [
            {
                "path": '/d/a, "1".jpg',
                "label": "tasse à café",
                "split": "train",
                "sha256": sha256[0],
                "similarity": 0.987654,
            },
            {"path": "/d/b.jpg", "label": "mug", "split": None, "sha256": sha256[1], "similarity": 0.987654},
        ],
    }
    assert suspect.pop("nearest")[1] == {"path": "/d/n1.jpg", "label": "zip", "similarity": 0.8}
    assert suspect == {
        "finding": "label",
        "path": "/d/b.jpg",
        "copies": ["/d/c.jpg"],
        "label": "mug",
        "split": None,
        "suggested": "tasse à café",
        "score": 0.012346,
        "probability": 0.9,
        "zero_shot": None,
    }


def test_csv(found):
    first, second, third = as_csv(found)
    assert {*first, *second, *third} <= set(CSV_COLUMNS)
    assert (first["path"], first["group"], first["faults"]) == ('/d/a, "1".jpg', 1, "two labels")
    assert (second["path"], second["split"], second["similarity"]) == ("/d/b.jpg", None, 0.987654)
    assert (third["finding"], third["path"], "group" in third) == ("label", "/d/b.jpg", False)
    assert (third["suggested"], third["score"], third["nearest"]) == ("tasse à café", 0.012346, "zip 3, pen 2")


@pytest.mark.parametrize("suspects", [None, ()])
def test_nothing_found(suspects):
    audit = Audit(9, 8, 7, 0.98, (), suspects, ())
    assert as_json(audit) == list(as_csv(audit)) == []


def test_labels_of_the_nearest_the_most_frequent_first(found):
    assert nearest_labels(found.suspects[0]) == "zip 3, pen 2"
