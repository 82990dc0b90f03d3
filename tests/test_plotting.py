"""The contact sheet: looked at by its pixels, and by what is written on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hybrid import plotting
from hybrid.errors import UnreadableImageError
from hybrid.plotting import Tile, draw_contact_sheet

RED, GREEN, BLUE, LOST = (200, 20, 20), (20, 200, 20), (20, 20, 200), (221, 221, 221)


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    """Draw tiles; gives the figure, the pixels and what was returned."""
    figures = []
    save = plotting.save_png
    monkeypatch.setattr(plotting, "save_png", lambda figure, file: figures.append(figure) or save(figure, file))

    def draw(*tiles, title="t"):
        unreadable = draw_contact_sheet(tiles, title, tmp_path / "sheet.png")
        assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]
        with Image.open(tmp_path / "sheet.png") as image:
            assert image.format == "PNG"
            return figures[-1], np.asarray(image.convert("RGB")).astype(int), unreadable

    return draw


def tile(color, size=(40, 40)):
    def read():
        if color == LOST:
            raise UnreadableImageError("gone")
        return Image.new("RGB", size, color)

    return Tile(f"name of {color}", read, "above")


def column_of(pixels, color):
    """The mean column of a color's pixels; None where there are fewer than an image's."""
    near = (np.abs(pixels - color).max(axis=2) <= 2).nonzero()[1]
    return near.mean() if len(near) > 10_000 else None


def test_images_stand_in_their_order_and_lost_ones_are_gray(sheet):
    _, pixels, unreadable = sheet(tile(RED), tile(GREEN), tile(LOST))
    columns = [column_of(pixels, color) for color in (RED, GREEN, LOST)]
    assert columns == sorted(columns)
    assert column_of(pixels, BLUE) is None
    assert unreadable == [f"name of {LOST}"]


def test_texts_are_no_mathematics(sheet):
    words = r"a $\very$ long_ & <name> $5$"
    first = replace(tile(RED), above=words, color="#123456", bold=True, framed=True)
    first = replace(first, below=words, below_color="#654321", below_size=8.5)
    figure, _, _ = sheet(first, tile(GREEN), title=words)
    panel = figure.axes[0]
    texts = (figure._suptitle, panel.title, panel.xaxis.label)
    assert [text.get_text() for text in texts] == [words] * 3
    assert not any(text.get_parse_math() for text in texts)
    assert [(text.get_color(), text.get_fontsize()) for text in texts[1:]] == [("#123456", 8.5), ("#654321", 8.5)]
    assert panel.title.get_fontweight() == "bold"
    assert [axes.spines["top"].get_visible() for axes in figure.axes] == [True, False]


def test_rows_and_columns(sheet):
    for count, shape in ((1, (1, 1)), (3, (1, 3)), (5, (1, 5)), (6, (2, 5))):
        figure, _, _ = sheet(*[tile(RED)] * count)
        assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == shape
        assert [bool(axes.images) for axes in figure.axes] == [True] * count + [False] * (shape[0] * shape[1] - count)
    # An image is shown whole.
    figure, _, _ = sheet(tile(BLUE, size=(10, 40)))
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (224, 224, 3)
    assert (shown == BLUE).all(axis=2).mean() == pytest.approx(0.25)
