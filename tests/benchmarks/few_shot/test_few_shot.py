"""benchmarks.few_shot on small Gaussian classes: what it draws, its JSON, what it may look at, what it refuses."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from benchmarks.few_shot import __main__ as few_shot
from benchmarks.few_shot.scene import draw

BENCHMARK, DEFAULTS = few_shot, ("--shots", "1,3", "--seeds", "0")
WITHOUT_TEXT = (2, 5)
NAMED = [0, 1, 3, 4, 6, 7]
BASELINES = ["zero-shot", "prototypes", "tip-adapter", "tip-adapter-f", "linear-probe", "gda", "clap"]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def arrays(gaussian_classes):
    """Eight classes; two have no text vector, and class 0 has two images fewer than the others in each split."""
    shots = {split: [count - 2] + [count] * 7 for split, count in (("train", 5), ("val", 2), ("test", 6))}
    return gaussian_classes(8, 16, noise=0.3, text_noise=0.7, shots=shots, without_text=WITHOUT_TEXT)


def test_draw():
    target = np.array([1, 0, 1, 1, 0, 2, 1, 0, 1])
    rng = np.random.default_rng(4)
    order = [rng.permutation(rows) for rows in ([1, 4, 7], [0, 2, 3, 6, 8], [5])]
    for shots in (1, 2, 4, 9):
        expected = sorted(row for rows in order for row in rows[:shots].tolist())
        assert draw(target, 3, shots, 4).tolist() == expected
    assert draw(target, 3, 9, 0).tolist() == list(range(9))
    assert len({tuple(draw(target, 3, 2, seed)) for seed in range(20)}) > 5
    assert draw(target, 4, 1, 0).tolist() == draw(target, 3, 1, 0).tolist()


def test_json(arrays, first):
    assert [name for name in first["methods"] if name != "hybrid"] == BASELINES
    assert (first["model"], first["shots"], first["seeds"]) == ("gaussians", [1, 3], [0])
    assert first["file"].endswith("vectors.npz")
    assert first["classes"] == {"in_file": 8, "with_text": 6}
    assert first["photos"] == {"train": 28, "test": 34}
    assert first["per_seed"] == {"0": first["methods"]}
    assert all(list(row) == ["1", "3"] and min(row.values()) > 0.5 for row in first["methods"].values())


def test_scores_are_mean_per_class_accuracy(arrays, first):
    """By scikit-learn; class 0 has fewer test images than the others."""
    rows = np.isin(arrays["test_label"], NAMED)
    images, target = arrays["test_embedding"][rows], np.searchsorted(NAMED, arrays["test_label"][rows])
    zero_shot = (images @ arrays["class_text"][NAMED].astype(float).T).argmax(axis=1)
    expected = balanced_accuracy_score(target, zero_shot)
    assert expected != pytest.approx(np.mean(zero_shot == target))
    assert first["methods"]["zero-shot"] == {"1": pytest.approx(expected), "3": pytest.approx(expected)}

    train = np.isin(arrays["train_label"], NAMED)
    known, labels = arrays["train_embedding"][train], np.searchsorted(NAMED, arrays["train_label"][train])
    drawn = draw(labels, 6, 3, 0)
    means = unit(np.stack([known[drawn][labels[drawn] == c].mean(axis=0) for c in range(6)]))
    found = balanced_accuracy_score(target, (images @ means.T).argmax(axis=1))
    assert first["methods"]["prototypes"]["3"] == pytest.approx(found)


def test_mean_over_seeds_and_the_table(run, assert_is_mean, arrays, first, capsys):
    found = run(arrays, "--shots", "3,1", "--seeds", "1,0")
    assert (found["shots"], found["seeds"]) == ([3, 1], [1, 0])
    assert found["per_seed"]["0"] == first["methods"]
    assert_is_mean(found["methods"], found["per_seed"].values())
    shown = capsys.readouterr().out
    assert "6 classes; mean of seeds 1, 0" in shown
    cells = [[c.strip() for c in line.strip("│").split("│")] for line in shown.splitlines() if line.startswith("│")]
    cells, ways = cells[: len(found["methods"])], cells[len(found["methods"]) :]
    assert [row[0] for row in cells] == list(found["methods"])
    assert {row[0] for row in ways if row[0]} >= {"photos alone, all shown"}
    for column, shots in enumerate(("3", "1"), start=1):
        best = max(row[shots] for row in found["methods"].values())
        for row in cells:
            value = found["methods"][row[0]][shots]
            assert row[column] == (f"{value:.4f}*" if value == best else f"{value:.4f}")


def test_every_method_learns_from_the_same_images(run, arrays, monkeypatch):
    given = []

    class Recorder:
        def __init__(self, name, scale):
            self.scale = scale

        def fit(self, embeddings, labels, texts):
            given.append((embeddings, labels, texts, self.scale))
            return self

        def logits(self, embeddings):
            return np.zeros((len(embeddings), 6))

    monkeypatch.setattr(few_shot, "make_expert", Recorder)
    found = run(arrays, "--shots", "2,4", "--seeds", "3")
    assert len(given) == 2 * len(found["methods"])
    rows = np.isin(arrays["train_label"], NAMED)
    known, labels = arrays["train_embedding"][rows], np.searchsorted(NAMED, arrays["train_label"][rows])
    for shots, calls in ((2, given[: len(given) // 2]), (4, given[len(given) // 2 :])):
        drawn = draw(labels, 6, shots, 3)
        assert np.bincount(labels[drawn]).tolist() == [min(shots, 3)] + [shots] * 5
        for images, classes, texts, scale in calls:
            np.testing.assert_allclose(images, known[drawn], atol=1e-3)
            np.testing.assert_array_equal(classes, labels[drawn])
            np.testing.assert_allclose(texts, arrays["class_text"][NAMED], atol=1e-3)
            assert scale == 20


def test_val_images_and_classes_without_a_text_change_nothing(run, without, spoiled, arrays, first):
    changed = spoiled(arrays, train=WITHOUT_TEXT, test=WITHOUT_TEXT, val=range(8))
    assert run(changed)["methods"] == first["methods"]
    assert run(without(arrays, val=range(8)))["methods"] == first["methods"]


def test_a_class_without_train_images_is_known_by_text(run, without, arrays, capsys):
    found = run(without(arrays, train=[4]))
    assert "known by text alone: class [4]" in capsys.readouterr().err
    assert found["methods"]["tip-adapter"]["3"] > found["methods"]["linear-probe"]["3"] > 0.5


def test_what_is_wrong_is_named(refusal, without, arrays):
    lacking = {name: value for name, value in arrays.items() if not name.startswith("val")}
    assert "no val_embedding, val_label" in refusal(lacking)
    assert "too few photos of classes with a text vector" in refusal(without(arrays, test=range(8)))
    nameless = {"class_text": np.full_like(arrays["class_text"], np.nan)}
    assert "0 train, 0 test" in refusal({**arrays, **nameless})


@pytest.mark.parametrize("options", [("--shots", "0"), ("--shots", "1,1"), ("--shots", "a"), ("--seeds", "0,0")])
def test_wrong_options(refusal, arrays, options, capsys):
    assert refusal(arrays, *options) == "2"
    assert options[0] in capsys.readouterr().err


def test_json_needs_a_folder(tmp_path, capsys):
    with pytest.raises(SystemExit):
        few_shot.main(["--embeddings", "x.npz", "--json", str(tmp_path / "no" / "out.json")])
    assert "there is no folder" in capsys.readouterr().err
