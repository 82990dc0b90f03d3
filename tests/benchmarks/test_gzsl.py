"""benchmarks/gzsl.py on small Gaussian classes: its split, its JSON, what it may look at, what it refuses."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

import gzsl  # noqa: E402

CLASSES, NAMED, DIM = 16, 14, 24
METHODS = [
    "clip",
    "concatenation",
    "calibrated_stacking",
    "cosmo",
    "mass",
    "hierarchical",
    "hierarchical_hubness",
    "hybrid",
]
FIGURES = {"harmonic_mean", "ausuc", "ece", "ece_seen", "ece_unseen", "nll", "gate_auroc", "seen", "unseen", "brier"}
WITHOUT_TEXT = (3, 9)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def arrays():
    """Sixteen classes around random directions; two of them have no text vector."""
    rng = np.random.default_rng(5)
    centers = unit(rng.normal(size=(CLASSES, DIM)))
    texts = unit(centers + 0.5 * unit(rng.normal(size=(CLASSES, DIM)))).astype(np.float16)
    texts[list(WITHOUT_TEXT)] = np.nan
    found = {
        "class_names": np.array([f"class {i}" for i in range(CLASSES)]),
        "class_text": texts,
        "logit_scale": np.float32(20),
        "model": "gaussians",
    }
    for split, shots in (("train", 5), ("val", 4), ("test", 6)):
        labels = rng.permutation(np.repeat(np.arange(CLASSES), shots))
        noise = 0.25 * rng.normal(size=(len(labels), DIM))
        found[f"{split}_embedding"] = unit(centers[labels] + noise).astype(np.float16)
        found[f"{split}_label"] = labels.astype(np.int16)
    return found


def run(arrays, folder, *options):
    """Write the file, run main, give the JSON's text; seed 0 unless told."""
    np.savez(folder / "vectors.npz", **arrays)
    out = folder / "out.json"
    chosen = options or ("--seeds", "0")
    gzsl.main(["--embeddings", str(folder / "vectors.npz"), "--json", str(out), *chosen])
    return out.read_text(encoding="utf-8")


def refusal(arrays, folder, *options):
    with pytest.raises(SystemExit) as caught:
        run(arrays, folder, *options)
    return str(caught.value)


@pytest.fixture(scope="module")
def first(arrays, tmp_path_factory):
    return run(arrays, tmp_path_factory.mktemp("first"))


def unseen_by_hand(seed, fraction=0.25):
    named = [i for i in range(CLASSES) if i not in WITHOUT_TEXT]
    random.Random(seed).shuffle(named)
    return sorted(named[: int(NAMED * fraction)])


@pytest.mark.parametrize(("seed", "fraction"), [(0, 0.25), (1, 0.25), (7, 0.5)])
def test_split_rule(arrays, tmp_path, seed, fraction):
    np.savez(tmp_path / "vectors.npz", **arrays)
    split = gzsl.cut(gzsl.read(tmp_path / "vectors.npz"), fraction, seed)
    unseen = unseen_by_hand(seed, fraction)
    assert list(split.unseen) == unseen
    seen = [i for i in range(CLASSES) if i not in unseen and i not in WITHOUT_TEXT]
    assert list(split.seen) == seen
    order = np.array(seen + unseen)
    for name, classes in (("train", seen), ("val", seen), ("test", seen + unseen)):
        rows = np.isin(arrays[f"{name}_label"], classes)
        images = getattr(split, name)
        np.testing.assert_array_equal(order[images.target], arrays[f"{name}_label"][rows])
        np.testing.assert_allclose(images.embeddings, arrays[f"{name}_embedding"][rows], atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(images.embeddings, axis=1), 1, atol=1e-6)


def test_json(first):
    found = json.loads(first)
    assert list(found["methods"]) == METHODS
    assert all(set(row) == FIGURES for row in found["methods"].values())
    assert found["file"].endswith("vectors.npz")
    assert (found["model"], found["unseen_fraction"], found["seeds"]) == ("gaussians", 0.25, [0])
    assert found["classes"] == {"in_file": 16, "with_text": 14, "seen": 11, "unseen": 3}
    assert found["photos"] == {"train": 70, "val": 56, "test": 84}
    assert set(found["operating_points"]) == {"natural"}
    assert set(found["operating_points"]["natural"]) == FIGURES
    seed = found["per_seed"]["0"]
    assert seed["photos"] == {"train": 55, "val": 44, "test": 84}
    assert seed["unseen_classes"] == [f"class {i}" for i in unseen_by_hand(0)]
    assert seed["methods"] == found["methods"]
    assert seed["operating_points"] == found["operating_points"]
    for row in [*found["methods"].values(), *found["operating_points"].values()]:
        assert row["harmonic_mean"] > 0.5
        assert np.isclose(row["harmonic_mean"], 2 * row["seen"] * row["unseen"] / (row["seen"] + row["unseen"]))


