"""Every score against a loop over images and classes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hybrid.errors import GateError
from hybrid.gate.episodes import image_folds
from hybrid.gate.evidence import PER_IMAGE, Scorer, out_of_fold, zero_shot_logits
from hybrid.gate.gaussians import ClassGaussians, TextMap
from hybrid.gate.support import Likelihood

SEEN, SCALE = 6, 20.0
TEXT_MAP = TextMap(0.3, 0.4)


@pytest.fixture
def world(make_world):
    return make_world()


@pytest.fixture
def scored(world):
    images = world.test.embeddings
    return images, Scorer(world.gaussians, world.texts, SCALE)(images, world.head(images))


def test_head_gda_and_ood_score(world, scored):
    images, evidence = scored
    for row, logits in enumerate(world.head(images)):
        np.testing.assert_allclose(evidence.head[row], logits - np.log(np.sum(np.exp(logits))), rtol=1e-9)
    np.testing.assert_allclose(evidence.gda, world.gaussians.logits(images) / 10, rtol=1e-9)
    np.testing.assert_allclose(evidence.ood_score, world.gaussians.ood_score(images) / 10, rtol=1e-9)
    likelihood = Likelihood(world.gaussians, world.texts)
    np.testing.assert_array_equal(evidence.located, likelihood.located(images))
    np.testing.assert_array_equal(evidence.baseline, likelihood.baseline(images))
    assert evidence.support is None


def test_similarity_and_alignment(world, scored):
    images, evidence = scored
    for row, image in enumerate(images):
        for c, text in enumerate(world.texts):
            assert evidence.similarity[row, c] == pytest.approx(20 * sum(image * text), rel=1e-9)
    labeled = world.train + world.val
    for c in range(SEEN):
        own = [20 * np.dot(image, world.texts[c]) for image in labeled.embeddings[labeled.target == c]]
        assert evidence.alignment[0, c] == pytest.approx(np.mean(own), rel=1e-9)


def test_hubness_by_brute_force(world, scored):
    """The five class means, of unit length, that lie nearest to the text."""
    _, evidence = scored
    directions = [mean / math.sqrt(sum(mean**2)) for mean in world.gaussians.means]
    for c, text in enumerate(world.texts):
        nearest = sorted((float(np.dot(text, direction)) for direction in directions), reverse=True)[:5]
        np.testing.assert_allclose(evidence.hubness[:, c], 20 * sum(nearest) / 5, rtol=1e-9)
    few = ClassGaussians.fit(world.train.embeddings[:15], world.train.target[:15], 3)
    np.testing.assert_allclose(
        few.hubness(few.means[:1]),
        np.mean(few.means[0] @ np.stack([mean / np.linalg.norm(mean) for mean in few.means]).T),
    )


def plain_whitened_square(within: np.ndarray) -> np.ndarray:
    """Precision of the blend: a tenth of the images' spread, nine tenths of none in particular."""
    size = np.mean(np.diag(within))
    return np.linalg.inv(0.1 * within / size + 0.9 * np.eye(len(within)))


def test_centered_is_a_cosine_in_the_whitened_space(world, scored):
    images, evidence = scored
    metric = plain_whitened_square(world.gaussians.within)
    middle = np.mean(world.gaussians.means, axis=0)
    text_middle = np.mean(world.texts[:SEEN], axis=0)
    for row, image in enumerate(images):
        for c, text in enumerate(world.texts):
            direction = text - text_middle
            length = np.sqrt(direction @ metric @ direction)
            expected = 10 * (image - middle) @ metric @ direction / length
            assert evidence.centered[row, c] == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_predicted_means_are_a_ridge_regression_of_scikit_learn(world, scored):
    from sklearn.linear_model import Ridge

    images, evidence = scored
    centered = world.texts - world.texts[:SEEN].mean(axis=0)
    middle = world.gaussians.means.mean(axis=0)
    strength = np.mean([np.sum(text**2) for text in centered[:SEEN]])
    text_map = world.gaussians.text_map
    assert text_map.slope > 0
    ridge = Ridge(alpha=text_map.ridge * strength, fit_intercept=False, solver="cholesky").fit(
        centered[:SEEN], world.gaussians.means - middle - text_map.slope * centered[:SEEN]
    )
    metric = plain_whitened_square(world.gaussians.within)
    for c, mean in enumerate(ridge.predict(centered) + text_map.slope * centered):
        for row, image in enumerate(images):
            away, alone = image - middle - mean, image - middle
            expected = -10 * (away @ metric @ away - alone @ metric @ alone)
            assert evidence.predicted[row, c] == pytest.approx(expected, rel=1e-7, abs=1e-8)


def test_a_part_of_the_images(world, scored):
    images, evidence = scored
    for rows in (np.array([5, 2, 2]), np.arange(len(images)) % 2 == 0):
        part = evidence[rows]
        for name in PER_IMAGE:
            assert np.array_equal(getattr(part, name), getattr(evidence, name)[rows])
    scorer = Scorer(world.gaussians, world.texts, SCALE)
    single = scorer(images[3:4], world.head(images[3:4]))
    np.testing.assert_allclose(single.centered, evidence.centered[3:4], rtol=1e-9)
    assert scorer(images[:0], np.empty((0, 6))).ood_score.shape == (0,)


def test_shapes_that_do_not_fit(world):
    scorer = Scorer(world.gaussians, world.texts, SCALE)
    for logits, dim in (((8, 5), 10), ((7, 6), 10), ((8, 6), 9), ((8,), 10)):
        with pytest.raises(GateError, match="do not fit the gate") as caught:
            scorer(np.zeros((8, dim)), np.zeros(logits))
        assert str(logits) in caught.value.got
        assert "(8, 6)" in caught.value.expected
        assert "10 numbers" in caught.value.expected


def test_zero_shot_logits_by_hand():
    images = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    classes = np.array([[0, 1], [1, 0], [0.8, 0.6]], dtype=np.float32)
    found = zero_shot_logits(images, classes, 10.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0, 10, 8], [8, 6, 9.6]], rtol=1e-6)
    assert zero_shot_logits(images[:0], classes, 5.0).shape == (0, 3)
    assert zero_shot_logits(images, classes[:0], 5.0).shape == (2, 0)


# Cross-fitting


def test_out_of_fold_equals_a_loop_over_images(world):
    """Class 2 plays the unseen: its images are in no Gaussian, and no image is in one that scores it."""
    folds, own, logits = image_folds(world.val.target), world.val.target == 2, world.head(world.val.embeddings)
    for target in (world.val.target, np.where(own, 7, world.val.target)):
        images = replace(world.val, target=target)
        found = out_of_fold(world.train, images, logits, folds, world.texts, SCALE, TEXT_MAP)
        for fold in range(5):
            known = world.train + world.val[(folds != fold) & (target < SEEN)]
            gaussians = ClassGaussians.fit(known.embeddings, known.target, SEEN, TEXT_MAP)
            scorer = Scorer(gaussians, world.texts, SCALE)
            assert (folds == fold).any()
            for row in np.flatnonzero(folds == fold):
                expected = scorer(world.val.embeddings[row : row + 1], logits[row : row + 1])
                for name in PER_IMAGE:
                    one, other = getattr(found, name)[row], getattr(expected, name)[0]
                    np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)
