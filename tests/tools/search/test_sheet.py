"""The contact sheet: looked at by its pixels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from hybrid.images.records import ImageRecord
from hybrid.tools.search import sheet as module
from hybrid.tools.search.search import Hit
from hybrid.tools.search.sheet import MOST, draw_sheet, panels_for, show_image

RED, GREEN, BLUE, GRAY = (200, 20, 20), (20, 200, 20), (20, 20, 200), (221, 221, 221)


@pytest.fixture
def hits(tmp_path):
    made = []
    for number, color in enumerate((RED, GREEN)):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 40), color).save(file)
        record = ImageRecord(str(file), str(tmp_path), r"a $\very$ long_label, 馬 " * 5, None, 1, 1)
        made.append(Hit(record, record.label, 0.5, ("copy",), itself=number == 0))
    return [*made, Hit(ImageRecord(str(tmp_path / "gone.png"), "/", None, None, 1, 1), None, -0.1)]


def spots(file, color):
    """Where a color lies: the mean column of its pixels, None where there are fewer than an image's."""
    picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
    near = (np.abs(picture - color).max(axis=2) <= 2).nonzero()[1]
    return near.mean() if len(near) > 10_000 else None


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def test_images_stand_in_their_order_and_lost_ones_are_gray(hits, tmp_path):
    unreadable = draw_sheet(hits, tmp_path / "sheet.png", title=r"a $\horse$ with_ many words " * 9)
    columns = [spots(tmp_path / "sheet.png", color) for color in (RED, GREEN, GRAY)]
    assert columns == sorted(columns)
    assert unreadable == [str(tmp_path / "gone.png")]
    assert Image.open(tmp_path / "sheet.png").format == "PNG"
    assert not list(tmp_path.glob("*.part"))


def test_the_image_that_was_searched_with_comes_first(hits, tmp_path):
    query = Image.new("RGB", (30, 60), BLUE)
    draw_sheet(hits[:1], tmp_path / "sheet.png", title="t", query=query)
    assert spots(tmp_path / "sheet.png", BLUE) < spots(tmp_path / "sheet.png", RED)


def test_names(hits):
    long = hits[0].record.path.rsplit("/", 2)[1:]
    assert "/".join(long) + " (+1 copies)" in module._name(hits[0]).replace("\n", " ")
    assert "(the photo itself)" in module._name(hits[0]).replace("\n", " ")
    in_its_class = Hit(ImageRecord("/data/zebra/1.jpg", "/data", "zebra", None, 1, 1), "zebra", 1.0)
    assert module._name(in_its_class) == "1.jpg"


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (5, (1, 5)), (6, (2, 5)), (20, (4, 5))])
def test_panels(count, shape):
    figure, panels = panels_for(count)
    assert len(panels) == count
    assert len(figure.axes) == shape[0] * shape[1]
    assert panels[-1].get_subplotspec().get_gridspec().get_geometry() == shape


def test_a_image_is_shown_whole():
    _, (panel,) = panels_for(1)
    show_image(panel, Image.new("RGB", (10, 40), (0, 0, 0)))
    shown = panel.images[0].get_array()
    assert shown.shape == (224, 224, 3)
    assert (shown == 0).all(axis=2).mean() == pytest.approx(0.25)


def test_no_more_than_matplotlib_can_draw(hits, tmp_path, monkeypatch):
    counts = []
    monkeypatch.setattr(module, "MOST", 2)
    monkeypatch.setattr(module, "panels_for", lambda count: counts.append(count) or panels_for(count))
    draw_sheet(hits, tmp_path / "sheet.png", title="t")
    assert counts == [2]
    rows = (MOST + 1) / module.COLUMNS
    assert (3.15 * rows + 0.5) * 100 < 65_536
