"""Calibration figures against torchmetrics, sklearn, a plain loop or a hand calculation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error
from torchmetrics.functional.classification import multiclass_calibration_error as torch_ece

from hybrid.errors import MetricError
from hybrid.evaluation.calibration import (
    Reliability,
    adaptive_bins,
    adaptive_calibration_error,
    brier,
    equal_width_bins,
    expected_calibration_error,
    negative_log_likelihood,
)

SEEDS = range(5)


def draw(seed: int, images: int = 200, classes: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Draw fair probabilities and targets."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, images)
    logits = rng.normal(size=(images, classes)) * 1.5
    logits[np.arange(images), target] += rng.normal(2.0, 1.5, size=images)
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(axis=1, keepdims=True), target


def log(probabilities: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


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
def test_equal_width_bins_equal_a_loop(seed, bins):
    rng = np.random.default_rng(seed)
    confidence = rng.random(120) ** 3  # crowded near 0, so that bins near 1 stay empty now and then
    correct = rng.random(120) < confidence
    found = equal_width_bins(confidence, correct, bins)
    np.testing.assert_allclose(rows_of(found), loop_over_bins(confidence, correct, bins))
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=bins)
    np.testing.assert_allclose([found.accuracy, found.confidence], [accuracy, mean_confidence])


@pytest.mark.parametrize("bins", [1, 4, 15])
@pytest.mark.parametrize("seed", SEEDS)
def test_adaptive_bins_equal_sorted_slices(seed, bins):
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


def test_adaptive_bins_share_what_images_of_equal_confidence_have_in_common():
    confidence = np.array([0.5, 0.5, 0.5, 0.9])
    for correct in ([True, False, False, True], [False, False, True, True]):
        found = adaptive_bins(confidence, np.array(correct), 2)
        np.testing.assert_allclose(rows_of(found), [[0.5, 0.5, 2, 0.5, 1 / 3], [0.5, 0.9, 2, 0.7, (1 / 3 + 1) / 2]])


@pytest.mark.parametrize("binned", [equal_width_bins, adaptive_bins])
def test_bins_without_images_are_none(binned):
    empty = binned(np.array([]), np.array([], dtype=bool))
    assert rows_of(empty).shape == (0, 5)
    assert empty.error is None
    few = binned(np.array([0.9, 0.8]), np.array([True, False]))
    np.testing.assert_array_equal(few.count, [1, 1])


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", SEEDS)
def test_expected_calibration_error_equals_torchmetrics(seed, bins):
    probabilities, target = draw(seed)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == target
    ours = expected_calibration_error(confidence, correct, bins)
    oracle = torch_ece(torch.tensor(probabilities), torch.tensor(target), num_classes=9, n_bins=bins)
    assert ours == pytest.approx(float(oracle), abs=1e-6)
    binary = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct).long(), n_bins=bins)
    assert ours == pytest.approx(float(binary), abs=1e-6)


def test_expected_calibration_error_by_hand_at_the_edges_of_bins():
    # bins (0, .5] and (.5, 1]: 0 and .5 fall in the first, 1 in the second
    confidence, correct = np.array([0.0, 0.5, 0.75, 1.0]), np.array([False, True, True, False])
    expected = (abs(0.5 - 1) + abs(1.75 - 1)) / 4
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_adaptive_calibration_error_equals_sklearns_quantile_bins(seed):
    rng = np.random.default_rng(seed)
    confidence = rng.random(300)
    correct = rng.random(300) < confidence**2
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=15, strategy="quantile")
    oracle = np.abs(accuracy - mean_confidence).mean()
    assert adaptive_calibration_error(confidence, correct) == pytest.approx(oracle)


def test_adaptive_calibration_error_by_hand():
    # images of equal confidence: their order must not matter
    equal, correct = np.full(40, 0.75), np.arange(40) < 30
    for order in (correct, np.random.default_rng(0).permutation(correct)):
        assert adaptive_calibration_error(equal, order) == pytest.approx(0.0, abs=1e-12)
    # fewer images than bins: the mean gap
    few = adaptive_calibration_error(np.array([0.9, 0.6, 0.8]), np.array([True, False, True]))
    assert few == pytest.approx((0.1 + 0.6 + 0.2) / 3)


@pytest.mark.parametrize("error", [expected_calibration_error, adaptive_calibration_error])
def test_calibration_errors_without_images_and_with_wrong_input(error):
    assert error(np.array([]), np.array([], dtype=bool)) is None
    one = np.array([True])
    for confidence in ([0.5, 0.5], [1.5], [-0.1], [np.nan]):
        with pytest.raises(MetricError):
            error(np.array(confidence), one)
    with pytest.raises(MetricError):
        error(np.array([0.5]), np.array([1]))
    with pytest.raises(MetricError, match="0 bins"):
        error(np.array([0.5]), one, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_likelihood_and_brier_equal_sklearn(seed):
    probabilities, target = draw(seed)
    before = probabilities.copy()
    oracle = log_loss(target, probabilities, labels=np.arange(9))
    assert negative_log_likelihood(log(probabilities), target) == pytest.approx(oracle)
    # one class against the rest, for that is all that older versions of sklearn have
    oracle = sum(brier_score_loss(target == k, probabilities[:, k], pos_label=True) for k in range(9))
    assert brier(probabilities, target) == pytest.approx(oracle)
    np.testing.assert_array_equal(probabilities, before)


def test_negative_log_likelihood_is_none_only_where_a_true_class_has_probability_zero():
    probabilities = np.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]])
    assert negative_log_likelihood(log(probabilities), np.array([0, 1])) == pytest.approx(-np.log(0.4) / 2)
    assert negative_log_likelihood(log(probabilities), np.array([0, 2])) is None
    assert negative_log_likelihood(np.empty((0, 3)), np.array([], dtype=int)) is None
    not_logarithms = np.array([[0.3, 0.1, 0.1]])
    with pytest.raises(MetricError):
        negative_log_likelihood(not_logarithms, np.array([0]))


def test_brier_at_its_ends():
    assert (brier(np.eye(2), np.array([0, 1])), brier(np.eye(2), np.array([1, 0]))) == (0.0, 2.0)
    assert brier(np.empty((0, 2)), np.array([], dtype=int)) is None
