"""The Gaussian model against scipy's densities and scikit-learn's estimators."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.covariance import ledoit_wolf as ledoit_wolf_of_scikit_learn
from sklearn.linear_model import Ridge

from hybrid.errors import ArtifactError, GateError
from hybrid.gate.gaussians import (
    ClassGaussians,
    TextMap,
    class_sums,
    ledoit_wolf,
    posterior_means,
    predict_means,
    shrink_to_identity,
    whitened_directions,
    whitening_metric,
)


@pytest.fixture
def images(make_world):
    world = make_world(train=9)
    # Not the same number of each class.
    rows = np.flatnonzero(np.arange(len(world.train)) % 7 != 0)
    return world.train.embeddings[rows], world.train.target[rows]


@pytest.fixture
def gaussians(images) -> ClassGaussians:
    return ClassGaussians.fit(*images, 6)


ROWS = {
    "many": (200, 5, 1.0),
    "fewer than numbers": (4, 12, 1.0),
    "small": (30, 6, 1e-4),
    "one": (1, 5, 1.0),
    "one number": (9, 1, 1.0),
    "all zero": (7, 3, 0.0),
}


@pytest.mark.parametrize(("n", "dim", "size"), ROWS.values(), ids=ROWS)
@pytest.mark.filterwarnings("ignore:Only one sample")
@pytest.mark.parametrize("sphere", [False, True])
def test_ledoit_wolf_is_that_of_scikit_learn(n, dim, size, sphere):
    rng = np.random.default_rng(n)
    rows = size * rng.normal(size=(n, dim)) @ (np.eye(dim) if sphere else rng.normal(size=(dim, dim)))
    before = rows.copy()
    expected = ledoit_wolf_of_scikit_learn(rows, assume_centered=True)[0]
    np.testing.assert_allclose(ledoit_wolf(rows), expected, rtol=1e-9, atol=1e-12 * size**2)
    np.testing.assert_array_equal(rows, before)


@pytest.mark.filterwarnings("error")
def test_ledoit_wolf_of_rows_that_are_all_of_one_length_and_at_right_angles():
    """Their covariance is a sphere: nothing to shrink, and no division by zero."""
    np.testing.assert_allclose(ledoit_wolf(3.0 * np.eye(4)), 9 / 4 * np.eye(4), rtol=1e-12)


def test_means_counts_and_covariances(images, gaussians):
    embeddings, labels = images
    centered = embeddings.copy()
    for c in range(6):
        mean = sum(embeddings[labels == c]) / sum(labels == c)
        np.testing.assert_allclose(gaussians.means[c], mean, rtol=1e-12)
        assert gaussians.counts[c] == sum(labels == c)
        centered[labels == c] -= mean
    assert len(set(gaussians.counts.tolist())) > 1
    n = len(labels)
    # As many degrees of freedom are gone as there are means.
    expected = LedoitWolf(assume_centered=True).fit(centered).covariance_ * n / (n - 6)
    np.testing.assert_allclose(gaussians.within, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(gaussians.background.mean, np.mean(embeddings, axis=0), rtol=1e-12)
    around = LedoitWolf().fit(embeddings).covariance_ * n / (n - 1)
    np.testing.assert_allclose(gaussians.background.covariance, around, rtol=1e-6, atol=1e-8)


def test_logits_are_log_densities_up_to_a_constant(make_world, gaussians):
    test = make_world().test.embeddings
    found = gaussians.logits(test)
    densities = np.stack([multivariate_normal(mean, gaussians.within).logpdf(test) for mean in gaussians.means], axis=1)
    np.testing.assert_allclose(found - found[:, :1], densities - densities[:, :1], rtol=1e-8, atol=1e-8)


def test_novelty_is_a_log_likelihood_ratio(make_world, gaussians):
    world = make_world()
    test = np.concatenate([world.test.embeddings, world.unknown])
    normalized = [multivariate_normal(mean, gaussians.within).logpdf(test) for mean in gaussians.means]
    known = logsumexp(normalized, axis=0) - np.log(6)
    some = multivariate_normal(gaussians.background.mean, gaussians.background.covariance).logpdf(test)
    # A constant is left out: the two log-determinants.
    constant = (np.linalg.slogdet(gaussians.within)[1] - np.linalg.slogdet(gaussians.background.covariance)[1]) / 2
    np.testing.assert_allclose(gaussians.ood_score(test), some - known - constant, rtol=1e-7, atol=1e-7)


def test_shrinkage_to_the_identity_by_hand():
    found = shrink_to_identity(np.array([[4.0, 1.0], [1.0, 2.0]]), 0.5)
    np.testing.assert_allclose(found, [[3.5, 0.5], [0.5, 2.5]])
    np.testing.assert_allclose(shrink_to_identity(np.diag([4.0, 2.0])), np.diag([3.7, 2.3]))


def test_whitening_by_a_square_root():
    """Directions of unit length in the space that a root of the metric spans."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(5, 5))
    covariance, vectors = half @ half.T, rng.normal(size=(3, 5))
    blend = 0.1 * covariance / np.mean(np.diag(covariance)) + 0.9 * np.eye(5)
    metric = whitening_metric(covariance)
    np.testing.assert_allclose(metric @ blend, np.eye(5), atol=1e-12)
    root = np.linalg.cholesky(metric)
    turned = vectors @ root
    expected = turned / np.linalg.norm(turned, axis=1, keepdims=True) @ root.T
    np.testing.assert_allclose(whitened_directions(vectors, metric), expected, rtol=1e-10)
    np.testing.assert_array_equal(whitened_directions(np.zeros((1, 5)), metric), np.zeros((1, 5)))


