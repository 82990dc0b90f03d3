"""benchmarks.gzsl on small Gaussian classes: its split, its JSON, what it may look at, what it refuses."""

import random

import numpy as np
import pytest

from benchmarks.gzsl import __main__ as gzsl
from benchmarks.kit import product, vectors

BENCHMARK, DEFAULTS = gzsl, ("--seeds", "0")
CLASSES, NAMED = 16, 14
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
FIGURES = {
    *("harmonic_mean", "ausuc", "ece", "ece_seen", "ece_unseen", "ece_debiased", "nll", "gate_auroc", "seen", "unseen"),
    "brier",
}
WITHOUT_TEXT = (3, 9)


@pytest.fixture(scope="module")
def arrays(gaussian_classes):
    shots = {"train": 5, "val": 4, "test": 6}
    return gaussian_classes(CLASSES, 24, noise=0.25, text_noise=0.5, shots=shots, without_text=WITHOUT_TEXT)


def unseen_by_hand(seed, fraction=0.25):
    named = [i for i in range(CLASSES) if i not in WITHOUT_TEXT]
    random.Random(seed).shuffle(named)
    return sorted(named[: int(NAMED * fraction)])


def seen_by_hand(unseen):
    return [i for i in range(CLASSES) if i not in (*unseen, *WITHOUT_TEXT)]


@pytest.mark.parametrize(("seed", "fraction"), [(0, 0.25), (1, 0.25), (7, 0.5)])
def test_split_rule(arrays, tmp_path, seed, fraction):
    np.savez(tmp_path / "vectors.npz", **arrays)
    split = vectors.cut(vectors.read(tmp_path / "vectors.npz"), fraction, seed)
    unseen = unseen_by_hand(seed, fraction)
    assert list(split.unseen) == unseen
    seen = seen_by_hand(unseen)
    assert list(split.seen) == seen
    order = np.array(seen + unseen)
    for name, classes in (("train", seen), ("val", seen), ("test", seen + unseen)):
        rows = np.isin(arrays[f"{name}_label"], classes)
        images = getattr(split, name)
        np.testing.assert_array_equal(order[images.target], arrays[f"{name}_label"][rows])
        np.testing.assert_allclose(images.embeddings, arrays[f"{name}_embedding"][rows], atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(images.embeddings, axis=1), 1, atol=1e-6)


def test_json(first):
    assert list(first["methods"]) == METHODS
    assert all(set(row) == FIGURES for row in first["methods"].values())
    assert first["file"].endswith("vectors.npz")
    assert (first["model"], first["unseen_fraction"], first["seeds"]) == ("gaussians", 0.25, [0])
    assert first["classes"] == {"in_file": 16, "with_text": 14, "seen": 11, "unseen": 3}
    assert first["photos"] == {"train": 70, "val": 56, "test": 84}
    assert set(first["operating_points"]) == {"half", "natural"}
    assert set(first["operating_points"]["natural"]) == FIGURES
    seed = first["per_seed"]["0"]
    assert seed["photos"] == {"train": 55, "val": 44, "test": 84}
    assert seed["unseen_classes"] == [f"class [{i}]" for i in unseen_by_hand(0)]
    assert seed["methods"] == first["methods"]
    assert seed["operating_points"] == first["operating_points"]
    for row in [*first["methods"].values(), *first["operating_points"].values()]:
        assert row["harmonic_mean"] > 0.5
        assert np.isclose(row["harmonic_mean"], 2 * row["seen"] * row["unseen"] / (row["seen"] + row["unseen"]))


