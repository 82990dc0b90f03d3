"""Each figure against an oracle: sklearn, torchmetrics, scipy, a plain loop or a hand calculation."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import accuracy_score, log_loss
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.functional.classification import multiclass_calibration_error as torch_ece

from hybrid.errors import HybridError, MetricError
from hybrid.evaluation.arrays import SUM_TOLERANCE
from hybrid.evaluation.calibration import equal_width_bins
from hybrid.evaluation.metrics import (
    Curve,
    SystemScores,
    ausuc,
    gate_auroc,
    harmonic_mean,
    mean_per_class_accuracy,
    score_system,
    seen_unseen_curve,
)

SEEDS = range(5)


def draw(seed: int, images: int = 200, classes: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw fair probabilities, unbalanced targets (the last class has none) and a mask of unseen classes."""
    rng = np.random.default_rng(seed)
    unseen = np.arange(classes) % 3 == seed % 3
    target = rng.choice(classes - 1, size=images, p=rng.dirichlet(np.full(classes - 1, 5.0)))
    logits = rng.normal(size=(images, classes)) * 1.5
    logits[np.arange(images), target] += rng.normal(2.0, 1.5, size=images)
    logits[:, unseen] -= 1.0
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(axis=1, keepdims=True), target, unseen


def log(probabilities: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def group_recall(predicted: np.ndarray, target: np.ndarray, group: np.ndarray) -> float:
    return np.mean([np.mean(predicted[target == k] == k) for k in np.flatnonzero(group) if k in target])


def scored(probabilities, target, unseen, p_unseen=None) -> SystemScores:
    return score_system(probabilities, target, unseen, p_unseen=p_unseen, images_per_second=12.5)


def test_mean_per_class_accuracy_by_hand():
    target = np.array([0, 0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 0, 1, 1, 0, -1])
    assert mean_per_class_accuracy(predicted, target, [0, 1]) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert mean_per_class_accuracy(predicted, target, [0, 1, 2, 3]) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert mean_per_class_accuracy(predicted, target, [1, 1]) == 0.5
    assert mean_per_class_accuracy(predicted, target, [3, 7]) is None
    assert mean_per_class_accuracy(predicted, target, []) is None
    nothing = np.array([], dtype=int)
    assert mean_per_class_accuracy(nothing, nothing, [0]) is None


def test_harmonic_mean():
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.9, 0.0) == harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(None, 0.5) is harmonic_mean(0.5, None) is harmonic_mean(None, None) is None


