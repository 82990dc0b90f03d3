"""The pictures of the benchmarks' figures: what stands in them, and what no picture is drawn of."""

import json

import pytest
from matplotlib.colors import to_hex
from PIL import Image

from benchmarks import figures
from benchmarks.few_shot import figure as few_shot_figure
from benchmarks.gzsl import figure as gzsl_figure
from benchmarks.kit.figure import OWN, PEER
from benchmarks.throughput import figure as throughput_figure
from benchmarks.throughput import table as names

RATES = {names.BUILD: 36.0, names.DATALOADER: 15.0, names.CEILING: 38.0, names.PREDICT: 35.0, "decode 12 MP: x": 70.0}
WHITE = (255, 255, 255)


def gzsl_rows(add):
    figures = {"clip": (0.8, 0.1), "hybrid": (0.9, 0.02), "mass": (0.85, 0.01)}
    return {name: {"harmonic_mean": hm + add, "ece": ece + add} for name, (hm, ece) in figures.items()}


GZSL = {
    "file": "some/where/vectors.npz",
    "model": "gaussians",
    "seeds": [0, 1],
    "classes": {"seen": 9, "unseen": 3},
    "methods": gzsl_rows(0.0),
    "per_seed": {"0": {"methods": gzsl_rows(-0.01)}, "1": {"methods": gzsl_rows(0.01)}},
}
WAYS = {
    "named, all shown": {"harmonic_mean": {"0": 0.8, "1": 0.85, "4": 0.9}},
    "photos alone, all shown": {"harmonic_mean": {"1": 0.6, "4": 0.7}},
}
FEW_SHOT = {
    "file": "some/vectors.npz",
    "model": "gaussians",
    "seeds": [0, 1],
    "shots": [1, 4],
    "classes": {"with_text": 12},
    "methods": {"zero-shot": {"1": 0.7, "4": 0.7}, "gda": {"1": 0.7, "4": 0.81}, "hybrid": {"1": 0.75, "4": 0.82}},
    "three_way": {"ways": WAYS},
}


COMPARE = {"results": [{"name": "whole", "trainable": 2_930_000, "accuracy": 0.885}]}
OF = {"gate": GZSL, "few_shot": FEW_SHOT, "speed": {"rates": RATES, "device": "cpu"}, "compare": COMPARE}


@pytest.fixture
def picture(tmp_path):
    """Write the JSON, draw a figure of it, open the picture."""

    def picture(figure, found):
        file = tmp_path / "found.json"
        file.write_text(found if isinstance(found, str) else json.dumps(found))
        figures.main([figure, "--json", str(file), "--name", "Gaussians", "--out", str(tmp_path)])
        with Image.open(tmp_path / f"{figure}.png") as image:
            return image.convert("RGB")

    return picture


@pytest.mark.parametrize("figure", figures.PICTURES)
def test_pictures(picture, figure):
    image = picture(figure, OF[figure])
    assert image.getpixel((2, 2)) == WHITE
    assert figure == "compare" or OWN in {
        to_hex([part / 255 for part in color]) for _, color in image.getcolors(maxcolors=1 << 20)
    }


def test_the_published_figures_can_be_drawn(tmp_path):
    """Each from the data in the docs; the pictures there are these."""
    figures.main(["--out", str(tmp_path)])
    for figure in figures.PICTURES:
        with Image.open(tmp_path / f"{figure}.png") as drawn, Image.open(figures.DOCS / f"{figure}.png") as published:
            assert drawn.size == published.size


def test_gzsl_rows_stand_by_harmonic_mean():
    left, right = gzsl_figure.draw("Gaussians", GZSL).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["CLIP alone", "zero-shot mass gate", "hybrid"]
    assert [text.get_text() for text in left.texts] == [".800", ".850", ".900"]
    assert [text.get_text() for text in right.texts] == [".100", ".010", ".020"]
    title = gzsl_figure.title("Gaussians", GZSL)
    assert title == "Gaussians: 9 seen, 3 unseen classes; vectors: gaussians; mean of seeds 0, 1"


def test_few_shot_lines_hold_the_figures():
    left, right = few_shot_figure.draw("Gaussians", FEW_SHOT).axes
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


def test_without_three_ways_one_panel():
    assert len(few_shot_figure.draw("Gaussians", FEW_SHOT | {"three_way": None}).axes) == 1


def test_throughput_bars():
    build, predict = throughput_figure.draw("photos", {"rates": RATES, "device": "a machine"}).axes
    assert [bar.get_width() for bar in build.patches] == [15.0, 36.0, 38.0]
    assert [to_hex(bar.get_facecolor()) for bar in build.patches] == [to_hex(color) for color in (PEER, OWN, PEER)]
    assert [bar.get_width() for bar in predict.patches] == [35.0]


LACKING = GZSL | {"methods": GZSL["methods"] | {"mass": {"harmonic_mean": 0.8, "ece": None}}}


@pytest.mark.parametrize(
    ("figure", "content", "message"),
    [
        ("gate", LACKING, "no figures of mass"),
        ("gate", "[]", "holds no figures"),
        ("speed", "{}", r"is not what benchmarks\.throughput writes"),
        ("compare", '{"results": [{}]}', "is not what hybrid compare writes"),
        ("few_shot", "no json", "cannot read"),
        ("few_shot", '{"methods": {"hybrid": {}}, "shots": [1]}', r"is not what benchmarks\.few_shot writes"),
    ],
)
def test_another_file(picture, figure, content, message):
    with pytest.raises(SystemExit, match=message):
        picture(figure, content)


@pytest.mark.parametrize("words", [["gait"], ["--json", "x.json"], ["gate", "speed", "--name", "x"]])
def test_wrong_options(words):
    with pytest.raises(SystemExit) as caught:
        figures.main(words)
    assert caught.value.code == 2
