"""Calibration and risk-coverage figures against torchmetrics, sklearn, a plain loop or a hand calculation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_score
from torchmetrics.functional.classification import binary_calibration_error

from hybrid.errors import MetricError
from hybrid.evaluation.calibration import (
    Reliability,
    adaptive_bins,
    aurc,
    brier,
    equal_width_bins,
    risk_coverage,
)

SEEDS = range(5)
NO_IMAGES = np.array([]), np.array([], dtype=bool)


def loop_over_bins(confidence: np.ndarray, correct: np.ndarray, bins: int) -> list[tuple]:
    """Look at every bin's images again: slow, and plainly right."""
    rows = []
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = (confidence > low) & (confidence <= high) | (k == 0) & (confidence == 0)
        if inside.any():
            rows.append((low, high, inside.sum(), confidence[inside].mean(), correct[inside].mean()))
    return rows


def rows_of(bins: Reliability) -> np.ndarray:
    return np.stack([bins.low, bins.high, bins.count, bins.confidence, bins.accuracy], axis=1)


@pytest.mark.parametrize("bins", [1, 7, 15])
@pytest.mark.parametrize("seed", SEEDS)
def test_equal_width_bins_and_their_error(seed, bins):
    rng = np.random.default_rng(seed)
    confidence = rng.random(120) ** 3  # crowded near 0, so that bins near 1 stay empty now and then
    correct = rng.random(120) < confidence
    found = equal_width_bins(confidence, correct, bins)
    np.testing.assert_allclose(rows_of(found), loop_over_bins(confidence, correct, bins))
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=bins)
    np.testing.assert_allclose([found.accuracy, found.confidence], [accuracy, mean_confidence])
    oracle = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct).long(), n_bins=bins)
    assert equal_width_bins(confidence, correct, bins).error == pytest.approx(float(oracle), abs=1e-6)


def test_expected_calibration_errors_by_hand_at_the_edges_of_bins():
    # bins (0, .5] and (.5, 1]: 0 and .5 fall in the first, 1 in the second
    confidence, correct = np.array([0.0, 0.5, 0.75, 1.0]), np.array([False, True, True, False])
    expected = (abs(0.5 - 1) + abs(1.75 - 1)) / 4
    assert equal_width_bins(confidence, correct, bins=2).error == pytest.approx(expected)


@pytest.mark.parametrize("bins", [1, 4, 15])
@pytest.mark.parametrize("seed", SEEDS)
def test_adaptive_bins_and_their_error(seed, bins):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(101), rng.random(101) < 0.6
    found = adaptive_bins(confidence, correct, bins)
    assert found.count.sum() == 101
    assert found.count.max() - found.count.min() <= 1
    order, start = np.argsort(confidence), 0
    for low, high, count, mean_confidence, accuracy in rows_of(found):
        part = order[start : start + int(count)]
        start += int(count)
        expected = [confidence[part].min(), confidence[part].max(), confidence[part].mean(), correct[part].mean()]
        np.testing.assert_allclose([low, high, mean_confidence, accuracy], expected)
    # where bins hold equally many, sklearn's quantile bins are the same
    accuracy, mean_confidence = calibration_curve(correct[:60], confidence[:60], n_bins=bins, strategy="quantile")
    error = adaptive_bins(confidence[:60], correct[:60], bins).error
    assert error == pytest.approx(np.abs(accuracy - mean_confidence).mean())


def test_adaptive_bins_share_what_images_of_equal_confidence_have_in_common():
    confidence = np.array([0.5, 0.5, 0.5, 0.9])
    for correct in ([True, False, False, True], [False, False, True, True]):
        found = adaptive_bins(confidence, np.array(correct), 2)
        np.testing.assert_allclose(rows_of(found), [[0.5, 0.5, 2, 0.5, 1 / 3], [0.5, 0.9, 2, 0.7, (1 / 3 + 1) / 2]])
    # fewer images than bins: the mean gap
    few = adaptive_bins(np.array([0.9, 0.6, 0.8]), np.array([True, False, True])).error
    assert few == pytest.approx((0.1 + 0.6 + 0.2) / 3)