def loop_over_biases(scores: np.ndarray, target: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Predict the whole set again between every two breakpoints: slow, and plainly right."""
    switch = []
    for row in scores:
        best_seen, best_unseen = row[~unseen].max(), row[unseen].max()
        if np.isfinite(best_seen) and np.isfinite(best_unseen):
            switch.append(best_seen - best_unseen)
    switch = np.unique(switch)
    between = [switch[0] - 1, *((switch[1:] + switch[:-1]) / 2), switch[-1] + 1]
    points = []
    for bias in between:
        predicted = (scores + bias * unseen).argmax(axis=1)
        points.append([group_recall(predicted, target, group) for group in (~unseen, unseen)])
    return np.array(points).T


def check_curve(scores: np.ndarray, target: np.ndarray, unseen: np.ndarray) -> Curve:
    curve = seen_unseen_curve(scores, target, unseen)
    oracle = loop_over_biases(scores, target, unseen)
    np.testing.assert_allclose([curve.seen, curve.unseen], oracle, atol=1e-12)
    assert curve.bias[0] == -np.inf
    assert np.all(np.diff(curve.bias) > 0)
    assert np.isfinite(curve.bias[-1])
    return curve


@pytest.mark.parametrize("seed", SEEDS)
def test_curve_equals_a_loop_over_biases(seed):
    probabilities, target, unseen = draw(seed)
    curve = check_curve(log(probabilities), target, unseen)
    at_zero = np.searchsorted(curve.bias, 0.0, side="right") - 1
    plain = [group_recall(probabilities.argmax(axis=1), target, group) for group in (~unseen, unseen)]
    assert [curve.seen[at_zero], curve.unseen[at_zero]] == pytest.approx(plain)
    # zero probabilities; the two ends: who is switched from the start, and who never is
    rng = np.random.default_rng(seed)
    probabilities[rng.random(probabilities.shape) < 0.3] = 0.0
    probabilities[np.ix_(rng.random(len(target)) < 0.1, unseen)] = 0.0
    probabilities[np.ix_(rng.random(len(target)) < 0.1, ~unseen)] = 0.0
    probabilities[probabilities.sum(axis=1) == 0, np.flatnonzero(unseen)[0]] = 1.0
    curve = check_curve(log(probabilities), target, unseen)
    assert curve.unseen[0] > 0
    assert curve.seen[-1] > 0
    # shared switch points; sixteenths: sums are exact, so ties are too
    scores = rng.integers(-4, 1, size=(200, 9)) + np.arange(9) / 16
    assert len(check_curve(scores, target, unseen).bias) < 140


def test_curve_and_area_of_four_images_by_hand():
    # classes 0, 1 seen and 2, 3 unseen; best seen score minus best unseen score: 3, 1, 2, -1
    scores = np.array([[4.0, 0, 1, 0], [0, 2, 0, 1], [0, 3, 1, 0], [0, 1, 0, 2]]) - 10
    target, unseen = np.array([0, 1, 2, 3]), np.array([False, False, True, True])
    curve = seen_unseen_curve(scores, target, unseen)
    np.testing.assert_array_equal(curve.bias, [-np.inf, -1, 1, 2, 3])
    np.testing.assert_allclose(curve.seen, [1, 1, 0.5, 0.5, 0])
    np.testing.assert_allclose(curve.unseen, [0, 0.5, 0.5, 1, 1])
    assert ausuc(curve) == pytest.approx(0.5 * 0.5 + 0.5 * 1.0)  # seen 1 to .5 at unseen .5, .5 to 0 at 1


def test_area_of_images_that_switch_together_or_never():
    together = seen_unseen_curve(np.array([[1.0, 0], [1.0, 0]]), np.array([0, 1]), np.array([False, True]))
    np.testing.assert_array_equal(together.bias, [-np.inf, 1])
    assert ausuc(together) == pytest.approx(0.5)  # the trapezoid
    sure = log(np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]]))
    never = seen_unseen_curve(sure, np.array([0, 0, 2, 2]), np.array([False, False, True]))
    np.testing.assert_array_equal([never.bias, never.seen, never.unseen], [[-np.inf], [0.5], [0.5]])
    assert ausuc(never) == pytest.approx(0.25)  # the rectangle below the only point


def test_area_is_unchanged_by_a_constant_per_image_one_if_perfect_and_needs_both_groups():
    probabilities, target, unseen = draw(0)
    shifted = log(probabilities) + np.random.default_rng(0).normal(size=(len(target), 1))
    plain = ausuc(seen_unseen_curve(log(probabilities), target, unseen))
    assert ausuc(seen_unseen_curve(shifted, target, unseen)) == pytest.approx(plain)
    perfect = log(0.9 * np.eye(9)[target] + 0.1 / 9)
    assert ausuc(seen_unseen_curve(perfect, target, unseen)) == pytest.approx(1.0)
    with pytest.raises(MetricError, match="0 of unseen"):
        seen_unseen_curve(perfect[~unseen[target]], target[~unseen[target]], unseen)
    with pytest.raises(MetricError, match="0 of seen"):
        seen_unseen_curve(perfect, target, np.ones(9, dtype=bool))


def test_curve_of_fifty_thousand_images():
    probabilities, target, unseen = draw(0, images=50_000, classes=50)
    scores = log(probabilities)
    curve = seen_unseen_curve(scores, target, unseen)
    assert len(curve.bias) > 49_000
    for bias in (-3.0, 0.0, 1.5):
        predicted = (scores + bias * unseen).argmax(axis=1)
        at = np.searchsorted(curve.bias, bias, side="right") - 1
        plain = [group_recall(predicted, target, group) for group in (~unseen, unseen)]
        assert [curve.seen[at], curve.unseen[at]] == pytest.approx(plain)


@pytest.mark.parametrize("seed", SEEDS)
def test_gate_auroc_equals_mann_whitney(seed):
    rng = np.random.default_rng(seed)
    is_unseen = rng.random(300) < 0.3
    p_unseen = np.round(np.clip(rng.normal(0.4 + 0.2 * is_unseen, 0.2), 0, 1), 1)  # rounded: many ties
    pairs = is_unseen.sum() * (~is_unseen).sum()
    oracle = mannwhitneyu(p_unseen[is_unseen], p_unseen[~is_unseen]).statistic / pairs
    assert gate_auroc(p_unseen, is_unseen) == pytest.approx(oracle)


def test_gate_auroc_needs_both_groups_and_probabilities():
    half = np.array([0.5, 0.6])
    assert gate_auroc(half, half > 0) is gate_auroc(half, half > 1) is None
    for p_unseen, is_unseen in (([0.5, np.nan], [True, False]), (half, [True])):
        with pytest.raises(MetricError):
            gate_auroc(np.array(p_unseen), np.array(is_unseen))


@pytest.mark.parametrize("seed", SEEDS)
def test_score_system_joins_the_oracles(seed):
    probabilities, target, unseen = draw(seed)
    p_unseen, is_unseen = probabilities[:, unseen].sum(axis=1), unseen[target]
    before = probabilities.copy()
    scores = scored(probabilities, target, unseen, p_unseen)
    np.testing.assert_array_equal(probabilities, before)
    predicted = probabilities.argmax(axis=1)

    def ece(rows: np.ndarray) -> float:
        return float(torch_ece(torch.tensor(probabilities[rows]), torch.tensor(target[rows]), num_classes=9))

    assert scores.accuracy == pytest.approx(accuracy_score(target, predicted))
    assert scores.seen == pytest.approx(group_recall(predicted, target, ~unseen))
    assert scores.unseen == pytest.approx(group_recall(predicted, target, unseen))
    assert scores.harmonic_mean == pytest.approx(2 / (1 / scores.seen + 1 / scores.unseen))
    seen_accuracy, unseen_accuracy = loop_over_biases(log(probabilities), target, unseen)
    rectangles = (seen_accuracy[:-1] - seen_accuracy[1:]) * unseen_accuracy[1:]
    assert scores.ausuc == pytest.approx(rectangles.sum())
    auroc = binary_auroc(torch.tensor(p_unseen), torch.tensor(is_unseen).long())
    assert scores.gate_auroc == pytest.approx(float(auroc), abs=1e-6)
    assert scores.ece == pytest.approx(ece(is_unseen | True), abs=1e-6)
    assert scores.ece_seen == pytest.approx(ece(~is_unseen), abs=1e-6)
    assert scores.ece_unseen == pytest.approx(ece(is_unseen), abs=1e-6)
    confidence, correct = probabilities.max(axis=1), predicted == target
    assert scores.ece_debiased == equal_width_bins(confidence, correct).debiased_error
    order = np.argsort(confidence)
    gaps = [abs(sum(confidence[part]) - sum(correct[part])) for part in np.array_split(order, 15)]
    assert scores.adaptive_ece == pytest.approx(sum(gaps) / len(target))
    assert scores.nll == pytest.approx(log_loss(target, probabilities, labels=np.arange(9)))
    assert scores.brier == pytest.approx(np.mean(np.sum((probabilities - np.eye(9)[target]) ** 2, axis=1)))
    assert scores.aurc == pytest.approx(np.mean([np.mean(~correct[confidence >= least]) for least in confidence]))
    assert scores.images_per_second == 12.5
    # Plain floats whatever the dtype.
    figures = dataclasses.asdict(scored(probabilities.astype(np.float32), target, unseen, p_unseen))
    assert {type(value) for value in figures.values()} == {float}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_a_supervised_system_has_zero_unseen_and_no_curve():
    probabilities, target, unseen = draw(2)
    probabilities[:, unseen] = 0
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    scores = scored(probabilities, target, unseen)
    assert (scores.unseen, scores.harmonic_mean) == (0.0, 0.0)
    assert (scores.nll, scores.ausuc, scores.gate_auroc) == (None, None, None)
    assert scores.seen > scores.accuracy > 0
    assert scores.ece_unseen == pytest.approx(probabilities[unseen[target]].max(axis=1).mean())


def test_figures_of_an_absent_group_are_none():
    probabilities, target, unseen = draw(3)
    scores = scored(probabilities, target, np.zeros(9, dtype=bool), np.zeros(len(target)))
    for field in ("unseen", "harmonic_mean", "ausuc", "gate_auroc", "ece_unseen"):
        assert getattr(scores, field) is None
    assert scores.ece == scores.ece_seen
    assert None not in (scores.accuracy, scores.seen, scores.nll)
    only = unseen[target]
    for scores in (
        scored(probabilities, target, np.ones(9, dtype=bool), np.ones(len(target))),
        scored(probabilities[only], target[only], unseen, np.ones(only.sum())),
    ):
        for field in ("seen", "harmonic_mean", "ausuc", "gate_auroc", "ece_seen"):
            assert getattr(scores, field) is None
        assert scores.unseen > 0
    scores = scored(np.empty((0, 3)), np.array([], dtype=int), np.array([True, False, False]), np.empty(0))
    assert scores == SystemScores(*[None] * 14, images_per_second=12.5), "without images every figure is None"


GOOD = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
TARGET, UNSEEN = np.array([0, 1]), np.array([False, False, True])


def test_score_system_refuses_impossible_input():
    given = {"probabilities": GOOD, "target": TARGET, "unseen": UNSEEN, "p_unseen": np.array([0.1, 0.1])}
    for change, message in (
        ({"probabilities": GOOD[0]}, "scores do not fit"),
        ({"probabilities": GOOD[:1]}, "target does not fit"),
        ({"probabilities": GOOD * 1.01}, "rows that sum to 1"),
        ({"probabilities": GOOD + np.array([0.5, -0.2, -0.3])}, "smallest value -0.2"),
        ({"probabilities": np.where(GOOD == 0.2, np.nan, GOOD)}, "NaN, .inf .* in 1 rows, first in row 0"),
        ({"probabilities": np.where(GOOD == 0.8, np.inf, GOOD)}, "first in row 1"),
        ({"target": np.array([0, 3])}, "0 to 2"),
        ({"target": np.array([-1, 1])}, "-1 to 1"),
        ({"target": np.array([0.0, 1.0])}, "float64"),
        ({"target": np.array([[0], [1]])}, "target does not fit"),
        ({"unseen": np.array([False, True])}, "mask of unseen"),
        ({"unseen": np.array([0, 0, 1])}, "mask of unseen"),
        ({"p_unseen": np.array([0.5])}, "arrays do not fit"),
        ({"p_unseen": np.array([0.5, 1.2])}, "values from 0 to 1"),
    ):
        with pytest.raises(MetricError, match=message):
            scored(**given | change)
    assert issubclass(MetricError, HybridError)


def test_rows_may_miss_one_as_far_as_half_precision_does():
    assert scored(GOOD * (1 + 0.9 * SUM_TOLERANCE), TARGET, UNSEEN).accuracy == 1.0
    probabilities, target, unseen = draw(4)
    half = scored(probabilities.astype(np.float16), target, unseen)
    assert half.nll == pytest.approx(scored(probabilities, target, unseen).nll, abs=1e-3)
