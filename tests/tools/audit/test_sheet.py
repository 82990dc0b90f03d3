"""The contact sheet: every image drawn, with its label and the suggested one; lost images are gray."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from hybrid.images.records import ImageRecord
from hybrid.tools.audit import sheet
from hybrid.tools.audit.labels import Suspect

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


@pytest.fixture
def suspects(tmp_path):
    def make(count, label="cup"):
        found = []
        for number in range(count):
            file = tmp_path / f"{number}.png"
            Image.new("RGB", (40, 30), (RED, GREEN, BLUE)[number % 3]).save(file)
            record = ImageRecord(str(file), str(tmp_path), label, None, 1, 1)
            found.append(Suspect(record, (), label, "mug of $5$ & $6$", 0.02, 0.955, None, ()))
        return found

    return make


def colors_in(file):
    pixels = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
    return [int((pixels == color).all(axis=1).sum()) for color in (RED, GREEN, BLUE)]


def test_each_image_is_drawn_with_both_labels(suspects, tmp_path, monkeypatch):
    said = []
    for name in ("set_title", "set_xlabel"):
        real = getattr(Axes, name)
        monkeypatch.setattr(
            Axes, name, lambda self, text, real=real, **k: said.append((text, k)) or real(self, text, **k)
        )
    assert sheet.draw_suspects(suspects(2), tmp_path / "s.png") == []
    red, green, blue = colors_in(tmp_path / "s.png")
    assert red == pytest.approx(green, rel=0.05)
    assert red > 10_000
    assert blue == 0
    assert [text.replace("\u00a0", " ") for text, _ in said] == ["cup 2%", "mug of $5$ & $6$ 96%"] * 2
    assert [options["color"] for _, options in said] == [sheet.GIVEN, sheet.SUGGESTED] * 2
    assert all(options["parse_math"] is False for _, options in said)
    assert sorted(p.name for p in tmp_path.glob("*.part")) == []


def test_the_first_ones_are_drawn(suspects, tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "MOST", 1)
    sheet.draw_suspects(suspects(3), tmp_path / "s.png")
    red, green, blue = colors_in(tmp_path / "s.png")
    assert red > 10_000
    assert green == blue == 0


def test_lost_images_are_gray_and_named(suspects, tmp_path):
    given = suspects(2, label="x" * 300)
    (tmp_path / "1.png").unlink()
    assert sheet.draw_suspects(given, tmp_path / "s.png") == [str(tmp_path / "1.png")]
    red, green, _ = colors_in(tmp_path / "s.png")
    assert red > 10_000
    assert green == 0
