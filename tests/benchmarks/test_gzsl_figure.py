"""benchmarks/gzsl_figure.py: what stands in the picture."""

import json

import gzsl_figure
import pytest
from PIL import Image


@pytest.fixture
def written(tmp_path):
    def rows(add):
        figures = {"clip": (0.8, 0.1), "hybrid": (0.9, 0.02), "mass": (0.85, 0.01)}
        return {name: {"harmonic_mean": hm + add, "ece": ece + add} for name, (hm, ece) in figures.items()}

    found = {
        "file": "some/where/vectors.npz",
        "model": "gaussians",
        "seeds": [0, 1],
        "classes": {"seen": 9, "unseen": 3},
        "methods": rows(0.0),
        "per_seed": {"0": {"methods": rows(-0.01)}, "1": {"methods": rows(0.01)}},
    }
    file = tmp_path / "gzsl.json"
    file.write_text(json.dumps(found))
    return file


def test_picture(written, tmp_path):
    out = tmp_path / "gate.png"
    gzsl_figure.main([str(written), "--out", str(out), "--names", "Gaussians"])
    with Image.open(out) as image:
        assert image.width == 1600
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
        own = tuple(int(gzsl_figure.OWN[i : i + 2], 16) for i in (1, 3, 5))
        assert own in {color for _, color in image.convert("RGB").getcolors(maxcolors=1 << 20)}
    two = tmp_path / "two.png"
    gzsl_figure.main([str(written), str(written), "--out", str(two), "--names", "one", "other"])
    with Image.open(out) as single, Image.open(two) as double:
        assert double.height == pytest.approx(2 * single.height, abs=2)


def test_rows_stand_by_harmonic_mean(written):
    found = gzsl_figure.read(written)
    figure = gzsl_figure.draw({"Gaussians": found})
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["CLIP alone", "zero-shot mass gate", "hybrid"]
    assert [text.get_text() for text in left.texts] == [".800", ".850", ".900"]
    assert [text.get_text() for text in right.texts] == [".100", ".010", ".020"]
    title = gzsl_figure.title("Gaussians", found)
    assert title == "Gaussians: 9 seen, 3 unseen classes; vectors: gaussians; mean of seeds 0, 1"


def test_wrong_files_are_named(written, tmp_path):
    found = json.loads(written.read_text())
    found["methods"]["mass"]["ece"] = None
    written.write_text(json.dumps(found))
    with pytest.raises(SystemExit, match="lacks figures of mass"):
        gzsl_figure.main([str(written), "--out", str(tmp_path / "gate.png")])
    written.write_text("[]")
    with pytest.raises(SystemExit, match="is not what"):
        gzsl_figure.main([str(written), "--out", str(tmp_path / "gate.png")])