def test_class_sums_by_hand():
    found = class_sums(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([2, 0, 2]), 4)
    np.testing.assert_array_equal(found, [[3, 4], [0, 0], [6, 8], [0, 0]])


def test_what_was_saved_says_the_same(make_world, gaussians, tmp_path):
    test = make_world().test.embeddings
    gaussians = replace(gaussians, text_map=TextMap(0.3, 0.8))
    gaussians.save(tmp_path / "memory.safetensors")
    names = {"means", "within", "background_mean", "background_covariance", "counts", "text_map"}
    assert set(load_file(tmp_path / "memory.safetensors")) == names
    found = ClassGaussians.load(tmp_path / "memory.safetensors")
    np.testing.assert_allclose(found.logits(test), gaussians.logits(test), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.ood_score(test), gaussians.ood_score(test), rtol=1e-3, atol=1e-3)
    assert found.counts.tolist() == gaussians.counts.tolist()
    assert found.text_map == TextMap(0.3, 0.8)


def test_half_precision_embeddings_are_scored_in_double(make_world, gaussians):
    halves = make_world().test.embeddings.astype(np.float16)
    assert np.array_equal(gaussians.logits(halves), gaussians.logits(halves.astype(np.float64)))
    assert np.array_equal(gaussians.ood_score(halves), gaussians.ood_score(halves.astype(np.float64)))


def test_copies_of_one_image_leave_finite_scores():
    rows = np.repeat(np.eye(3), 4, axis=0)
    gaussians = ClassGaussians.fit(rows, np.repeat(np.arange(3), 4), 3)
    assert np.isfinite(gaussians.logits(rows)).all()
    assert np.isfinite(gaussians.ood_score(rows)).all()
    assert gaussians.logits(rows).argmax(axis=1).tolist() == np.repeat(np.arange(3), 4).tolist()


def test_labels_that_do_not_fit_and_too_few_images():
    for labels, found in (([0, 0, 2, 2], "2 of 3 classes"), ([0, 1, 2, 3], "3 of 3 classes")):
        with pytest.raises(GateError, match="every class needs a labeled photo") as caught:
            ClassGaussians.fit(np.eye(4), np.array(labels), 3)
        assert caught.value.got == f"{found} in 4 photos"
        assert "labels 0 to 2" in caught.value.expected
    with pytest.raises(GateError, match="two photos") as caught:
        ClassGaussians.fit(np.eye(4)[:3], np.arange(3), 3)
    assert "3 in all" in caught.value.got


def test_files_that_cannot_be_read(gaussians, tmp_path):
    file = tmp_path / "memory.safetensors"
    gaussians.save(file)
    whole = file.read_bytes()
    save_file({"means": np.eye(3)}, file)
    for content in (file.read_bytes(), whole[:-9], None):
        file.write_bytes(content) if content is not None else file.unlink()
        with pytest.raises(ArtifactError, match=r"memory\.safetensors is missing or damaged") as caught:
            ClassGaussians.load(file)
        assert caught.value.fix == "hybrid train-head"


# Class means

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


