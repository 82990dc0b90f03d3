"""benchmarks.open_set on small Gaussian classes: its groups, its JSON, its promises, what it refuses."""

import hashlib
import random

import numpy as np
import pytest

from benchmarks.kit import vectors
from benchmarks.open_set import __main__ as open_set
from benchmarks.open_set import measure

BENCHMARK, DEFAULTS = open_set, ("--seeds", "0")
CLASSES, DIM = 30, 24
WITHOUT_TEXT = (3, 9, 12, 17)
PEERS = [
    "head_maximum",
    "zero_shot_maximum",
    "hybrid_maximum",
    "hybrid_entropy",
    "mcm",
    "energy_zero_shot",
    "energy_head",
    "knn",
    "relative_mahalanobis",
]
NEGLABEL = ["neglabel", "neglabel_mined"]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def arrays(gaussian_classes):
    shots = {"train": 5, "val": 4, "test": 6}
    return gaussian_classes(CLASSES, DIM, noise=0.15, text_noise=0.5, shots=shots, without_text=WITHOUT_TEXT)


@pytest.fixture(scope="module")
def names():
    """Texts of no class; one has a class's name, one an unknown class's."""
    rng = np.random.default_rng(6)
    texts = ["Class_[0]", "class [3]", *(f"thing {i}" for i in range(28))]
    return {"text": np.array(texts), "text_embedding": unit(rng.normal(size=(30, DIM))).astype(np.float32)}


def test_json(first):
    assert (first["model"], first["unseen_fraction"], first["seeds"]) == ("gaussians", 0.25, [0])
    mean = first["mean"]
    assert mean["classes"] == {"seen": 20, "unseen": 6, "unknown": 4}
    assert mean["photos"] == {"calibration": 80, "known": 156, "unknown": 24}
    assert list(mean["detection"]) == [*PEERS, "rejector"]
    assert list(mean["sets"]) == ["0.9", "0.95"]
    peers = [f"{name}{end}" for name in ("lac", "aps", "aps_randomised") for end in ("", "_and_likeliest")]
    assert list(mean["sets"]["0.9"]) == ["hybrid", *peers]
    assert any("unseen classes" in note for note in first["notes"])
    assert any("also fitted" in note for note in first["notes"])
    smaller = mean["held_out_names"]
    assert smaller["classes"] == {"seen": 12, "unseen": 4, "unknown": 4, "lent": 10}
    assert list(smaller["detection"]) == [*PEERS, *NEGLABEL, "rejector"]


def test_nearest_keeps_the_classes_of_the_most_similar_pairs(arrays, tmp_path):
    np.savez(tmp_path / "vectors.npz", **arrays)
    data = vectors.read(tmp_path / "vectors.npz")
    kept = open_set.nearest(data, 6)
    by_hand = []
    pairs = [(float(data.texts[a] @ data.texts[b]), a, b) for a in data.named for b in data.named if a < b]
    for _, a, b in sorted(pairs, reverse=True):
        by_hand += [c for c in (a, b) if c not in by_hand]
    assert kept.names == tuple(data.names[c] for c in sorted(by_hand[:6]))
    for name, part in kept.images.items():
        whole = data.images[name]
        for place, label in enumerate(sorted(by_hand[:6])):
            own = part.embeddings[part.target == place]
            np.testing.assert_array_equal(own, whole.embeddings[whole.target == label])


def test_figures_fit_together(first):
    seed = first["per_seed"]["0"]
    for row in seed["detection"].values():
        seen, unseen = row["auroc_seen"], row["auroc_unseen"]
        assert row["auroc"] == pytest.approx((20 * seen + 6 * unseen) / 26)  # equally many images a class
        assert 0 <= row["fpr95"] <= 1
    assert seed["detection"]["rejector"]["auroc"] > 0.8
    kept = seed["promises"]["reject 0.95"]
    assert kept["kept_seen"] > 0.85
    assert kept["unknown_accepted"] < kept["kept_seen"]
    for coverage, rows in seed["sets"].items():
        assert rows["hybrid"]["empty"] == 0
        assert rows["hybrid"]["coverage_seen"] > float(coverage) - 0.06
        for row in rows.values():
            assert row["coverage"] == pytest.approx((20 * row["coverage_seen"] + 6 * row["coverage_unseen"]) / 26)
        for peer in ("lac", "aps", "aps_randomised"):
            assert rows[f"{peer}_and_likeliest"]["empty"] == 0
            assert rows[f"{peer}_and_likeliest"]["size"] == pytest.approx(rows[peer]["size"] + rows[peer]["empty"])


