"""benchmarks/gate_ideas.py on small Gaussian classes, and its ideas against calculations by hand."""

import json
import math

import gate_ideas
import gate_ideas_gate
import gate_ideas_scenes
import gate_ideas_seen
import gate_ideas_text
import gzsl
import numpy as np
import pytest

from hybrid.gate.evidence import UNWHITENED, Scorer

CLASSES, DIM = 12, 16
TABLES = {"unseen": gate_ideas_text.IDEAS, "seen": gate_ideas_seen.IDEAS, "gate": gate_ideas_gate.IDEAS}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Twelve classes around random directions, so near that nobody is right about all."""
    rng = np.random.default_rng(7)
    centers = unit(rng.normal(size=(CLASSES, DIM)))
    found = {
        "class_names": np.array([f"class {i}" for i in range(CLASSES)]),
        "class_text": unit(centers + 0.6 * unit(rng.normal(size=(CLASSES, DIM)))).astype(np.float32),
        "logit_scale": np.float32(20),
    }
    for split, shots in (("train", 5), ("val", 4), ("test", 6)):
        labels = np.repeat(np.arange(CLASSES), shots)
        images = centers[labels] + 0.3 * rng.normal(size=(len(labels), DIM))
        found |= {f"{split}_embedding": unit(images).astype(np.float32), f"{split}_label": labels}
    path = tmp_path_factory.mktemp("ideas") / "small.npz"
    np.savez(path, **found)
    return path


@pytest.fixture(scope="module")
def seed0(file):
    split = gzsl.cut(gzsl.read(file), 0.25, 0)
    return split, gate_ideas_scenes.build(split)


def scene(**changes):
    """Two seen classes and an unseen one in the plane; the head is two to one for the first class."""
    found = {
        "photos": np.array([[1.0, 0.0]]),
        "target": np.array([0]),
        "head": np.log([[2 / 3, 1 / 3]]),
        "texts": np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]),
        "bank": np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]]),
        "labels": np.array([0, 0, 1, 1]),
        "scale": 10.0,
    }
    return gate_ideas_scenes.Scene(**found | changes)


def test_main(file, tmp_path, capsys):
    out = tmp_path / "ideas.json"
    command = ["--embeddings", str(file), "--seeds", "0,1", "--json", str(out)]
    gate_ideas.main(command)
    shown, text = capsys.readouterr().out, out.read_text(encoding="utf-8")
    found = json.loads(text)
    assert (found["unseen_fraction"], found["seeds"]) == (0.25, [0, 1])
    tables = found["files"][str(file)]
    for name, ideas in TABLES.items():
        rows = tables["mean"][name]
        assert list(rows)[: len(ideas)] == list(ideas)
        for idea, row in rows.items():
            assert idea in shown
            for figure, value in row.items():
                assert value == pytest.approx(np.mean([tables[seed][name][idea][figure] for seed in "01"]))
    best = tables["mean"]["gate"]["product: text for unseen, text for seen, memory, novelty"]["harmonic_mean"]
    assert f"| {best:.4f} |".replace("0.", ".") in shown
    gate_ideas.main(command)
    assert out.read_text(encoding="utf-8") == text


def test_the_products_rows_are_the_product(file, seed0):
    split, scenes = seed0
    head = gzsl.train_probe(split)
    (log_p, p_unseen), _ = gzsl.product(split, head)[0].values()
    unseen = np.arange(CLASSES) >= len(split.seen)
    expected = gzsl.score_system(np.exp(log_p), split.test.target, unseen, p_unseen=p_unseen, images_per_second=None)
    row = gate_ideas_gate.run(split, scenes)["product: text for unseen, text for seen, memory, novelty"]
    for figure, value in row.items():
        assert value == pytest.approx(getattr(expected, figure), abs=1e-4), figure
    # Accuracy among the seen classes alone, whatever the gate says.
    among = gate_ideas_seen.run(scenes)["product: zero-shot + head + alignment + memory"]
    rows = split.test.target < len(split.seen)
    right = log_p[rows, : len(split.seen)].argmax(axis=1) == split.test.target[rows]
    # All ideas' weights have one prior, twice as strong as the product's: on so few images one of them may turn.
    assert among["accuracy"] == pytest.approx(right.mean(), abs=1.01 / len(right))
    assert among["nll"] == pytest.approx(-mean_log(log_p[rows, : len(split.seen)], split.test.target[rows]), abs=0.01)


def mean_log(log_p, target):
    normal = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    return normal[np.arange(len(target)), target].mean()


def test_no_image_is_in_a_bank_that_scores_it(seed0):
    split, scenes = seed0
    for one in (scenes.validation, *scenes.episodes):
        score = lambda s: {"nearest": (s.images @ s.bank.T).max(axis=1), "bank": np.full(len(s.images), len(s.bank))}  # noqa: E731
        found = gate_ideas_scenes.cross_fitted(one, score, split.val.target)
        assert (found["nearest"] < 1 - 1e-6).all()
        assert (found["bank"] > len(one.bank)).all()
    for episode in (*scenes.full_episodes, scenes.full_test):
        assert set(episode.labels) == set(range(episode.seen))
    assert all(e.is_unseen.all() for e in scenes.full_episodes)
    assert len(scenes.full_test.bank) == len(split.train) + len(split.val)


def test_an_episode_hides_its_classes(seed0):
    split, scenes = seed0
    for held, episode in zip(scenes.held, scenes.episodes, strict=True):
        kept = [c for c in range(len(split.seen)) if c not in held]
        np.testing.assert_allclose(episode.texts, split.texts[[*kept, *held]])
        np.testing.assert_array_equal(np.array([*kept, *held])[episode.target], split.val.target)
        hidden = split.train.embeddings[np.isin(split.train.target, held)]
        assert (hidden @ episode.bank.T).max() < 1 - 1e-6


def test_hubness_by_hand():
    # Similarities of the four images to the third text: .6, .96, .8, 1.
    assert gate_ideas_text.hubness(scene(), 2)[2] == pytest.approx(10 * 0.98)
    assert gate_ideas_text.hubness(scene(), 4)[2] == pytest.approx(10 * 0.84)


def test_normalized_by_hand():
    # Means of the classes' images (.9, .3) and (.3, .9): (.6, .6); of the seen texts: (.5, .5).
    found = gate_ideas_text.normalized(scene())
    np.testing.assert_allclose(found[0, 2], 10 * (0.7 * 0.35 - 0.3 * 0.55))


def test_centered_cosine_by_hand():
    # The image from its mean: (.4, -.6); the third text from its: (.1, .3), at length one.
    expected = 5 * (0.4 * 0.1 - 0.6 * 0.3) / math.hypot(0.1, 0.3)
    assert gate_ideas_text.centered_cosine(scene(), 1.0)[0, 2] == pytest.approx(expected)


def test_centered_cosine_is_the_products(seed0):
    test = seed0[1].full_test
    evidence = Scorer(test.memory, test.texts, test.scale)(test.images, test.head)
    np.testing.assert_allclose(gate_ideas_text.centered_cosine(test, UNWHITENED), evidence.centred)


def test_conse_by_hand():
    # (2/3, 1/3) at length one is (2, 1) / sqrt 5.
    found = gate_ideas_text.conse(scene())
    np.testing.assert_allclose(found[0, 2], 10 * (2 * 0.6 + 0.8) / math.sqrt(5))


def test_ridge_map_by_hand():
    # Features along one line, x = -1 and 1, texts -t and t: the slope is 2 t / (2 + 1).
    bank = np.array([[-1.0, 0], [1, 0]])
    texts = np.array([[-0.6, 0.8], [0.6, 0.8], [1.0, 0.0]])
    one = scene(bank=bank, labels=np.array([0, 1]), texts=texts, images=np.array([[0.5, 0.0]]))
    np.testing.assert_allclose(gate_ideas_text.ridge_map(one)[0, 2], 10 * 0.5 * (2 * 0.6 / 3) * 1.0)


def test_relative_by_hand():
    # Two anchors: only the sign of the difference is left.
    np.testing.assert_allclose(gate_ideas_text.relative(scene()), [[10, -10, -10]])


def test_tip_by_hand():
    found = gate_ideas_seen.tip(scene())[0]
    expected = [1 + math.exp(-5.5 * 0.2), math.exp(-5.5) + math.exp(-5.5 * 0.4)]
    np.testing.assert_allclose(found, expected)


def test_wang_by_hand():
    # Images one axis apart: C = diag(.02, 0) * 4 / 3 after the means, so the precision is diagonal.
    bank = np.array([[0.5, 0.0], [0.7, 0.0], [-0.3, 1.0], [-0.1, 1.0]])
    c = 0.04 / 3
    p = 2 / np.array([3 * c + c, c])
    means = np.array([[0.6, 0.0], [-0.2, 1.0]])
    expected = (means * p) @ [1.0, 0.0] - 0.5 * (means**2 * p).sum(axis=1)
    np.testing.assert_allclose(gate_ideas_seen.wang(scene(bank=bank))[0], expected / 10)


def test_kernel_ridge_knows_its_bank():
    found = gate_ideas_seen.kernel_ridge(scene(images=scene().bank))
    np.testing.assert_array_equal(found.argmax(axis=1), [0, 0, 1, 1])


def test_bank_features_by_hand(seed0):
    test = seed0[1].full_test
    found = gate_ideas_gate.bank_features(test)
    away = test.images[3] - test.memory.means
    squared = np.einsum("cd,de,ce->c", away, np.linalg.inv(test.memory.within), away)
    assert found["mahalanobis"][3] == pytest.approx(0.5 * squared.min() / 10)
    cosines = np.sort(test.bank @ test.images[3])[-5:]
    assert found["knn"][3] == pytest.approx(test.scale * cosines.mean())


def test_answer_by_hand(seed0):
    split, scenes = seed0
    gate = gate_ideas_gate.Gate()
    evidence = Scorer(scenes.full_test.memory, split.texts, split.logit_scale)(
        split.test.embeddings, scenes.head_logits[1]
    )
    odds = gate.log_odds(evidence)
    np.testing.assert_allclose(gate_ideas_gate.answer(gate, evidence, odds), gate.fuse(evidence).log_probabilities)
