"""Risk-coverage curve and area against a plain loop over thresholds and hand calculations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_score

from hybrid.errors import MetricError
from hybrid.evaluation.calibration import aurc, risk_coverage

SEEDS = range(5)


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
def test_curve_and_area_equal_a_loop_over_thresholds(seed, digits):
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.random(150), digits)  # one digit: many ties
    correct = rng.random(150) < confidence
    points, area = loop_over_thresholds(confidence, correct)
    curve = risk_coverage(confidence, correct)
    np.testing.assert_allclose([curve.threshold, curve.coverage, curve.risk], points, atol=1e-12)
    assert aurc(curve) == pytest.approx(area)


def test_four_images_by_hand():
    curve = risk_coverage(np.array([0.6, 0.9, 0.7, 0.6]), np.array([False, True, False, True]))
    np.testing.assert_allclose(curve.threshold, [0.9, 0.7, 0.6])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 1.0])
    np.testing.assert_allclose(curve.risk, [0.0, 0.5, 0.5])
    assert aurc(curve) == pytest.approx((0 + 0.5 + 0.5 + 0.5) / 4)


def test_a_confidence_that_says_nothing_has_the_error_rate_as_its_area():
    correct = np.arange(40) < 30
    for order in (correct, correct[::-1], np.random.default_rng(0).permutation(correct)):
        assert aurc(risk_coverage(np.full(40, 0.7), order)) == pytest.approx(0.25)


def test_the_order_of_the_images_does_not_matter_and_the_best_order_has_the_least_area():
    rng = np.random.default_rng(1)
    correct = rng.random(60) < 0.7
    confidence = np.round(rng.random(60), 1)
    shuffled = rng.permutation(60)
    area = aurc(risk_coverage(confidence, correct))
    assert aurc(risk_coverage(confidence[shuffled], correct[shuffled])) == pytest.approx(area)
    assert aurc(risk_coverage(correct.astype(float), correct)) < area
    assert aurc(risk_coverage(rng.random(60), np.ones(60, dtype=bool))) == 0.0
    assert aurc(risk_coverage(rng.random(60), np.zeros(60, dtype=bool))) == 1.0


def test_float32_is_taken():
    confidence = np.array([0.25, 0.5], dtype=np.float32)
    assert aurc(risk_coverage(confidence, np.array([False, True]))) == pytest.approx(0.25)


def test_without_images_and_with_wrong_input():
    empty = risk_coverage(np.array([]), np.array([], dtype=bool))
    assert empty.coverage.shape == (0,)
    assert aurc(empty) is None
    for confidence, correct in (([0.5, 0.5], [True]), ([1.5], [True]), ([np.nan], [True]), ([0.5], [1])):
        with pytest.raises(MetricError):
            risk_coverage(np.array(confidence), np.array(correct))
