"""What the contact sheet of a search shows."""

from __future__ import annotations

import pytest
from PIL import Image

from hybrid.images.records import ImageRecord
from hybrid.tools.search import sheet as module
from hybrid.tools.search.search import Hit


@pytest.fixture
def drawn(monkeypatch):
    """The tiles and the title of the last sheet."""
    sheets = []
    monkeypatch.setattr(module, "draw_contact_sheet", lambda tiles, title, file: sheets.append((tiles, title)) or [])
    return lambda *given, **options: module.draw_sheet(*given, None, **options) or sheets[-1]


def hit(path="/data/zebra/1.jpg", label="zebra", **fields):
    return Hit(ImageRecord(path, "/data", label, None, 1, 1), label, 0.5, **fields)


def test_hits_in_their_order(drawn):
    tiles, title = drawn([hit(), hit("/b.png", None)], title="many words " * 9)
    assert [tile.name for tile in tiles] == ["/data/zebra/1.jpg", "/b.png"]
    assert [tile.above for tile in tiles] == ["1:  0.500\nzebra", "2:  0.500\nno label"]
    assert max(map(len, title.splitlines())) <= 48
    (tile,), _ = drawn([hit(label="a very long label " * 9)], title="t")
    assert len(tile.above.splitlines()) == 4
    assert tile.above.endswith("…")


def test_the_image_that_was_searched_with_comes_first(drawn):
    query = Image.new("RGB", (30, 60))
    (first, second), _ = drawn([hit()], title="t", query=query)
    assert first.read() is query
    assert (first.framed, second.framed) == (True, False)


def test_names(drawn):
    elsewhere = hit("/data/x/1.jpg", copies=("copy",), itself=True)
    tiles, _ = drawn([hit(), elsewhere], title="t")
    assert [tile.below.replace("\n", " ") for tile in tiles] == ["1.jpg", "x/1.jpg (+1 copies) (the photo itself)"]


def test_no_more_than_matplotlib_can_draw(drawn):
    tiles, _ = drawn([hit()] * (module.MOST + 1), title="t")
    assert len(tiles) == module.MOST
    assert (3.15 * (module.MOST + 1) / module.COLUMNS + 0.5) * 100 < 65_536
