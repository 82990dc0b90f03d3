"""`MeanCache` against loops, and that classes without images stay in the game."""

import numpy as np
import pytest

from benchmarks.few_shot.peers import TipAdapter
from hybrid.gate.few_shot.mean_cache import MeanCache

SCALE = 40.0


@pytest.fixture
def world(make_world):
    """20, 3, 1 and 6 images of the first four of eight classes, texts, test images of all."""
    whole = make_world(seed=3, seen=4, unseen=4, train=20, test=30, dim=12, noise=0.25, vague=0.35)
    rows = np.flatnonzero(np.tile(np.arange(20), 4) < np.array([20, 3, 1, 6])[whole.train.target])
    return whole.train.embeddings[rows], whole.train.target[rows], whole.texts, whole.test.embeddings, whole.test.target


def test_against_loops(world):
    images, target, texts, test, _ = world
    found = MeanCache(SCALE, alpha=0.1, beta=3.0).fit(images, target, texts).logits(test)
    both = [(a, b) for a in zip(target, images, strict=True) for b in zip(target, images, strict=True)]
    pairs = [np.exp(-3 * (1 - a[1] @ b[1])) for a, b in both if a[0] != b[0]]
    for row, image in enumerate(test[:20]):
        for c, text in enumerate(texts):
            own = [np.exp(-3 * (1 - image @ other)) for other in images[target == c]]
            gain = np.mean(own) - np.mean(pairs) if own else 0.0
            assert found[row, c] == pytest.approx(SCALE * (image @ text + 0.1 * gain), rel=1e-9)


def test_images_do_not_take_those_of_classes_without(world):
    """Many images of some classes: Tip-Adapter's sums draw all else to them, means do not."""
    images, target, texts, test, truth = world
    without = truth >= 4

    def right(expert):
        answers = expert.fit(images, target, texts).logits(test).argmax(axis=1)
        return (answers == truth)[without].mean(), (answers == truth)[~without].mean()

    zero_shot = ((SCALE * test @ texts.T).argmax(axis=1) == truth)[without].mean()
    mean, own = right(MeanCache(SCALE))
    summed, _ = right(TipAdapter(SCALE, alpha=1.0))
    assert mean >= zero_shot - 0.03
    assert mean > summed
    assert own >= ((SCALE * test @ texts.T).argmax(axis=1) == truth)[~without].mean()


def test_one_class_alone_has_nothing_to_be_compared_with(world):
    images, target, texts, test, _ = world
    expert = MeanCache(SCALE).fit(images[target == 0], target[target == 0], texts)
    assert expert.between_ == 0.0
    others = expert.logits(test)[:, 1:]
    np.testing.assert_allclose(others, SCALE * test @ texts[1:].T, rtol=1e-9)
