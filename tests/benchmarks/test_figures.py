"""The pictures of the benchmarks' figures: what stands in them, and what no picture is drawn of."""

import json

import few_shot_figure
import gzsl_figure
import pytest
import throughput_figure
import throughput_table as names
from gzsl_figure import OWN, PEER
from matplotlib.colors import to_hex
from PIL import Image

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


@pytest.fixture
def picture(tmp_path):
    """Write the JSON, run the module on it, open the picture."""

    def picture(module, found, *options, files=1):
        file, out = tmp_path / "found.json", tmp_path / "picture.png"
        file.write_text(found if isinstance(found, str) else json.dumps(found))
        module.main([*[str(file)] * files, "--out", str(out), *options])
        with Image.open(out) as image:
            return image.convert("RGB")

    return picture


def test_gzsl_picture(picture):
    single = picture(gzsl_figure, GZSL, "--names", "Gaussians")
    assert single.width == 1600
    assert single.getpixel((2, 2)) == WHITE
    assert OWN in {to_hex([part / 255 for part in color]) for _, color in single.getcolors(maxcolors=1 << 20)}
    double = picture(gzsl_figure, GZSL, "--names", "one", "other", files=2)
    assert double.height == pytest.approx(2 * single.height, abs=2)


def test_gzsl_rows_stand_by_harmonic_mean():
    left, right = gzsl_figure.draw({"Gaussians": GZSL}).axes
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


def test_without_three_ways_one_panel(picture):
    image = picture(few_shot_figure, FEW_SHOT | {"three_way": None})
    assert image.width == few_shot_figure.WIDTH / 2 * few_shot_figure.DPI
    assert image.getpixel((2, 2)) == WHITE


def test_throughput_bars(picture):
    build, predict = throughput_figure.draw(RATES, "a machine").axes
    assert [bar.get_width() for bar in build.patches] == [15.0, 36.0, 38.0]
    assert [to_hex(bar.get_facecolor()) for bar in build.patches] == [to_hex(color) for color in (PEER, OWN, PEER)]
    assert [bar.get_width() for bar in predict.patches] == [35.0]
    assert picture(throughput_figure, {"rates": RATES, "device": "cpu"}).getpixel((2, 2)) == WHITE


LACKING = GZSL | {"methods": GZSL["methods"] | {"mass": {"harmonic_mean": 0.8, "ece": None}}}


@pytest.mark.parametrize(
    ("module", "content", "message"),
    [
        (gzsl_figure, LACKING, "lacks figures of mass"),
        (gzsl_figure, "[]", "is not what"),
        (throughput_figure, "{}", "is not what benchmarks"),
        *[
            (few_shot_figure, content, r"is not what benchmarks/few_shot\.py writes")
            for content in ("{}", "[]", "no json", '{"methods": {"hybrid": {}}, "shots": [1]}')
        ],
    ],
)
def test_another_file(picture, module, content, message):
    with pytest.raises(SystemExit, match=message):
        picture(module, content)