def test_mean_over_seeds(arrays, first, tmp_path, capsys):
    found = json.loads(run(arrays, tmp_path, "--seeds", "1,0"))
    assert found["seeds"] == [1, 0]
    assert found["per_seed"]["0"] == json.loads(first)["per_seed"]["0"]
    for group in ("methods", "operating_points"):
        for name, row in found[group].items():
            for figure, value in row.items():
                assert value == pytest.approx(np.mean([found["per_seed"][s][group][name][figure] for s in "01"]))
    support = capsys.readouterr().out
    assert all(name in support for name in METHODS)
    best = max(row["ausuc"] for row in found["methods"].values())
    assert f"{best:.4f}*" in support
    rows = [line.split("│")[1].strip() for line in support.splitlines() if line.startswith("│")]
    assert rows == [*METHODS, "hybrid, same fit, asked for", "balance natural"]
    assert "microseconds a photo" in support


def test_the_natural_point_is_the_same_fit_elsewhere(first):
    found = json.loads(first)
    natural, equal = found["operating_points"]["natural"], found["methods"]["hybrid"]
    # The odds move by the same number for all images: the order stays, fewer images are called unseen.
    assert natural["gate_auroc"] == equal["gate_auroc"]
    assert natural["ausuc"] == pytest.approx(equal["ausuc"])
    assert natural["seen"] >= equal["seen"]
    assert natural["unseen"] <= equal["unseen"]
    assert natural["nll"] != equal["nll"]


