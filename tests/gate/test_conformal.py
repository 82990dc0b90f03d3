"""Prediction sets against a loop over ranks, and their coverage on simulated images."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.errors import GateError
from hybrid.gate.conformal import PENALTY, prediction_sets, set_scores, set_threshold


def draw(seed: int, images: int, classes: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.4), size=images)
    # The classes are drawn from something else than what is claimed: coverage does not need calibration.
    true = probabilities**0.5 / np.sum(probabilities**0.5, axis=1, keepdims=True)
    target = np.array([rng.choice(classes, p=row) for row in true])
    return probabilities, target, rng.random(images)


def score_by_hand(row: list[float], c: int, u: float) -> float:
    likelier = [p for p in row if p > row[c]]
    return sum(likelier) + u * row[c] + PENALTY * len(likelier)


def test_scores_by_a_loop():
    probabilities, _, uniform = draw(0, 30)
    found = set_scores(probabilities, uniform)
    for row in range(30):
        for c in range(6):
            expected = score_by_hand(probabilities[row].tolist(), c, uniform[row])
            assert found[row, c] == pytest.approx(expected, abs=1e-12)


def test_threshold_is_an_order_statistic():
    scores = np.random.default_rng(0).permutation(np.arange(20.0))[:, None] * [1.0, 100.0]
    target = np.zeros(19, dtype=np.intp)
    for coverage, rank in ((0.9, 18), (0.95, 19), (0.5, 10), (0.11, 3), (0.05, 1), (0.55, 11), (0.35, 7)):
        # (19 + 1) coverage, rounded up
        assert set_threshold(scores[:19], target, coverage) == np.sort(scores[:19, 0])[rank - 1]
    # Every whole percentage of 99 images is its own rank.
    for percent in range(1, 100):
        assert set_threshold(np.arange(99.0)[:, None], np.zeros(99, dtype=np.intp), percent / 100) == percent - 1


@pytest.mark.parametrize("coverage", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.999])
def test_too_few_images_says_how_many_are_enough(coverage):
    def fit(images: int) -> float:
        return set_threshold(np.zeros((images, 3)), np.zeros(images, dtype=np.intp), coverage)

    with pytest.raises(GateError, match="too few validation photos") as caught:
        fit(0)
    enough = int(caught.value.expected.removeprefix("at least "))
    assert enough == round(coverage / (1 - coverage) + 0.4999)
    fit(enough)
    with pytest.raises(GateError, match=f"coverage {coverage:g}") as caught:
        fit(enough - 1)
    assert caught.value.got == str(enough - 1)
    assert "--coverage" in caught.value.fix


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_on_exchangeable_images(coverage):
    """Mean coverage over 400 fits: c exactly before the likeliest class is forced in, at least c after."""
    exact, held = [], []
    for repeat in range(400):
        probabilities, target, uniform = draw(repeat, 199)
        fit, new = slice(0, 99), slice(99, None)
        threshold = set_threshold(set_scores(probabilities[fit], uniform[fit]), target[fit], coverage)
        rows = np.arange(100)
        scores = set_scores(probabilities[new], uniform[new])
        exact.append(np.mean(scores[rows, target[new]] <= threshold))
        held.append(prediction_sets(probabilities[new], uniform[new], threshold)[rows, target[new]].mean())
    # Of one fit and 100 images: binomial, and Beta spread of the fit itself.
    error = np.sqrt(coverage * (1 - coverage) * (1 / 100 + 1 / 100) / 400)
    assert np.mean(exact) == pytest.approx(coverage, abs=4 * error)
    assert np.mean(held) >= coverage - 4 * error


def test_sets_hold_the_likeliest_class_and_follow_its_order():
    probabilities, _, uniform = draw(1, 60)
    for threshold in (-1.0, 0.3, 0.9, 1.1):
        sets = prediction_sets(probabilities, uniform, threshold)
        assert sets[np.arange(60), probabilities.argmax(axis=1)].all()
        for row in range(60):
            inside = probabilities[row][sets[row]]
            outside = probabilities[row][~sets[row]]
            assert len(outside) == 0 or inside.min() >= outside.max()
    assert (prediction_sets(probabilities, uniform, -1.0).sum(axis=1) == 1).all()
    assert prediction_sets(probabilities, uniform, 3.0).all()
    assert prediction_sets(probabilities[:0], uniform[:0], 0.5).shape == (0, 6)
    some = prediction_sets(probabilities, uniform, 0.9)
    assert 1 < some.sum(axis=1).mean() < 6
    for row, c in zip(*np.nonzero(some), strict=True):
        likeliest = probabilities[row].argmax() == c
        assert likeliest or score_by_hand(probabilities[row].tolist(), c, uniform[row]) <= 0.9 + 1e-12
