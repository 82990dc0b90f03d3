"""What the contact sheet of an audit shows: every image with its label and the suggested one."""

from __future__ import annotations

from hybrid.images.records import ImageRecord
from hybrid.tools.audit import sheet
from hybrid.tools.audit.labels import Suspect


def suspect(path, label="cup"):
    record = ImageRecord(path, "/", label, None, 1, 1)
    return Suspect(record, (), label, "mug of $5$ & $6$", 0.02, 0.955, None, ())


def test_the_first_ones_with_both_labels(monkeypatch):
    sheets = []
    monkeypatch.setattr(sheet, "MOST", 2)
    monkeypatch.setattr(sheet, "draw_contact_sheet", lambda tiles, title, file: sheets.append(tiles) or ["/1.png"])
    lost = sheet.draw_suspects([suspect("/0.png"), suspect("/1.png", "x" * 300), suspect("/2.png")], None)
    assert lost == ["/1.png"]
    first, second = sheets[0]
    assert [first.name, second.name] == ["/0.png", "/1.png"]
    texts = [text.replace("\u00a0", " ") for text in (first.above, first.below)]
    assert texts == ["cup 2%", "mug of $5$ & $6$ 96%"]
    assert (first.color, first.below_color) == (sheet.GIVEN, sheet.SUGGESTED)
    assert len(second.above) < 60
