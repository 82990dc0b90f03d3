"""The gate and its parts against hand calculations and scipy."""

import msgspec
import numpy as np
import pytest
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import softmax

from hybrid.errors import GateError
from hybrid.fusion.calibration import fit_temperature, log_softmax, mean_nll
from hybrid.fusion.experts import geometric_mean, zero_shot_logits
from hybrid.fusion.gate import MassGate, fit_mass_gate

GATE = MassGate(head_temperature=0.5, zero_shot_temperature=2.0, photos=8, classes=3)


def noisy(n, classes, scale, seed):
    """Logits whose softmax is the true distribution of the targets, times `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    target = np.array([rng.choice(classes, p=p) for p in softmax(logits, axis=1)])
    return logits * scale, target


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_a_known_temperature_is_recovered(scale):
    logits, target = noisy(4000, 6, scale, seed=1)
    assert fit_temperature(logits, target) == pytest.approx(scale, rel=0.06)


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_the_minimum_of_the_objective(seed):
    logits, target = noisy(60, 4, 3.0, seed)
    grid = np.exp(np.linspace(np.log(0.05), np.log(50), 20001))
    rows = np.arange(60)
    losses = [-scipy_log_softmax(logits / t, axis=1)[rows, target].mean() + np.log(t) ** 2 / 120 for t in grid]
    assert fit_temperature(logits, target) == pytest.approx(grid[np.argmin(losses)], rel=1e-3)


def test_a_perfect_head_does_not_become_certain():
    logits = 5.0 * np.eye(4)[np.arange(40) % 4]
    found = fit_temperature(logits, np.arange(40) % 4)
    assert 0.05 < found < 1
    assert np.isfinite(log_softmax(logits / found)).all()


def test_more_perfect_photos_allow_more_certainty():
    found = [fit_temperature(np.eye(4)[np.arange(n) % 4], np.arange(n) % 4) for n in (8, 80, 800)]
    assert found[0] > found[1] > found[2]


def test_no_photos():
    with pytest.raises(GateError, match="no validation photos"):
        fit_temperature(np.empty((0, 3)), np.empty(0, dtype=int))


def test_mean_nll_by_hand():
    log_p = np.log([[0.5, 0.5], [0.25, 0.75]])
    assert mean_nll(log_p, np.array([0, 1])) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)


def test_geometric_mean_by_hand():
    mean = np.exp(geometric_mean(np.log([[0.9, 0.1]]), np.log([[0.4, 0.6]])))
    a, b = np.sqrt(0.36), np.sqrt(0.06)
    np.testing.assert_allclose(mean, [[a / (a + b), b / (a + b)]])


def test_zero_shot_logits_are_scaled_cosines():
    photos = np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    np.testing.assert_allclose(
        zero_shot_logits(photos, np.array([[0.0, 1.0], [1.0, 0.0]]), 50.0), [[0, 50], [40, 30]], rtol=1e-6
    )


def test_the_gate_by_hand():
    head = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    similarity = np.array([[3.0, 1.0, 0.0, 2.0, 4.0], [0.0, 6.0, 1.0, 0.0, 0.0]])
    fused = GATE.fuse(head, similarity)
    joint = softmax(similarity / 2.0, axis=1)
    p_unseen = joint[:, 3:].sum(1)
    among = np.sqrt(softmax(head / 0.5, axis=1) * softmax(similarity[:, :3] / 2.0, axis=1))
    seen = (1 - p_unseen)[:, None] * among / among.sum(1, keepdims=True)
    answer = np.exp(fused.log_probabilities)
    np.testing.assert_allclose(answer, np.c_[seen, joint[:, 3:]], rtol=1e-12)
    np.testing.assert_allclose(fused.p_unseen, p_unseen, rtol=1e-12)
    np.testing.assert_allclose(answer.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(fused.head), softmax(head / 0.5, axis=1), rtol=1e-12)
    np.testing.assert_allclose(np.exp(fused.zero_shot), softmax(similarity[:, :3] / 2.0, axis=1), rtol=1e-12)


@pytest.mark.filterwarnings("error")
def test_without_unseen_classes_the_answer_is_the_geometric_mean():
    rng = np.random.default_rng(3)
    fused = GATE.fuse(rng.normal(size=(5, 3)), rng.normal(size=(5, 3)))
    np.testing.assert_array_equal(fused.p_unseen, 0)
    np.testing.assert_allclose(np.exp(fused.log_probabilities).sum(1), 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_give_no_nan(size):
    fused = GATE.fuse(np.array([[size, 0.0, 0.0]]), np.array([[0.0, 0.0, 0.0, size, 0.0]]))
    assert not np.isnan(fused.log_probabilities).any()
    assert np.exp(fused.log_probabilities).sum() == pytest.approx(1)


@pytest.mark.parametrize(("head", "similarity"), [((2, 2), (2, 5)), ((2, 3), (3, 5)), ((2, 3), (2, 2))])
def test_shapes_that_do_not_fit(head, similarity):
    with pytest.raises(GateError, match="do not fit"):
        GATE.fuse(np.zeros(head), np.zeros(similarity))


def test_fit_uses_each_expert_by_itself():
    head, target = noisy(500, 3, 4.0, seed=5)
    similarity = head[:, ::-1].copy()
    gate = fit_mass_gate(head, similarity, target)
    assert gate.head_temperature == fit_temperature(head, target)
    assert gate.zero_shot_temperature == fit_temperature(similarity, target)
    assert (gate.photos, gate.classes) == (500, 3)


def test_json_is_plain_numbers():
    text = msgspec.json.encode(GATE)
    assert msgspec.json.decode(text) == {
        "kind": "mass",
        "head_temperature": 0.5,
        "zero_shot_temperature": 2.0,
        "photos": 8,
        "classes": 3,
    }
    assert msgspec.json.decode(text, type=MassGate) == GATE


def test_it_explains_itself():
    words = " ".join(GATE.describe())
    assert "0.5" in words
    assert "8 validation photos of 3 seen classes" in words
