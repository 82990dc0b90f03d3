"""The rows of an audit, and its contact sheet: every image with its label and the suggested one."""

from __future__ import annotations

import pytest

from hybrid.images.records import ImageRecord
from hybrid.prediction import Neighbor
from hybrid.tools.audit import rows
from hybrid.tools.audit.audit import Audit
from hybrid.tools.audit.duplicates import Duplicate, DuplicateGroup
from hybrid.tools.audit.labels import Suspect
from hybrid.tools.audit.rows import CSV_COLUMNS, as_csv, as_json

from .conftest import store_image


@pytest.fixture
def audit():
    a = store_image('/d/a, "1".jpg', "tasse à café", "train", "a")
    b = store_image("/d/b.jpg", "mug", None, "b")
    group = DuplicateGroup(
        (Duplicate(a.record, a.sha256, 0.98765432), Duplicate(b.record, b.sha256, 0.98765432)), 0.98765432
    )
    labels = ["pen", "zip", "zip", "pen", "zip"]
    near = tuple(Neighbor(f"/d/n{i}.jpg", label, None, 0.9 - i / 10) for i, label in enumerate(labels))
    wrong = Suspect(b.record, ("/d/c.jpg",), "mug", "tasse à café", 0.0123456789, 0.9, None, near)
    return Audit(9, 8, 7, 0.98, (group,), (wrong,), ())


def test_json(audit):
    group, wrong = as_json(audit)
    sha256 = [image.sha256 for image in audit.duplicates[0].images]
    assert group == {
        "finding": "duplicates",
        "exact": False,
        "similarity": 0.987654,
        "faults": ["two labels"],
        "burst": False,
        "labels": ["mug", "tasse à café"],
        "splits": ["train"],
        "photos": [
            dict(zip(("path", "label", "split", "sha256", "similarity"), values, strict=True))
            for values in (
                ('/d/a, "1".jpg', "tasse à café", "train", sha256[0], 0.987654),
                ("/d/b.jpg", "mug", None, sha256[1], 0.987654),
            )
        ],
    }
    assert wrong.pop("nearest")[1] == {"path": "/d/n1.jpg", "label": "zip", "similarity": 0.8}
    assert wrong == {
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


def test_csv(audit):
    first, second, third = as_csv(audit)
    assert {*first, *second, *third} <= set(CSV_COLUMNS)
    assert (first["path"], first["group"], first["faults"]) == ('/d/a, "1".jpg', 1, "two labels")
    assert (second["path"], second["split"], second["similarity"]) == ("/d/b.jpg", None, 0.987654)
    assert (third["finding"], third["path"], "group" in third) == ("label", "/d/b.jpg", False)
    assert (third["suggested"], third["score"], third["nearest"]) == ("tasse à café", 0.012346, "zip 3, pen 2")
    for nothing in (Audit(9, 8, 7, 0.98, (), suspects, ()) for suspects in (None, ())):
        assert as_json(nothing) == list(as_csv(nothing)) == []


def suspect(path, label="cup"):
    record = ImageRecord(path, "/", label, None, 1, 1)
    return Suspect(record, (), label, "mug of $5$ & $6$", 0.02, 0.955, None, ())


def test_the_sheet_shows_the_first_ones_with_both_labels(monkeypatch):
    sheets = []
    monkeypatch.setattr(rows, "MOST_DRAWN", 2)
    monkeypatch.setattr(rows, "draw_contact_sheet", lambda tiles, title, file: sheets.append(tiles) or ["/1.png"])
    unreadable = rows.draw_suspects([suspect("/0.png"), suspect("/1.png", "x" * 300), suspect("/2.png")], None)
    assert unreadable == ["/1.png"]
    first, second = sheets[0]
    assert [first.name, second.name] == ["/0.png", "/1.png"]
    texts = [text.replace("\u00a0", " ") for text in (first.above, first.below)]
    assert texts == ["cup 2%", "mug of $5$ & $6$ 96%"]
    assert (first.color, first.below_color) == (rows.GIVEN, rows.SUGGESTED)
    assert len(second.above) < 60