def unbiased_squared_gaps(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Sum over bins of products of two different images' misses: its mean is the squared gap, whatever chance does."""
    products, images = 0.0, 0
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        gap = confidence[inside].mean() - correct[inside] if inside.any() else np.empty(0)
        if (n := len(gap)) > 1:
            products += n * (np.outer(gap, gap).sum() - np.square(gap).sum()) / (n * (n - 1))
            images += n
    return products / images


@pytest.mark.parametrize("seed", SEEDS)
def test_debiased_error_is_the_root_of_an_unbiased_mean_square(seed):
    rng = np.random.default_rng(seed)
    confidence = rng.random(150) ** 2
    correct = rng.random(150) < confidence + 0.1 * seed
    squared = unbiased_squared_gaps(confidence, correct)
    found = equal_width_bins(confidence, correct).debiased_error
    assert found == pytest.approx(np.sign(squared) * np.sqrt(abs(squared)))


def test_debiased_error_is_about_0_where_the_labels_come_from_the_probabilities_themselves():
    plain, debiased = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        probabilities = rng.dirichlet(np.ones(6), size=796)
        target = (probabilities.cumsum(axis=1) < rng.random((796, 1))).sum(axis=1)
        confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == target
        found = equal_width_bins(confidence, correct)
        plain.append(found.error)
        debiased.append(found.debiased_error)
    assert np.mean(plain) > 0.03
    assert abs(np.mean(debiased)) < 0.01
    assert abs(np.mean(np.sign(debiased) * np.square(debiased))) < 2e-4
    # Where every probability is .1 too high, the error is that.
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1.0, 20_000)
    found = equal_width_bins(confidence, rng.random(20_000) < confidence - 0.1)
    assert found.debiased_error == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("binned", [equal_width_bins, adaptive_bins])
def test_calibration_errors_without_images_and_with_wrong_input(binned):
    assert rows_of(binned(*NO_IMAGES)).shape == (0, 5)
    assert binned(*NO_IMAGES).error is None
    assert binned(*NO_IMAGES).debiased_error is None
    assert binned(np.array([0.7]), np.array([True])).debiased_error is None, "one image says nothing of its bin"
    np.testing.assert_array_equal(binned(np.array([0.9, 0.8]), np.array([True, False])).count, [1, 1])
    with pytest.raises(MetricError, match="0 bins"):
        binned(np.array([0.5]), np.array([True]), 0)


@pytest.mark.parametrize("figure", [equal_width_bins, adaptive_bins, risk_coverage])
def test_impossible_input_is_refused(figure):
    for confidence, correct in (
        ([0.5, 0.5], [True]),
        ([1.5], [True]),
        ([-0.1], [True]),
        ([np.nan], [True]),
        ([0.5], [1]),
    ):
        with pytest.raises(MetricError):
            figure(np.array(confidence), np.array(correct))


def test_brier_at_its_ends():
    assert (brier(np.eye(2), np.array([0, 1])), brier(np.eye(2), np.array([1, 0]))) == (0.0, 2.0)
    assert brier(np.empty((0, 2)), np.array([], dtype=int)) is None


def loop_over_thresholds(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, float]:
    """Answer the whole set again at every threshold; the area as its definition says it."""
    points = []
    for threshold in sorted(set(confidence.tolist()), reverse=True):
        answered = confidence >= threshold
        # risk is one minus the precision of "answered" as a prediction of "right"
        risk = 1 - precision_score(correct, answered)
        points.append([threshold, answered.mean(), risk])
    return np.array(points).T, float(np.mean([np.mean(~correct[confidence >= least]) for least in confidence]))


@pytest.mark.parametrize("digits", [1, 2, 9])
@pytest.mark.parametrize("seed", SEEDS)
def test_risk_coverage_equals_a_loop_over_thresholds_in_any_order(seed, digits):
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.random(150), digits)  # one digit: many ties
    correct = rng.random(150) < confidence
    points, area = loop_over_thresholds(confidence, correct)
    for order in (np.arange(150), rng.permutation(150)):
        curve = risk_coverage(confidence[order], correct[order])
        np.testing.assert_allclose([curve.threshold, curve.coverage, curve.risk], points, atol=1e-12)
        assert aurc(curve) == pytest.approx(area)
    assert aurc(risk_coverage(confidence, np.ones(150, dtype=bool))) == 0.0
    assert aurc(risk_coverage(confidence, np.zeros(150, dtype=bool))) == pytest.approx(1)


def test_risk_coverage_by_hand():
    curve = risk_coverage(np.array([0.6, 0.9, 0.7, 0.6]), np.array([False, True, False, True]))
    np.testing.assert_allclose(curve.threshold, [0.9, 0.7, 0.6])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 1.0])
    np.testing.assert_allclose(curve.risk, [0.0, 0.5, 0.5])
    assert aurc(curve) == pytest.approx((0 + 0.5 + 0.5 + 0.5) / 4)
    # A confidence that says nothing has the error rate as its area.
    assert aurc(risk_coverage(np.full(40, 0.7, dtype=np.float32), np.arange(40) < 30)) == pytest.approx(0.25)
    assert risk_coverage(*NO_IMAGES).coverage.shape == (0,)
    assert aurc(risk_coverage(*NO_IMAGES)) is None
