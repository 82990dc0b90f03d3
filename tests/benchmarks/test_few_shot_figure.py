"""benchmarks/few_shot_figure.py: what stands in the picture."""

import json

import few_shot_figure
import pytest
from PIL import Image


@pytest.fixture
def found():
    ways = {
        "named, all shown": {"harmonic_mean": {"0": 0.8, "1": 0.85, "4": 0.9}},
        "photos alone, all shown": {"harmonic_mean": {"1": 0.6, "4": 0.7}},
    }
    return {
        "file": "some/vectors.npz",
        "model": "gaussians",
        "seeds": [0, 1],
        "shots": [1, 4],
        "classes": {"with_text": 12},
        "methods": {"zero-shot": {"1": 0.7, "4": 0.7}, "gda": {"1": 0.7, "4": 0.81}, "hybrid": {"1": 0.75, "4": 0.82}},
        "three_way": {"ways": ways},
    }


def test_lines_hold_the_figures(found):
    left, right = few_shot_figure.draw("Gaussians", found).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[0.7, 0.7], [0.7, 0.81], [0.75, 0.82]]
    named, alone = right.lines
    assert (list(named.get_xdata()), list(named.get_ydata())) == ([0, 1, 2], [0.8, 0.85, 0.9])
    # Without a name nothing is known before the first image.
    assert (list(alone.get_xdata()), list(alone.get_ydata())) == ([1, 2], [0.6, 0.7])
    assert [text.get_text() for text in left.texts] == ["zero-shot .700", "gda .810", "hybrid .820"]


def test_labels_do_not_overlap():
    assert few_shot_figure._spread([0.5, 0.1, 0.52], 0.1) == pytest.approx([0.42, 0.1, 0.52])
    placed = few_shot_figure._spread([0.3, 0.3, 0.3, 0.9], 0.05)
    assert placed == pytest.approx([0.3, 0.25, 0.2, 0.9])


def test_without_three_ways_one_panel(found, tmp_path):
    file, out = tmp_path / "few_shot.json", tmp_path / "picture.png"
    file.write_text(json.dumps(found | {"three_way": None}))
    few_shot_figure.main([str(file), "--out", str(out)])
    with Image.open(out) as image:
        assert image.width == few_shot_figure.WIDTH / 2 * few_shot_figure.DPI
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"methods": {"hybrid": {}}, "shots": [1]}'])
def test_another_file(tmp_path, content):
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(SystemExit, match=r"is not what benchmarks/few_shot\.py writes"):
        few_shot_figure.main([str(file), "--out", str(tmp_path / "x.png")])
