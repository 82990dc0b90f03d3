"""Temperatures against a fine grid over the same objective, and against truth known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import logsumexp

from hybrid.errors import GateError
from hybrid.gate.calibration import BOUNDS, fit_temperature, log_softmax, mean_nll

GRID = np.linspace(np.log(BOUNDS[0]), np.log(BOUNDS[1]), 1401)
STEP = GRID[1] - GRID[0]


def objective(logits: np.ndarray, target: np.ndarray, log_temperature: float) -> float:
    """The posterior written out: summed cross-entropy plus half a square, an image."""
    scores = np.asarray(logits, np.float64) / np.exp(log_temperature)
    nll = logsumexp(scores, axis=1) - scores[np.arange(len(target)), target]
    return (nll.sum() + 0.5 * log_temperature**2) / len(target)


def draw(seed: int, images: int, classes: int, scale: float, margin: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), target] += margin
    return scale * logits, target


CASES = [
    *((seed, images, 5, scale, 1.5) for seed, images in ((0, 1), (1, 10), (2, 200)) for scale in (0.3, 1.0, 10.0)),
    (3, 50, 2, 1.0, 0.0),  # the logits know nothing
    (4, 50, 7, 2.0, -1.0),  # worse than nothing
    (5, 30, 3, 1.0, 9.0),  # always right
    (6, 20, 10, 2.8e-3, 2.1),  # two minima: the other one lies near T = 1
    (8, 20, 3, 1.7e-3, 5.4),
    (7, 50, 3, 1.3e-2, 1.0),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_a_fine_grid(case):
    logits, target = draw(*case)
    losses = [objective(logits, target, step) for step in GRID]
    best = int(np.argmin(losses))
    if best in (0, len(GRID) - 1):
        pytest.fail("the case leaves the bounds")
    found = np.log(fit_temperature(logits, target))
    assert abs(found - GRID[best]) <= STEP
    assert objective(logits, target, found) <= losses[best] + 1e-12


@pytest.mark.parametrize("true_temperature", [0.25, 1.0, 3.0, 12.0])
def test_a_known_temperature_is_recovered(true_temperature):
    rng = np.random.default_rng(0)
    logits = 3.0 * rng.normal(size=(20_000, 6))
    target = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)  # a draw from softmax(logits)
    assert fit_temperature(true_temperature * logits, target) == pytest.approx(true_temperature, rel=0.03)


def test_half_precision_logits_and_shifts_change_nothing():
    logits, target = draw(1, 300, 5, 2.0, 1.0)
    halves = logits.astype(np.float16)
    assert fit_temperature(halves, target) == fit_temperature(halves.astype(np.float64), target)
    shift = np.linspace(-1000, 1000, len(logits))[:, None]
    assert fit_temperature(logits + shift, target) == pytest.approx(fit_temperature(logits, target), rel=1e-5)


def test_a_head_that_is_always_right_is_not_made_certain():
    target = np.arange(200) % 4
    logits = 5.0 * np.eye(4)[target]
    found = fit_temperature(logits, target)
    assert 0.1 < found < 1
    assert np.exp(log_softmax(logits / found)).max() < 1 - 1e-4
    # More images that are right allow more confidence.
    assert fit_temperature(np.tile(logits, (50, 1)), np.tile(target, 50)) < found


def test_what_cannot_be_fitted():
    with pytest.raises(GateError, match="no validation photos"):
        fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.intp))
    logits, target = draw(0, 10, 3, 1.0, 1.0)
    for value in (np.nan, np.inf, -np.inf):
        logits[4, 1] = value
        with pytest.raises(GateError, match="not finite") as caught:
            fit_temperature(logits, target)
        assert caught.value.got == "1 of them"


def test_a_minimum_outside_the_bounds_is_an_error():
    logits, target = draw(0, 300, 10, 1e-3, 4.0)
    assert np.argmin([objective(logits, target, step) for step in GRID]) == 0
    with pytest.raises(GateError, match="did not converge") as caught:
        fit_temperature(logits, target)
    assert "T = 0.001" in caught.value.got
    assert "300 photos" in caught.value.got
    assert "val_fraction" in caught.value.fix


def test_log_softmax_and_mean_nll():
    logits = np.array([[1, 2, 3], [0, 0, 0]], dtype=np.float32)
    found = log_softmax(logits)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, scipy_log_softmax(logits.astype(np.float64), axis=1), rtol=1e-12)
    assert log_softmax(np.empty((0, 3))).shape == (0, 3)
    # -log softmax((1, 2, 3))[2] = log(1 + 1/e + 1/e^2), and log 3
    expected = (np.log(1 + np.exp(-1) + np.exp(-2)) + np.log(3)) / 2
    assert mean_nll(found, np.array([2, 0])) == pytest.approx(expected, rel=1e-12)
