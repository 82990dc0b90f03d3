from __future__ import annotations

import numpy as np
import pytest

from hybrid.fusion.calibration import log_softmax
from hybrid.fusion.experts import geometric_mean, zero_shot_logits


def test_zero_shot_logits_by_hand():
    photos = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    classes = np.array([[0, 1], [1, 0], [0.8, 0.6]], dtype=np.float32)
    found = zero_shot_logits(photos, classes, 10.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0, 10, 8], [8, 6, 9.6]], rtol=1e-6)


def test_zero_shot_logits_of_no_photos_and_of_no_classes():
    vectors = np.eye(3, dtype=np.float32)
    assert zero_shot_logits(np.empty((0, 3), np.float32), vectors, 5.0).shape == (0, 3)
    assert zero_shot_logits(vectors, np.empty((0, 3), np.float32), 5.0).shape == (3, 0)


def test_geometric_mean_by_hand():
    first = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    second = np.array([[0.02, 0.18, 0.8], [0.1, 0.1, 0.8]])
    roots = np.sqrt(first * second)
    expected = roots / roots.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(geometric_mean(np.log(first), np.log(second))), expected, rtol=1e-12)
    # sqrt(0.01) : sqrt(0.045) : sqrt(0.2)
    np.testing.assert_allclose(expected[0], np.array([0.1, 0.2121320344, 0.4472135955]) / 0.7593456299, rtol=1e-9)
    np.testing.assert_allclose(expected[1], first[1], rtol=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_geometric_mean_is_symmetric_and_sums_to_one(size):
    rng = np.random.default_rng(0)
    first, second = (log_softmax(size * rng.normal(size=(20, 6))) for _ in range(2))
    mean = geometric_mean(first, second)
    assert np.array_equal(mean, geometric_mean(second, first))
    np.testing.assert_allclose(np.exp(mean).sum(axis=1), 1, rtol=1e-12)
    # A constant factor of one opinion changes nothing: it is normalised away.
    np.testing.assert_allclose(mean, geometric_mean(first + 3.0, second), rtol=1e-9, atol=1e-9)