def test_deterministic_and_the_mean_of_its_seeds(run, assert_is_mean, arrays, first, capsys):
    found = run(arrays, "--seeds", "1,0")
    assert found["per_seed"]["0"] == first["per_seed"]["0"]
    assert_is_mean(found["mean"]["detection"], [seed["detection"] for seed in found["per_seed"].values()])
    printed = " ".join(capsys.readouterr().out.split())
    for text in (*PEERS, *NEGLABEL, "rejector", "20 seen, 6 unseen, 4 unknown", "max_false_accept 0.1"):
        assert text in printed


def test_unknown_classes_are_met_by_nothing(run, spoiled, arrays, first):
    """Train and val images of unknown and unseen classes may be anything at all."""
    named = [i for i in range(CLASSES) if i not in WITHOUT_TEXT]
    random.Random(0).shuffle(named)
    strange = [*WITHOUT_TEXT, *named[:6]]
    changed = spoiled(arrays, train=strange, val=strange)
    mine, theirs = (found["per_seed"]["0"] for found in (run(changed), first))
    for part in ("detection", "promises", "sets"):
        assert mine[part] == theirs[part]


def test_negatives_from_a_file(run, arrays, names, first, tmp_path):
    np.savez(tmp_path / "names.npz", **names)
    found = run(arrays, "--negatives", str(tmp_path / "names.npz"))["mean"]
    assert list(found["detection"]) == [*PEERS, *NEGLABEL, "rejector"]
    assert "held_out_names" not in found
    assert found["negatives"] == {"texts": 29, "same_name_as_a_class_left_out": 1, "unknown_classes_named": 1}
    without = first["mean"]["detection"]
    assert {name: found["detection"][name] for name in without} == without


def test_unknown_share_takes_texts_away(run, refusal, arrays):
    whole = {**arrays, "class_text": arrays["class_text"].copy()}
    whole["class_text"][list(WITHOUT_TEXT)] = np.eye(DIM)[:4]
    assert "no photo is unknown" in refusal(whole)
    options = ("--unknown-share", "0.2", "--negative-share", "0")
    found = run(whole, *options)["mean"]
    assert found["classes"] == {"seen": 18, "unseen": 6, "unknown": 6}
    assert found["photos"]["unknown"] == 36
    assert "held_out_names" not in found


def test_uniforms_come_from_the_vector_alone():
    images = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = measure.uniforms(images)
    assert found[1] == int(hashlib.sha256(images[1].tobytes()).hexdigest()[:13], 16) / 16**13
    np.testing.assert_array_equal(measure.uniforms(images[::-1]), found[::-1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": None}, "text and text_embedding"),
        ({"text": np.array(["a", "b"])}, "do not fit"),
        ({"text_embedding": np.full((30, DIM), np.nan, np.float32)}, "without a direction"),
        ({"text_embedding": np.ones((30, DIM + 1), np.float32)}, f"text_embedding (m, {DIM})"),
        ({"text": np.array(["class [0]"] * 30)}, "names a class"),
    ],
)
def test_bad_negatives(refusal, arrays, names, tmp_path, change, said):
    given = {name: value for name, value in (names | change).items() if value is not None}
    np.savez(tmp_path / "names.npz", **given)
    assert said in refusal(arrays, "--negatives", str(tmp_path / "names.npz"))


def test_other_refusals(run, refusal, arrays, tmp_path, capsys):
    (tmp_path / "text.npz").write_text("no arrays")
    assert "cannot read" in refusal(arrays, "--negatives", str(tmp_path / "text.npz"))
    assert "lends its text" in refusal(arrays, "--negative-share", "0.01")
    few = {**arrays, "class_text": arrays["class_text"].copy()}
    few["class_text"][6:] = np.nan
    assert "too little to fit a gate on" in refusal(few, "--unseen-fraction", "0.3")
    for options in (("--seeds", "1,1"), ("--unknown-share", "1"), ("--json", str(tmp_path / "no" / "out.json"))):
        with pytest.raises(SystemExit):
            run(arrays, *options)
    assert "there is no folder" in capsys.readouterr().err


def test_the_command_loads_no_torch(command):
    _, printed, loaded = command
    assert "rejector" in printed
    assert not {"torch", "open_clip"} & loaded
