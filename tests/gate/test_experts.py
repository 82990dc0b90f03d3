from __future__ import annotations

import numpy as np

from hybrid.gate.evidence import zero_shot_logits


def test_zero_shot_logits_by_hand():
    images = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    classes = np.array([[0, 1], [1, 0], [0.8, 0.6]], dtype=np.float32)
    found = zero_shot_logits(images, classes, 10.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0, 10, 8], [8, 6, 9.6]], rtol=1e-6)


def test_zero_shot_logits_of_no_images_and_of_no_classes():
    vectors = np.eye(3, dtype=np.float32)
    assert zero_shot_logits(np.empty((0, 3), np.float32), vectors, 5.0).shape == (0, 3)
    assert zero_shot_logits(vectors, np.empty((0, 3), np.float32), 5.0).shape == (3, 0)
