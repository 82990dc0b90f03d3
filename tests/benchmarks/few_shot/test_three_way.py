"""The three ways of benchmarks.few_shot: what is shown to whom, and what the figures are of."""

import numpy as np
import pytest

from benchmarks.few_shot import three_way
from benchmarks.few_shot.scene import draw
from benchmarks.gzsl import __main__ as gzsl
from benchmarks.kit import vectors
from hybrid.gate.policy import Policy

CLASSES, DIM = 16, 12
SHOTS = (1, 4)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    unit = lambda rows: (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)  # noqa: E731
    centers = unit(rng.normal(size=(CLASSES, DIM)))

    def images(each):
        target = np.repeat(np.arange(CLASSES), each)
        return vectors.LabeledEmbeddings(unit(centers[target] + 0.22 * rng.normal(size=(len(target), DIM))), target)

    texts = unit(centers + 0.3 * rng.normal(size=DIM) + 0.25 * rng.normal(size=centers.shape))
    names = tuple(f"class {c}" for c in range(CLASSES))
    return vectors.Data(names, texts, {"train": images(8), "val": images(6), "test": images(12)}, 20.0, "gaussians")


@pytest.fixture(scope="module")
def table(data):
    return three_way.run_seed(data, SHOTS, 0)


def test_every_way_has_its_figures(table):
    for way, (_, named) in three_way.WAYS.items():
        for figure in three_way.FIGURES:
            assert list(table[way][figure]) == (["0"] if named else []) + ["1", "4"]
    for row in table.values():
        for count, value in row["harmonic_mean"].items():
            seen, unseen = row["seen"][count], row["unseen"][count]
            assert value == pytest.approx(2 * seen * unseen / (seen + unseen))


def test_names_alone_are_the_figures_of_gzsl(data, table):
    """The same classes, head and gate as in benchmarks.gzsl: its hybrid row."""
    expected = gzsl.run_seed(data, three_way.UNSEEN_FRACTION, 0, {"equal": Policy()}).methods["hybrid"]
    for way in ("named, all shown", "named, every other shown"):
        assert {figure: table[way][figure]["0"] for figure in three_way.FIGURES} == pytest.approx(
            {figure: expected[figure] for figure in three_way.FIGURES}
        )


def test_images_help(table):
    assert table["named, all shown"]["nll"]["4"] < table["named, all shown"]["nll"]["0"]
    assert table["photos alone, all shown"]["unseen"]["4"] > table["photos alone, all shown"]["unseen"]["1"]


def test_who_is_shown_by_which_images(data, monkeypatch):
    prompted = []
    score = three_way.score

    def record(split, head, gate, memory, images, support, named):
        prompted.append((images, support.tolist(), named, split))
        return score(split, head, gate, memory, images, support, named)

    monkeypatch.setattr(three_way, "score", record)
    three_way.run_seed(data, (4,), 1)
    split = prompted[0][3]
    assert [(len(own[0]), support, named) for own, support, named, _ in prompted] == [
        (0, [0, 1, 2, 3], True),
        (0, [0, 2], True),
        (4, [0, 1, 2, 3], True),
        (4, [0, 2], True),
        (4, [0, 1, 2, 3], False),
    ]
    train = data.images["train"]
    rows = np.flatnonzero(np.isin(train.target, split.unseen))
    labels = np.searchsorted(split.unseen, train.target[rows])
    chosen = draw(labels, 4, 4, 1)
    for number, own in enumerate(prompted[2][0]):
        np.testing.assert_array_equal(own, train.embeddings[rows][chosen[labels[chosen] == number]])
        assert set(train.target[rows[chosen[labels[chosen] == number]]]) == {split.unseen[number]}


def test_mean_of_the_seeds(assert_is_mean, data, table):
    found = three_way.measure(data, SHOTS, (0, 1))
    assert found["per_seed"]["0"] == table
    assert_is_mean(found["ways"], found["per_seed"].values())
