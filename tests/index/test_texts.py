from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from hybrid.encoders.base import fingerprint, unit_norm
from hybrid.index.texts import MANY, average_texts, embed_classes, equal_rows, text_notes
from hybrid.labels.prompts import PromptClass, Templates


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_class_is_the_normalized_mean_of_its_texts(dtype):
    for counts in ([1, 1, 1], [3], [2, 5, 1, 80]):
        texts = unit(np.random.default_rng(1).normal(size=(sum(counts), 16))).astype(dtype)
        averaged = average_texts(texts, counts)
        parts = np.split(texts.astype(np.float64), np.cumsum(counts)[:-1])
        assert averaged.dtype == np.float32
        assert averaged.shape == (len(counts), 16)
        assert np.allclose(averaged, unit(np.stack([part.mean(axis=0) for part in parts])), atol=1e-7)


def test_unit_norm_scales_rows_to_length_one():
    for dtype in (np.float16, np.float32, np.float64):
        for scale in (1e-3, 1.0, 1e3):
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


class Reader:
    """An encoder that reads four words."""

    uses_templates = True

    def truncated(self, texts):
        return [len(text.split()) > 4 for text in texts]


class Lengths:
    """An encoder that knows of a text only how long it is."""

    uses_templates, fingerprint = True, "lengths"

    def encode_texts(self, texts):
        return unit(np.array([[len(text), 9.0] for text in texts])).astype(np.float32)


def test_many_texts_are_encoded_under_a_bar_that_ends_at_its_end():
    opened, steps = [], []

    @contextmanager
    def bar(total):
        opened.append(total)
        yield steps.append

    prompts = [PromptClass("x" * length) for length in range(1, MANY)]
    two = Templates("two", ("{}", "a {}!"))
    vectors = embed_classes(Lengths(), prompts, two, None, bar)
    # "xx" and "a x!" are different texts, however alike their vectors are.
    assert opened == [sum(steps)] == [2 * len(prompts)]
    assert len(steps) > 3
    for row in (0, 31, 32, 63, 64, MANY - 2):
        alone = embed_classes(Lengths(), prompts[row : row + 1], two, None, bar)
        np.testing.assert_allclose(vectors[row : row + 1], alone, atol=1e-7)
    assert len(opened) == 1, "none for a handful"


def test_equal_rows_are_found_among_many():
    rng = np.random.default_rng(5)
    vectors = unit(rng.normal(size=(400, 32))).astype(np.float32)
    vectors[7] = vectors[300] + 1e-7
    vectors[[11, 12, 399]] = vectors[2]
    assert equal_rows(vectors) == [[2, 11, 12, 399], [7, 300]]
    assert equal_rows(unit(rng.normal(size=(50, 8)))) == []
    assert equal_rows(np.empty((0, 8))) == []


def test_notes_on_prompts_that_are_cut_or_equal():
    prompts = [PromptClass(name) for name in ("ox", "a very very large ox", "Ox", "yak")]
    vectors = unit(np.random.default_rng(6).normal(size=(4, 16)))
    vectors[2] = vectors[0]
    templates = Templates("mine", ("{}", "a {}"))
    cut, equal = text_notes(Reader(), prompts, templates, vectors)
    assert cut.startswith("WARNING")
    assert cut.endswith("counts for nothing: a very very large ox")
    assert equal.endswith("equal: ox = Ox")
    (many,) = text_notes(Reader(), [PromptClass(f"n{i}") for i in range(9)], templates, vectors[[0] * 9])
    assert many.endswith("equal: n0 = n1 = n2 = n3 and 5 more")
    assert text_notes(Reader(), prompts[:1], templates, vectors[:1]) == ()
    (long,) = text_notes(Reader(), [PromptClass("red " * 90 + "ox")], templates, vectors[:1])
    assert len(long) < 200
    assert long.endswith("red ox")
