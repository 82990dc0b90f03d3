"""Predicted means against scikit-learn's ridge regression, posterior means against plain sums."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from hybrid.gate.gaussians import RIDGE, TEXT_WORTH, posterior_means, predict_means

CLASSES = 9


@pytest.fixture(params=[5, 6, 12], ids=["long", "square", "wide"])
def drawn(request):
    """Texts, means with NaN where nobody may look, and which six are known: in mixed order."""
    dim = request.param
    rng = np.random.default_rng(0)
    known = np.array([1, 0, 1, 1, 0, 1, 1, 0, 1], bool)
    texts = rng.normal(size=(CLASSES, dim)) + 3
    means = np.where(known[:, None], rng.normal(size=(CLASSES, dim)) + 0.3 * texts, np.nan)
    return texts, means, known


def test_the_constants():
    assert (RIDGE, TEXT_WORTH) == (1.0, 1.0)


def fit_ridge(texts: np.ndarray, means: np.ndarray, rows: np.ndarray, all_known: np.ndarray, slope: float):
    """Ridge on some classes; center and strength are those of all known ones."""
    centered = texts - texts[all_known].mean(axis=0)
    strength = np.mean([text @ text for text in centered[all_known]])
    ridge = Ridge(alpha=strength, fit_intercept=False, solver="cholesky")
    return ridge.fit(centered[rows], means[rows] - slope * centered[rows]).predict(centered) + slope * centered


@pytest.mark.parametrize("slope", [0.0, 0.3, -1.0])
def test_it_is_scikit_learns_ridge_on_the_residual(drawn, slope):
    texts, means, known = drawn
    found = predict_means(texts, means, known, slope=slope)
    np.testing.assert_allclose(found, fit_ridge(texts, means, known, known, slope), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_leaving_each_class_out_is_a_refit(drawn, slope):
    texts, means, known = drawn
    found = predict_means(texts, means, known, slope=slope, without_own=True)
    plain = predict_means(texts, means, known, slope=slope)
    for c in range(CLASSES):
        rows = known & (np.arange(CLASSES) != c)
        expected = fit_ridge(texts, means, rows, known, slope)[c]
        np.testing.assert_allclose(found[c], expected, rtol=1e-9, atol=1e-12)
        assert np.allclose(found[c], plain[c]) == (not known[c])


def test_a_class_does_not_see_its_own_mean(drawn):
    texts, means, known = drawn
    moved = means.copy()
    moved[3] += 100
    before, after = (predict_means(texts, m, known, slope=0.3, without_own=True) for m in (means, moved))
    np.testing.assert_allclose(after[3], before[3], rtol=1e-9)
    assert np.abs(after[2] - before[2]).max() > 1


def test_what_is_given_is_not_changed(drawn):
    texts, means, known = (part.copy() for part in drawn)
    predict_means(texts, means, known, slope=0.3, without_own=True)
    for before, after in zip(drawn, (texts, means, known), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("without_own", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_one_known_class_teaches_nothing(drawn, slope, without_own):
    """Its centered text is nought: only the slope is left."""
    texts, means, _ = drawn
    known = np.arange(CLASSES) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predict_means(texts, means, known, slope=slope, without_own=without_own)
        alone = predict_means(texts[2:3], means[2:3], known[2:3], slope=slope, without_own=without_own)
    np.testing.assert_allclose(found, slope * (texts - texts[2]), atol=1e-12)
    np.testing.assert_allclose(alone, np.zeros_like(texts[:1]), atol=1e-12)


@pytest.mark.parametrize("without_own", [False, True])
def test_known_classes_of_one_text(drawn, without_own):
    texts, means, known = drawn
    found = predict_means(np.broadcast_to(texts[0], texts.shape), means, known, without_own=without_own)
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_another_unknown_class_changes_no_prediction(drawn):
    texts, means, known = drawn
    fewer = predict_means(texts[:7], means[:7], known[:7], slope=0.3)
    rows = np.r_[0:7, 7]
    more = predict_means(texts[rows], means[rows], known[rows], slope=0.3)
    np.testing.assert_allclose(more[:7], fewer, rtol=1e-10)


def test_posterior_means_by_hand():
    predicted = np.array([[1.0, 0.0], [4.0, 4.0], [9.0, 9.0], [7.0, -7.0]])
    sums = np.array([[3.0, 3.0], [0.0, 0.0], [2.0, 6.0], [1.0, 2.0]])
    # One imaginary image and three; two imaginary ones alone; no imaginary one; half a one and one.
    found = posterior_means(predicted, np.array([1.0, 2.0, 0.0, 0.5]), sums, np.array([3, 0, 4, 1]))
    np.testing.assert_allclose(found, [[1.0, 0.75], [4, 4], [0.5, 1.5], [3.0, -1.0]])