def fit_ridge(texts, means, rows, all_known, text_map: TextMap) -> np.ndarray:
    """Ridge on some classes; center and strength are those of all known ones."""
    centered = texts - texts[all_known].mean(axis=0)
    strength = np.mean([text @ text for text in centered[all_known]])
    ridge, slope = Ridge(alpha=text_map.ridge * strength, fit_intercept=False, solver="cholesky"), text_map.slope
    return ridge.fit(centered[rows], means[rows] - slope * centered[rows]).predict(centered) + slope * centered


@pytest.mark.parametrize("text_map", [TextMap(), TextMap(0.2, 0.3), TextMap(4.0, -1.0)])
def test_it_is_scikit_learns_ridge_on_the_residual(drawn, text_map):
    """Leaving each class out is a refit; classes without a mean stay as they are."""
    texts, means, known = drawn
    given = [part.copy() for part in drawn]
    plain = predict_means(texts, means, known, text_map)
    found = predict_means(texts, means, known, text_map, without_own=True)
    np.testing.assert_allclose(plain, fit_ridge(texts, means, known, known, text_map), rtol=1e-9, atol=1e-12)
    for c in range(CLASSES):
        rows = known & (np.arange(CLASSES) != c)
        expected = fit_ridge(texts, means, rows, known, text_map)[c]
        np.testing.assert_allclose(found[c], expected, rtol=1e-9, atol=1e-12)
        assert np.allclose(found[c], plain[c]) == (not known[c])
    for before, after in zip(given, drawn, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("without_own", [False, True])
def test_one_known_class_or_one_text_teaches_nothing(drawn, without_own):
    """The centered text is zero: only the slope is left."""
    texts, means, several = drawn
    known = np.arange(CLASSES) == 2
    for slope in (0.0, 0.5):
        found = predict_means(texts, means, known, TextMap(slope=slope), without_own=without_own)
        alone = predict_means(texts[2:3], means[2:3], known[2:3], TextMap(slope=slope), without_own=without_own)
        np.testing.assert_allclose(found, slope * (texts - texts[2]), atol=1e-12)
        np.testing.assert_allclose(alone, np.zeros_like(texts[:1]), atol=1e-12)
    found = predict_means(np.broadcast_to(texts[0], texts.shape), means, several, TextMap(), without_own=without_own)
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_the_chosen_map_has_the_least_error_of_leaving_classes_out():
    """Each class predicted by a refit on the others, errors measured by Mahalanobis distance, one pair at a time."""
    chosen = set()
    for seed, dim in ((0, 5), (1, 5), (2, 12), (3, 12), (4, 5), (5, 20)):
        rng = np.random.default_rng(seed)
        texts, strength = rng.normal(size=(8, dim)), (0.0, 0.5, 1.0, 3.0)[seed % 4]
        means = strength * texts + 0.4 * rng.normal(size=(8, dim)) + 2.0
        factor = rng.normal(size=(dim, dim))
        covariance = factor @ factor.T + 0.1 * np.eye(dim)
        offsets, every = means - means.mean(axis=0), np.ones(8, bool)

        def loss(pair, texts=texts, offsets=offsets, covariance=covariance, every=every):
            total = 0.0
            for c in range(8):
                others = np.arange(8) != c
                error = offsets[c] - fit_ridge(texts, offsets, others, every, TextMap(*pair))[c]
                total += error @ np.linalg.solve(covariance, error)
            return total

        pairs = itertools.product((0.1, 0.3, 1.0, 3.0, 10.0), (0.0, 0.2, 0.4, 0.6, 0.8))
        found = TextMap.fit(texts, means, np.linalg.inv(covariance))
        assert found == TextMap(*min(pairs, key=loss))
        chosen.add(found)
    assert len(chosen) > 3


def test_posterior_means_by_hand():
    predicted = np.array([[1.0, 0.0], [4.0, 4.0], [9.0, 9.0], [7.0, -7.0]])
    sums = np.array([[3.0, 3.0], [0.0, 0.0], [2.0, 6.0], [1.0, 2.0]])
    # One imaginary image and three; two imaginary ones alone; no imaginary one; half a one and one.
    found = posterior_means(predicted, np.array([1.0, 2.0, 0.0, 0.5]), sums, np.array([3, 0, 4, 1]))
    np.testing.assert_allclose(found, [[1.0, 0.75], [4, 4], [0.5, 1.5], [3.0, -1.0]])