def test_mean_over_seeds(run, assert_is_mean, arrays, first, capsys):
    found = run(arrays, "--seeds", "1,0")
    assert found["seeds"] == [1, 0]
    assert found["per_seed"]["0"] == first["per_seed"]["0"]
    for group in ("methods", "operating_points"):
        assert_is_mean(found[group], [seed[group] for seed in found["per_seed"].values()])
    printed = capsys.readouterr().out
    assert all(name in printed for name in METHODS)
    best = max(row["ausuc"] for row in found["methods"].values())
    assert f"{best:.4f}*" in printed
    rows = [line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│")]
    assert rows == [*METHODS, "hybrid, same fit, asked for", "balance half", "balance natural"]
    assert "microseconds a photo" in printed


def test_the_natural_point_is_the_same_fit_elsewhere(first):
    natural, half = (first["operating_points"][name] for name in ("natural", "half"))
    equal = first["methods"]["hybrid"]
    # The odds move by the same number for all images: the order stays, fewer images are called unseen.
    assert natural["gate_auroc"] == equal["gate_auroc"]
    assert natural["ausuc"] == pytest.approx(equal["ausuc"])
    assert natural["seen"] >= half["seen"] >= equal["seen"]
    assert natural["unseen"] <= half["unseen"] <= equal["unseen"]
    assert natural["nll"] != equal["nll"]


def test_transductive_is_one_more_operating_point(run, arrays, first, capsys):
    found = run(arrays, "--transductive")
    assert found["methods"] == first["methods"]
    points = found["operating_points"]
    assert {name: points[name] for name in first["operating_points"]} == first["operating_points"]
    for name, alone in (("transductive", points["half"]), ("transductive, equal", first["methods"]["hybrid"])):
        assert set(points[name]) == FIGURES
        assert points[name]["nll"] != alone["nll"]
        assert points[name]["harmonic_mean"] > 0.5
    assert "transductive, equal" in capsys.readouterr().out


def test_the_command_loads_no_torch(command):
    _, printed, loaded = command
    assert "balance natural" in printed
    assert not {"torch", "open_clip"} & loaded


def test_images_of_unseen_classes_are_not_used_before_the_test(run, spoiled, without, arrays, first):
    hidden = [*unseen_by_hand(0), *WITHOUT_TEXT]
    assert run(without(arrays, train=hidden, val=hidden))["methods"] == first["methods"]
    # Of classes without a text, the test images are not used either.
    changed = spoiled(arrays, train=hidden, val=hidden, test=WITHOUT_TEXT)
    assert run(changed)["methods"] == first["methods"]


def test_gaps_are_no_error(run, without, arrays):
    """A seen class without val images, others without test images, the unseen ones nowhere but in test."""
    unseen = unseen_by_hand(0)
    seen = seen_by_hand(unseen)
    changed = without(arrays, train=unseen, val=[*unseen, seen[0]], test=[seen[1], unseen[0]])
    assert all(row["ausuc"] is not None for row in run(changed)["methods"].values())


def test_no_test_image_of_an_unseen_class_is_null(run, without, arrays):
    row = run(without(arrays, test=unseen_by_hand(0)))["methods"]["hybrid"]
    assert (row["harmonic_mean"], row["ausuc"], row["unseen"], row["gate_auroc"]) == (None, None, None, None)
    assert row["seen"] > 0.5


def test_few_classes_fall_back_to_the_prior(run, arrays, capsys):
    texts = arrays["class_text"].copy()
    texts[7:] = np.nan
    assert run(arrays | {"class_text": texts})["methods"]["hybrid"]["harmonic_mean"] > 0.5
    assert "falls back to its prior" in capsys.readouterr().err


def test_every_wrong_file_is_named(refusal, arrays):
    lacking = {name: value for name, value in arrays.items() if not name.startswith("val")}
    assert "no val_embedding, val_label" in refusal(lacking)
    broken = arrays["train_embedding"].copy()
    broken[2], broken[4] = np.inf, 0
    wrong = {
        "train_embedding holds vectors without a direction": {"train_embedding": broken},
        "the val arrays do not fit": {"val_label": arrays["val_label"][:-1]},
        "the test arrays do not fit": {"test_embedding": arrays["test_embedding"][:, :-1]},
        "a test_label is not a class": {"test_label": arrays["test_label"] + 1},
        "class_text does not fit": {"class_text": arrays["class_text"][1:]},
        "logit_scale is wrong": {"logit_scale": np.float32(-1)},
        "cannot read": {"class_names": arrays["class_names"].astype(object)},
    }
    for message, change in wrong.items():
        assert message in refusal({**arrays, **change}), message
    partly = arrays["class_text"].copy()
    partly[0, 0] = np.nan
    assert "class_text holds vectors" in refusal({**arrays, "class_text": partly})


def test_too_little_is_named(refusal, without, arrays):
    seen = seen_by_hand(unseen_by_hand(0))[0]
    message = refusal(without(arrays, train=[seen]))
    assert "seed 0: seen classes without train photos" in message
    assert f"class [{seen}]" in message
    assert "too few classes" in refusal(arrays, "--unseen-fraction", "0.05")
    assert "too few classes" in refusal(arrays, "--unseen-fraction", "0.9")
    assert "too few photos" in refusal(without(arrays, val=range(CLASSES)))
    assert "val photos of too few classes" in refusal(without(arrays, val=[i for i in range(CLASSES) if i != seen]))


@pytest.mark.parametrize("options", [("--unseen-fraction", "1"), ("--seeds", "0,0"), ("--seeds", "a")])
def test_wrong_options(refusal, arrays, options, capsys):
    assert refusal(arrays, *options) == "2"
    assert options[0] in capsys.readouterr().err


def test_head_is_the_products(arrays, tmp_path):
    """The C that the fold heads take over is the one that gives the whole head."""
    np.savez(tmp_path / "vectors.npz", **arrays)
    split = vectors.cut(vectors.read(tmp_path / "vectors.npz"), 0.25, 0)
    head = product.train_probe(split)
    strength = head.c
    assert strength in product.C_GRID
    same = product.train_fold(split, range(len(split.seen)), strength)
    held_out = product.without_validation(head)
    assert held_out is not head
    np.testing.assert_allclose(held_out.weight, same.weight, rtol=0.02, atol=0.02 * np.abs(same.weight).max())
    fold = product.train_fold(split, [0, 2, 5], strength)
    train = split.train.embeddings[np.isin(split.train.target, [0, 2, 5])]
    expected = split.train.target[np.isin(split.train.target, [0, 2, 5])]
    np.testing.assert_array_equal(np.array([0, 2, 5])[fold.logits([], train).argmax(axis=1)], expected)
