"""benchmarks/few_shot.py on small Gaussian classes: what it draws, its JSON, what it may look at, what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

import few_shot  # noqa: E402
from few_shot_draw import draw  # noqa: E402

CLASSES, DIM, SCALE = 8, 16, 20
WITHOUT_TEXT = (2, 5)
NAMED = [0, 1, 3, 4, 6, 7]
BASELINES = ["zero-shot", "prototypes", "tip-adapter", "tip-adapter-f", "linear-probe", "gda", "clap"]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def arrays():
    """Eight classes around random directions; two have no text vector, and class 0 but three train images."""
    rng = np.random.default_rng(5)
    centers = unit(rng.normal(size=(CLASSES, DIM)))
    texts = unit(centers + 0.7 * unit(rng.normal(size=(CLASSES, DIM)))).astype(np.float16)
    texts[list(WITHOUT_TEXT)] = np.nan
    found = {
        "class_names": np.array([f"class [{i}]" for i in range(CLASSES)]),
        "class_text": texts,
        "logit_scale": np.float32(SCALE),
        "model": "gaussians",
    }
    for split, shots in (("train", 5), ("val", 2), ("test", 6)):
        labels = rng.permutation(np.repeat(np.arange(CLASSES), [shots - 2] + [shots] * (CLASSES - 1)))
        found[f"{split}_embedding"] = unit(centers[labels] + 0.3 * rng.normal(size=(len(labels), DIM)))
        found[f"{split}_label"] = labels.astype(np.int16)
    return found


def run(arrays, folder, *options):
    """Write the file, run main, give the JSON; K of 1 and 3 and seed 0 unless told."""
    np.savez(folder / "vectors.npz", **arrays)
    out = folder / "out.json"
    chosen = options or ("--shots", "1,3", "--seeds", "0")
    few_shot.main(["--embeddings", str(folder / "vectors.npz"), "--json", str(out), *chosen])
    return json.loads(out.read_text(encoding="utf-8"))


def refusal(arrays, folder, *options):
    with pytest.raises(SystemExit) as caught:
        run(arrays, folder, *options)
    return str(caught.value)


@pytest.fixture(scope="module")
def first(arrays, tmp_path_factory):
    return run(arrays, tmp_path_factory.mktemp("first"))


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


def test_mean_over_seeds_and_the_table(arrays, first, tmp_path, capsys):
    found = run(arrays, tmp_path, "--shots", "3,1", "--seeds", "1,0")
    assert (found["shots"], found["seeds"]) == ([3, 1], [1, 0])
    assert found["per_seed"]["0"] == first["methods"]
    for name, row in found["methods"].items():
        for shots, value in row.items():
            assert value == pytest.approx(np.mean([found["per_seed"][seed][name][shots] for seed in "01"]))
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


def test_every_method_learns_from_the_same_images(arrays, tmp_path, monkeypatch):
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
    found = run(arrays, tmp_path, "--shots", "2,4", "--seeds", "3")
    assert len(given) == 2 * len(found["methods"])
    rows = np.isin(arrays["train_label"], NAMED)
    known, labels = arrays["train_embedding"][rows], np.searchsorted(NAMED, arrays["train_label"][rows])
    for shots, calls in ((2, given[: len(given) // 2]), (4, given[len(given) // 2 :])):
        drawn = draw(labels, 6, shots, 3)
        assert np.bincount(labels[drawn]).tolist() == [min(shots, 3)] + [shots] * 5
        for images, classes, texts, scale in calls:
            np.testing.assert_allclose(images, known[drawn], atol=1e-6)
            np.testing.assert_array_equal(classes, labels[drawn])
            np.testing.assert_allclose(texts, arrays["class_text"][NAMED], atol=1e-3)
            assert scale == SCALE


def test_val_images_and_classes_without_a_text_change_nothing(arrays, first, tmp_path):
    changed = {**arrays, "val_embedding": -arrays["val_embedding"][::-1], "val_label": 0 * arrays["val_label"]}
    for split in ("train", "test"):
        hidden = np.isin(arrays[f"{split}_label"], WITHOUT_TEXT)[:, None]
        changed[f"{split}_embedding"] = np.where(hidden, -arrays[f"{split}_embedding"], arrays[f"{split}_embedding"])
    assert run(changed, tmp_path)["methods"] == first["methods"]
    none = {f"val_{part}": arrays[f"val_{part}"][:0] for part in ("embedding", "label")}
    assert run({**arrays, **none}, tmp_path)["methods"] == first["methods"]


def test_more_than_there_is_takes_all(arrays, tmp_path):
    found = run(arrays, tmp_path, "--shots", "5,64", "--seeds", "0")
    assert all(row["5"] == row["64"] for row in found["methods"].values())


def test_a_class_without_train_images_is_known_by_text(arrays, tmp_path, capsys):
    rows = arrays["train_label"] != 4
    lacking = {f"train_{part}": arrays[f"train_{part}"][rows] for part in ("embedding", "label")}
    found = run({**arrays, **lacking}, tmp_path)
    assert "known by text alone: class [4]" in capsys.readouterr().err
    assert found["methods"]["tip-adapter"]["3"] > found["methods"]["linear-probe"]["3"] > 0.5


def test_the_command_gives_the_same_json_again(arrays, first, tmp_path):
    np.savez(tmp_path / "vectors.npz", **arrays)
    command = [sys.executable, str(BENCHMARKS / "few_shot.py"), "--embeddings", "vectors.npz", "--shots", "1,3"]
    again = [*command, "--seeds", "0", "--json", "out.json"]
    done = subprocess.run(again, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "zero-shot" in done.stdout
    other = json.loads((tmp_path / "out.json").read_text())
    assert {**other, "file": ""} == {**first, "file": ""}


def test_what_is_wrong_is_named(arrays, tmp_path):
    lacking = {name: value for name, value in arrays.items() if not name.startswith("val")}
    assert "no val_embedding, val_label" in refusal(lacking, tmp_path)
    none = {f"test_{part}": arrays[f"test_{part}"][:0] for part in ("embedding", "label")}
    assert "too few photos of classes with a text vector" in refusal({**arrays, **none}, tmp_path)
    nameless = {"class_text": np.full_like(arrays["class_text"], np.nan)}
    assert "0 train, 0 test" in refusal({**arrays, **nameless}, tmp_path)


@pytest.mark.parametrize("options", [("--shots", "0"), ("--shots", "1,1"), ("--shots", "a"), ("--seeds", "0,0")])
def test_wrong_options(arrays, tmp_path, options, capsys):
    assert refusal(arrays, tmp_path, *options) == "2"
    assert options[0] in capsys.readouterr().err


def test_json_needs_a_folder(tmp_path, capsys):
    with pytest.raises(SystemExit):
        few_shot.main(["--embeddings", "x.npz", "--json", str(tmp_path / "no" / "out.json")])
    assert "there is no folder" in capsys.readouterr().err
