from __future__ import annotations

import numpy as np
import pytest

from hybrid.encoders.base import fingerprint, unit_norm
from hybrid.index.texts import average_texts


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("counts", [[1], [1, 1, 1], [3], [2, 5, 1, 80]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_class_is_the_normalized_mean_of_its_texts(counts, dtype):
    texts = unit(np.random.default_rng(1).normal(size=(sum(counts), 16))).astype(dtype)
    averaged = average_texts(texts, counts)
    expected, start = [], 0
    for count in counts:
        mean = np.mean(texts[start : start + count].astype(np.float64), axis=0)
        expected.append(mean / np.sqrt(np.dot(mean, mean)))
        start += count
    assert averaged.dtype == np.float32
    assert averaged.shape == (len(counts), 16)
    assert np.allclose(averaged, expected, atol=1e-7)
    if max(counts) == 1:
        assert np.allclose(averaged, texts, atol=1e-7)


def test_every_text_of_a_class_counts_the_same_in_any_order():
    texts = unit(np.random.default_rng(3).normal(size=(6, 8)))
    assert np.allclose(average_texts(texts, [6]), average_texts(texts[::-1], [6]), atol=1e-7)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_unit_norm_scales_rows_to_length_one(scale, dtype):
    vectors = (scale * np.random.default_rng(4).normal(size=(7, 5))).astype(dtype)
    scaled = unit_norm(vectors)
    assert scaled.dtype == np.float32
    assert np.allclose(scaled, unit(vectors.astype(np.float64)), atol=1e-6)
    assert np.array_equal(unit_norm(0 * vectors), np.zeros((7, 5)))


def test_a_fingerprint_depends_on_the_parts_not_on_their_order():
    one = fingerprint({"a": 1, "b": {"c": "x", "d": None}})
    assert one == fingerprint({"b": {"d": None, "c": "x"}, "a": 1})
    assert one != fingerprint({"a": 1, "b": {"c": "x", "d": 0}})
    assert len(one) == 16
    assert int(one, 16) >= 0
