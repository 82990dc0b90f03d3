"""Held-out probabilities against a discriminant the long way, and zero-shot's part against a hand calculation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import StratifiedKFold

from hybrid.gate.calibration import fit_temperature
from hybrid.tools.audit.probabilities import ZeroShot, class_probabilities, held_out_logits

from .conftest import draw_clusters


def oracle(vectors, target, folds):
    """log N(image; mean, within) of every held-out image, the long way, up to a constant."""
    logits = np.zeros((len(target), target.max() + 1))
    for rest, held in StratifiedKFold(folds, shuffle=True, random_state=0).split(vectors, target):
        x, y = vectors[rest].astype(np.float64), target[rest]
        means = np.stack([x[y == c].mean(axis=0) for c in range(target.max() + 1)])
        within = ledoit_wolf(x - means[y], assume_centered=True)[0] * len(y) / (len(y) - len(means))
        for row in held:
            for c, mean in enumerate(means):
                centred = vectors[row] - mean
                logits[row, c] = -0.5 * centred @ np.linalg.solve(within, centred)
    return logits


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize(("counts", "folds"), [((4, 3, 4), 4), ((3, 3), 3), ((12, 3, 6), 5)])
def test_every_image_is_scored_without_itself(counts, folds):
    vectors, target, _ = draw_clusters(counts)
    logits = held_out_logits(vectors, target)
    assert logits.shape == (sum(counts), len(counts))
    ours, theirs = (log_softmax(values, axis=1) for values in (logits, oracle(vectors, target, folds)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_wrong_label_does_not_vouch_for_itself_and_small_classes_bring_no_warning():
    vectors, target, _ = draw_clusters((10, 10, 10), noise=0.05)
    given = target.copy()
    given[0] = 2
    assert held_out_logits(vectors, given)[0].argmax() == 0
    vectors, target, _ = draw_clusters((12, 3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held_out_logits(vectors, target)


def calibrated(logits, target):
    return softmax(scaled(logits) / fit_temperature(scaled(logits), target), axis=1)


def scaled(logits):
    return logits / np.median(logits.std(axis=1))


def test_probabilities_of_images_alone_are_calibrated_logits():
    vectors, target, _ = draw_clusters((8, 8, 8), noise=0.5)
    logits = held_out_logits(vectors, target)
    probabilities = class_probabilities(logits, target)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities, calibrated(logits, target))
    np.testing.assert_allclose(class_probabilities(1000 * logits, target), probabilities, rtol=1e-6)


@pytest.mark.parametrize("named", [(True, True, True), (True, False, True)])
def test_zero_shot_shares_out_what_the_named_classes_have(named):
    vectors, target, centers = draw_clusters((8, 8, 8), noise=0.5)
    logits, named = held_out_logits(vectors, target), np.array(named)
    zero_shot = ZeroShot(20 * vectors @ centers[named].T, named)
    probabilities = class_probabilities(logits, target, zero_shot)

    first = calibrated(logits, target)
    rows, position = named[target], np.cumsum(named) - 1
    z = scaled(zero_shot.logits.astype(np.float64))
    second = softmax(z / fit_temperature(z[rows], position[target[rows]]), axis=1)
    joined = first.copy()
    product = first[:, named] * second
    joined[:, named] = first[:, named].sum(axis=1, keepdims=True) * product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, calibrated(np.log(joined), target), rtol=1e-6, atol=1e-12)


def test_zero_shot_helps():
    vectors, target, centers = draw_clusters((5, 5, 5, 5), noise=0.45, seed=2)
    logits = held_out_logits(vectors, target)
    own = np.arange(len(target)), target
    alone = class_probabilities(logits, target)[own]
    joined = class_probabilities(logits, target, ZeroShot(20 * vectors @ centers.T, np.ones(4, np.bool_)))[own]
    assert np.log(joined).mean() > np.log(alone).mean() + 0.05


def test_one_name_says_nothing():
    vectors, target, centers = draw_clusters((6, 6, 6))
    logits = held_out_logits(vectors, target)
    for named in (np.zeros(3, np.bool_), np.array([True, False, False])):
        joined = class_probabilities(logits, target, ZeroShot(20 * vectors @ centers[named].T, named))
        np.testing.assert_array_equal(joined, class_probabilities(logits, target))


def test_classes_without_spread_are_calibrated_too():
    """Images that hardly differ, of which two carry the wrong label: the discriminant's numbers are huge."""
    for noise in (1e-7, 1e-5, 1e-3):
        vectors, target, _ = draw_clusters((8, 8, 8), noise=noise)
        target[[0, 9]] = 2, 0
        probabilities = class_probabilities(held_out_logits(vectors, target), target)
        assert np.isfinite(probabilities).all()
        assert probabilities[[0, 9]].argmax(axis=1).tolist() == [0, 1]
    same, target = np.tile(np.eye(6, dtype=np.float32)[:1], (8, 1)), np.repeat([0, 1], 4)
    np.testing.assert_allclose(class_probabilities(held_out_logits(same, target), target), 0.5, atol=1e-6)
