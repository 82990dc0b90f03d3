"""Answers that are found together, against a loop over images and classes."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.gate import transduction
from hybrid.gate.decide import Decider
from hybrid.gate.evidence import Scorer
from hybrid.gate.policy import Policy
from hybrid.gate.transduction import ClassSums, transduce


@pytest.fixture
def draw():
    """Images of five classes, of which two are known by their texts alone, and what is known of each."""

    def make(images: int = 14, seed: int = 0) -> tuple[np.ndarray, np.ndarray, ClassSums]:
        rng = np.random.default_rng(seed)
        counts = np.array([4.0, 3.0, 2.0, 1.0, 1.0])
        means = rng.normal(size=(5, 6))
        root = rng.normal(size=(6, 6))
        classes = ClassSums(means * counts[:, None], counts, root @ root.T / 6 + np.eye(6))
        embeddings = means[rng.integers(5, size=images)] + rng.normal(size=(images, 6))
        logits = rng.normal(size=(images, 5))
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), embeddings, classes

    return make


def loop(log_p: np.ndarray, images: np.ndarray, known: ClassSums, rounds: int = 5, weight: float = 0.3) -> np.ndarray:
    """The recipe word for word: each image against each class's mean, which all others and its labeled images make."""

    def likelihood(image: np.ndarray, mean: np.ndarray) -> float:
        return image @ known.precision @ mean - mean @ known.precision @ mean / 2

    answer = np.exp(log_p)
    for _ in range(rounds):
        moved = np.empty_like(answer)
        for i, image in enumerate(images):
            for c in range(len(known.counts)):
                others = [j for j in range(len(images)) if j != i]
                sums = known.sums[c] + sum((answer[j, c] * images[j] for j in others), np.zeros(len(image)))
                count = known.counts[c] + sum(answer[j, c] for j in others)
                change = likelihood(image, sums / count) - likelihood(image, known.sums[c] / known.counts[c])
                moved[i, c] = np.exp(log_p[i, c] + weight * change)
        answer = moved / moved.sum(axis=1, keepdims=True)
    return answer


@pytest.mark.parametrize("at_once", [transduction.AT_ONCE, 20], ids=["in one part", "in four"])
def test_transduction_is_the_recipe_of_the_loop(draw, monkeypatch, at_once):
    monkeypatch.setattr(transduction, "AT_ONCE", at_once)
    for seed in range(3):
        log_p, images, classes = draw(seed=seed)
        before = log_p.copy()
        found = np.exp(transduce(log_p, images, classes))
        np.testing.assert_allclose(found, loop(log_p, images, classes), atol=2e-6)
        np.testing.assert_array_equal(log_p, before)
        assert np.abs(found - np.exp(log_p)).max() > 0.05


def test_an_image_alone_keeps_its_answer_and_many_make_each_other_better(draw):
    log_p, images, classes = draw(images=1)
    np.testing.assert_allclose(transduce(log_p, images, classes), log_p, atol=1e-5)
    # A class of which nothing but a wrong text is known: its images, which lie together, say where it is.
    rng = np.random.default_rng(0)
    target = np.repeat([0, 1], 40)
    images = np.eye(4)[target] * 3 + rng.normal(scale=0.5, size=(80, 4))
    sums = np.array([[30.0, 0, 0, 0], [2.0, 1.0, 0, 0]])
    known = ClassSums(sums, np.array([10.0, 1.0]), np.eye(4))
    logits = np.where(np.arange(2) == target[:, None], 0.0, rng.normal(scale=2.0, size=(80, 2)) - 2.5)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found = transduce(log_p, images, known)
    rows = np.arange(80)
    assert found[rows, target].mean() > log_p[rows, target].mean() + 0.05
    assert np.mean(found.argmax(axis=1) == target) > np.mean(log_p.argmax(axis=1) == target)


def test_sums_of_a_label_space_with_every_kind_of_class(large):
    space = large.space(prompted=(8, 9), more={8: 3}, added={10: 4}, image_only={11: 5})
    scorer = Scorer(large.gaussians, space.texts, large.scale, space.support)
    known = scorer.class_sums()
    both = large.train + large.val
    predicted = scorer.likelihood.predicted
    for place, label in enumerate(space.order):
        shown = {8: 3, 9: 0, 10: 4, 11: 5}.get(label)
        of_test = large.test.embeddings[large.test.target == label][:shown]
        own = both.embeddings[both.target == label] if shown is None else of_test
        text = predicted[place] if label != 11 else np.zeros(predicted.shape[1])
        np.testing.assert_allclose(known.sums[place], own.sum(axis=0) + text, atol=1e-6)
        assert known.counts[place] == len(own) + (label != 11)
    images = large.test.embeddings
    decide = Decider(large.fitted(), space.texts, large.scale, Policy(transductive=True), space.support)
    own = decide(images, large.head(images)).fused
    together = decide.together(own.log_probabilities, images)
    np.testing.assert_allclose(np.exp(together).sum(axis=1), 1, atol=1e-5)
    assert together.shape == own.log_probabilities.shape == (len(images), 12)
    np.testing.assert_allclose(own.moved(together, 8).p_unseen, np.exp(together[:, 8:]).sum(axis=1), atol=1e-5)