def test_the_command_gives_the_same_json_again(arrays, first, tmp_path):
    np.savez(tmp_path / "vectors.npz", **arrays)
    command = [sys.executable, str(BENCHMARKS / "gzsl.py"), "--embeddings", "vectors.npz", "--seeds", "0"]
    again = [*command, "--unseen-fraction", "0.25", "--json", "out.json"]
    done = subprocess.run(again, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "balance natural" in done.stdout
    other = json.loads((tmp_path / "out.json").read_text())
    assert {**other, "file": ""} == {**json.loads(first), "file": ""}


def test_no_torch():
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import gzsl; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_images_of_unseen_classes_are_not_used_before_the_test(arrays, first, tmp_path):
    hidden = [*unseen_by_hand(0), *WITHOUT_TEXT]
    changed = dict(arrays)
    for split in ("train", "val"):
        rows = np.isin(arrays[f"{split}_label"], hidden)
        changed[f"{split}_embedding"] = np.where(
            rows[:, None], -arrays[f"{split}_embedding"][:, ::-1], arrays[f"{split}_embedding"]
        )
    assert figures(run(changed, tmp_path)) == figures(first)
    dropped = dict(arrays)
    for split in ("train", "val"):
        rows = ~np.isin(arrays[f"{split}_label"], hidden)
        dropped |= {f"{split}_{part}": arrays[f"{split}_{part}"][rows] for part in ("embedding", "label")}
    assert figures(run(dropped, tmp_path)) == figures(first)


def test_classes_without_a_text_are_left_out(arrays, first, tmp_path):
    changed = dict(arrays)
    rows = np.isin(arrays["test_label"], WITHOUT_TEXT)
    changed["test_embedding"] = np.where(rows[:, None], -arrays["test_embedding"], arrays["test_embedding"])
    assert figures(run(changed, tmp_path)) == figures(first)


def figures(text):
    return json.loads(text)["methods"]


def test_gaps_are_no_error(arrays, tmp_path):
    """A seen class without val images, others without test images, the unseen ones nowhere but in test."""
    unseen = unseen_by_hand(0)
    seen = [i for i in range(CLASSES) if i not in unseen and i not in WITHOUT_TEXT]
    changed = dict(arrays)
    for split, gone in (("train", unseen), ("val", [*unseen, seen[0]]), ("test", [seen[1], unseen[0]])):
        rows = ~np.isin(arrays[f"{split}_label"], gone)
        changed |= {f"{split}_{part}": arrays[f"{split}_{part}"][rows] for part in ("embedding", "label")}
    assert all(row["ausuc"] is not None for row in figures(run(changed, tmp_path)).values())


def test_no_test_image_of_an_unseen_class_is_null(arrays, tmp_path):
    changed = dict(arrays)
    rows = ~np.isin(arrays["test_label"], unseen_by_hand(0))
    changed |= {f"test_{part}": arrays[f"test_{part}"][rows] for part in ("embedding", "label")}
    row = figures(run(changed, tmp_path))["hybrid"]
    assert (row["harmonic_mean"], row["ausuc"], row["unseen"], row["gate_auroc"]) == (None, None, None, None)
    assert row["seen"] > 0.5


def test_few_classes_fall_back_to_the_prior(arrays, tmp_path, capsys):
    changed = dict(arrays)
    changed["class_text"] = arrays["class_text"].copy()
    changed["class_text"][7:] = np.nan
    assert figures(run(changed, tmp_path))["hybrid"]["harmonic_mean"] > 0.5
    assert "falls back to its prior" in capsys.readouterr().err


def test_every_wrong_file_is_named(arrays, tmp_path):
    lacking = {name: value for name, value in arrays.items() if not name.startswith("val")}
    assert "no val_embedding, val_label" in refusal(lacking, tmp_path)
    broken = arrays["train_embedding"].copy()
    broken[2], broken[4] = np.inf, 0
    wrong = {
        "train_embedding holds vectors without a direction": {"train_embedding": broken},
        "the val arrays do not fit": {"val_label": arrays["val_label"][:-1]},
        "the test arrays do not fit": {"test_embedding": arrays["test_embedding"][:, :-1]},
        "a test_label is no class": {"test_label": arrays["test_label"] + 1},
        "class_text does not fit": {"class_text": arrays["class_text"][1:]},
        "logit_scale is wrong": {"logit_scale": np.float32(-1)},
        "cannot read": {"class_names": arrays["class_names"].astype(object)},
    }
    for message, change in wrong.items():
        assert message in refusal({**arrays, **change}, tmp_path), message
    partly = arrays["class_text"].copy()
    partly[0, 0] = np.nan
    assert "class_text holds vectors" in refusal({**arrays, "class_text": partly}, tmp_path)


def test_too_little_is_named(arrays, tmp_path):
    seen = next(i for i in range(CLASSES) if i not in unseen_by_hand(0) and i not in WITHOUT_TEXT)
    rows = arrays["train_label"] != seen
    lacking = {f"train_{part}": arrays[f"train_{part}"][rows] for part in ("embedding", "label")}
    message = refusal({**arrays, **lacking}, tmp_path)
    assert "seed 0: seen classes without train photos" in message
    assert f"class {seen}" in message
    assert "too few classes" in refusal(arrays, tmp_path, "--unseen-fraction", "0.05")
    assert "too few classes" in refusal(arrays, tmp_path, "--unseen-fraction", "0.9")
    empty = {f"val_{part}": arrays[f"val_{part}"][:0] for part in ("embedding", "label")}
    assert "too few photos" in refusal({**arrays, **empty}, tmp_path)
    one = arrays["val_label"] == seen
    single = {f"val_{part}": arrays[f"val_{part}"][one] for part in ("embedding", "label")}
    assert "val photos of too few classes" in refusal({**arrays, **single}, tmp_path)


@pytest.mark.parametrize("options", [("--unseen-fraction", "1"), ("--seeds", "0,0"), ("--seeds", "a")])
def test_wrong_options(arrays, tmp_path, options, capsys):
    assert refusal(arrays, tmp_path, *options) == "2"
    assert options[0] in capsys.readouterr().err


def test_head_is_the_products(arrays, tmp_path):
    """The C that the fold heads take over is the one that gives the whole head."""
    np.savez(tmp_path / "vectors.npz", **arrays)
    split = gzsl.cut(gzsl.read(tmp_path / "vectors.npz"), 0.25, 0)
    head = gzsl.train_probe(split)
    strength = head.c
    assert strength in gzsl.C_GRID
    same = gzsl.train_fold(split, range(len(split.seen)), strength)
    np.testing.assert_allclose(head.weight, same.weight, rtol=0.02, atol=0.02 * np.abs(head.weight).max())
    fold = gzsl.train_fold(split, [0, 2, 5], strength)
    train = split.train.embeddings[np.isin(split.train.target, [0, 2, 5])]
    expected = split.train.target[np.isin(split.train.target, [0, 2, 5])]
    np.testing.assert_array_equal(np.array([0, 2, 5])[fold.logits([], train).argmax(axis=1)], expected)
