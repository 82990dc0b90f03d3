"""Every score against a loop over images and classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hybrid.errors import GateError
from hybrid.gate.episodes import image_folds
from hybrid.gate.evidence import PER_IMAGE, Scorer, out_of_fold, zero_shot_logits
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.support import Likelihood

SEEN, SCALE = 6, 20.0


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
        assert evidence.alignment[c] == pytest.approx(np.mean(own), rel=1e-9)


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
    ridge = Ridge(alpha=strength, fit_intercept=False, solver="cholesky").fit(
        centered[:SEEN], world.gaussians.means - middle
    )
    metric = plain_whitened_square(world.gaussians.within)
    for c, mean in enumerate(ridge.predict(centered)):
        for row, image in enumerate(images):
            away, alone = image - middle - mean, image - middle
            expected = -10 * (away @ metric @ away - alone @ metric @ alone)
            assert evidence.predicted[row, c] == pytest.approx(expected, rel=1e-7, abs=1e-8)


def test_one_unseen_class_more_changes_no_other_score(world):
    images = world.test.embeddings
    fewer = Scorer(world.gaussians, world.texts[:8], SCALE)(images, world.head(images))
    more = Scorer(world.gaussians, world.texts, SCALE)(images, world.head(images))
    for name in ("similarity", "centered", "predicted"):
        np.testing.assert_allclose(getattr(more, name)[:, :8], getattr(fewer, name), rtol=1e-9)


def test_a_part_of_the_images(world, scored):
    images, evidence = scored
    for rows in (np.array([5, 2, 2]), np.arange(len(images)) % 2 == 0):
        part = evidence[rows]
        for name in PER_IMAGE:
            assert np.array_equal(getattr(part, name), getattr(evidence, name)[rows])
        assert np.array_equal(part.alignment, evidence.alignment)
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


@pytest.fixture
def crossed(world):
    """Folds of the validation images, a way to score them with changes, and the scorer without one fold."""
    folds = image_folds(world.val.target)

    def score(**changes):
        logits = world.head(world.val.embeddings)
        return out_of_fold(world.train, replace(world.val, **changes), logits, folds, world.texts, SCALE)

    def scorer_without(fold):
        known = world.train + world.val[folds != fold]
        return Scorer(ClassGaussians.fit(known.embeddings, known.target, 6), world.texts, SCALE)

    return folds, score, scorer_without


def test_out_of_fold_equals_a_loop_over_images(world, crossed):
    folds, score, scorer_without = crossed
    found, logits = score(), world.head(world.val.embeddings)
    alignments = []
    for fold in range(5):
        scorer = scorer_without(fold)
        alignments.append(scorer.alignment)
        assert (folds == fold).any()
        for row in np.flatnonzero(folds == fold):
            expected = scorer(world.val.embeddings[row : row + 1], logits[row : row + 1])
            for name in PER_IMAGE:
                np.testing.assert_allclose(getattr(found, name)[row], getattr(expected, name)[0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.alignment, np.mean(alignments, axis=0), rtol=1e-9)


def test_an_image_does_not_change_its_own_scores(world, crossed):
    """Neither by its label nor by its embedding."""
    folds, score, scorer_without = crossed
    before, same = score(), folds == folds[7]
    target, moved = world.val.target.copy(), world.val.embeddings.copy()
    target[7] = (target[7] + 1) % 6
    moved[7] = -moved[7]
    after = score(target=target)
    for name in ("gda", "ood_score", "centered", "predicted"):
        assert np.array_equal(getattr(after, name)[same], getattr(before, name)[same])
        assert not np.allclose(getattr(after, name)[~same], getattr(before, name)[~same])
    after = score(embeddings=moved)
    others = same & (np.arange(len(folds)) != 7)
    assert np.array_equal(after.gda[others], before.gda[others])
    # The discriminant is linear in the image: the mean of both is that of the zero vector.
    zero = scorer_without(folds[7])(np.zeros((1, 10)), np.zeros((1, 6)))
    np.testing.assert_allclose((after.gda[7] + before.gda[7]) / 2, zero.gda[0])


def test_images_of_classes_that_play_the_unseen_are_in_no_gaussian(world, crossed):
    _, score, _ = crossed
    own = world.val.target == 2
    target = np.where(own, 7, world.val.target)
    before = score(target=target)
    after = score(embeddings=np.where(own[:, None], -world.val.embeddings, world.val.embeddings), target=target)
    for name in set(PER_IMAGE) - {"head"}:
        assert np.array_equal(getattr(after, name)[~own], getattr(before, name)[~own])
