"""The Gaussian model against scipy's densities and scikit-learn's estimators."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.covariance import ledoit_wolf as ledoit_wolf_of_scikit_learn
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from hybrid.errors import ArtifactError, GateError
from hybrid.gate.gaussians import (
    RIDGE,
    TEXT_WORTH,
    ClassGaussians,
    Discriminant,
    Gaussian,
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


def ledoit_wolf_of_the_paper(centered: np.ndarray) -> np.ndarray:
    """Ledoit & Wolf 2004, section 3.3, written as they write it."""
    n, d = centered.shape
    sample = sum(np.outer(x, x) for x in centered) / n
    m = np.trace(sample) / d
    d2 = np.sum((sample - m * np.eye(d)) ** 2) / d
    b2 = min(sum(np.sum((np.outer(x, x) - sample) ** 2) for x in centered) / d / n**2, d2)
    return b2 / d2 * m * np.eye(d) + (1 - b2 / d2) * sample


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
    np.testing.assert_allclose(gaussians.within, ledoit_wolf_of_the_paper(centered) * n / (n - 6), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(gaussians.background.mean, np.mean(embeddings, axis=0), rtol=1e-12)
    around = LedoitWolf().fit(embeddings).covariance_ * n / (n - 1)
    np.testing.assert_allclose(gaussians.background.covariance, around, rtol=1e-6, atol=1e-8)


def test_logits_are_log_densities_up_to_a_constant(make_world, gaussians):
    test = make_world().test.embeddings
    found = gaussians.logits(test)
    densities = np.stack([multivariate_normal(mean, gaussians.within).logpdf(test) for mean in gaussians.means], axis=1)
    np.testing.assert_allclose(found - found[:, :1], densities - densities[:, :1], rtol=1e-8, atol=1e-8)


def test_logits_against_scikit_learns_discriminant_analysis(make_world, images, gaussians):
    class Known:
        """Stands for a covariance estimator; what it says is the same for every class."""

        def fit(self, rows):
            self.covariance_ = gaussians.within
            return self

    model = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(6, 1 / 6), covariance_estimator=Known())
    model.fit(*images)
    test = make_world().test.embeddings
    found = gaussians.logits(test)
    np.testing.assert_allclose(found - logsumexp(found, axis=1)[:, None], model.predict_log_proba(test), atol=1e-7)


def test_novelty_is_a_log_likelihood_ratio(make_world, gaussians):
    world = make_world()
    test = np.concatenate([world.test.embeddings, world.unknown])
    normalized = [multivariate_normal(mean, gaussians.within).logpdf(test) for mean in gaussians.means]
    known = logsumexp(normalized, axis=0) - np.log(6)
    some = multivariate_normal(gaussians.background.mean, gaussians.background.covariance).logpdf(test)
    # A constant is left out: the two log-determinants.
    constant = (np.linalg.slogdet(gaussians.within)[1] - np.linalg.slogdet(gaussians.background.covariance)[1]) / 2
    np.testing.assert_allclose(gaussians.ood_score(test), some - known - constant, rtol=1e-7, atol=1e-7)


def test_unknown_classes_have_high_ood_scores(make_world):
    world = make_world(noise=0.15)
    seen = world.gaussians.ood_score(world.test.embeddings[world.test.target < 6])
    assert np.median(world.gaussians.ood_score(world.unknown)) > np.quantile(seen, 0.95)


def test_a_discriminant_is_a_log_density_up_to_a_constant():
    rng = np.random.default_rng(0)
    means, rows, half = rng.normal(size=(4, 3)), rng.normal(size=(7, 3)), rng.normal(size=(3, 3))
    covariance = half @ half.T
    found = Discriminant.of(means, np.linalg.inv(covariance))(rows.astype(np.float32))
    expected = np.stack([multivariate_normal(mean, covariance).logpdf(rows) for mean in means], axis=1)
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=1e-4, atol=1e-4)


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


def test_squared_distance_by_hand():
    gaussian = Gaussian(np.array([1.0, 2.0]), np.array([[4.0, 0.0], [0.0, 0.25]]))
    found = gaussian.squared_distance(np.array([[3.0, 2.0], [1.0, 3.0], [1.0, 2.0]], dtype=np.float32))
    np.testing.assert_allclose(found, [1.0, 4.0, 0.0])
    assert found.dtype == np.float64


def test_what_was_saved_says_the_same(make_world, gaussians, tmp_path):
    test = make_world().test.embeddings
    gaussians.save(tmp_path / "memory.safetensors")
    names = {"means", "within", "background_mean", "background_covariance", "counts"}
    assert set(load_file(tmp_path / "memory.safetensors")) == names
    found = ClassGaussians.load(tmp_path / "memory.safetensors")
    np.testing.assert_allclose(found.logits(test), gaussians.logits(test), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.ood_score(test), gaussians.ood_score(test), rtol=1e-3, atol=1e-3)
    assert found.counts.tolist() == gaussians.counts.tolist()


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


@pytest.mark.parametrize(("labels", "found"), [([0, 0, 2, 2], "2 of 3 classes"), ([0, 1, 2, 3], "3 of 3 classes")])
def test_classes_without_an_image_and_labels_outside(labels, found):
    with pytest.raises(GateError, match="every class needs a labeled photo") as caught:
        ClassGaussians.fit(np.eye(4), np.array(labels), 3)
    assert caught.value.got == f"{found} in 4 photos"
    assert "labels 0 to 2" in caught.value.expected


def test_one_image_a_class_is_not_enough():
    with pytest.raises(GateError, match="two photos") as caught:
        ClassGaussians.fit(np.eye(4)[:3], np.arange(3), 3)
    assert "3 in all" in caught.value.got


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign"])
def test_files_that_cannot_be_read(gaussians, tmp_path, damage):
    file = tmp_path / "memory.safetensors"
    if damage == "torn":
        gaussians.save(file)
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "foreign":
        from safetensors.numpy import save_file

        save_file({"means": np.eye(3)}, file)
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


def test_the_constants():
    assert (RIDGE, TEXT_WORTH) == (1.0, 1.0)


def fit_ridge(texts: np.ndarray, means: np.ndarray, rows: np.ndarray, all_known: np.ndarray, slope: float):
    """Ridge on some classes; center and strength are those of all known ones."""
    centered = texts - texts[all_known].mean(axis=0)
    strength = np.mean([text @ text for text in centered[all_known]])
    ridge = Ridge(alpha=strength, fit_intercept=False, solver="cholesky")
    return ridge.fit(centered[rows], means[rows] - slope * centered[rows]).predict(centered) + slope * centered


@pytest.mark.parametrize("slope", [0.0, 0.3, -1.0])
def test_it_is_scikit_learns_ridge_on_the_residual(drawn, slope):
    """Leaving each class out is a refit; classes without a mean stay as they are."""
    texts, means, known = drawn
    given = [part.copy() for part in drawn]
    plain = predict_means(texts, means, known, slope=slope)
    found = predict_means(texts, means, known, slope=slope, without_own=True)
    np.testing.assert_allclose(plain, fit_ridge(texts, means, known, known, slope), rtol=1e-9, atol=1e-12)
    for c in range(CLASSES):
        rows = known & (np.arange(CLASSES) != c)
        expected = fit_ridge(texts, means, rows, known, slope)[c]
        np.testing.assert_allclose(found[c], expected, rtol=1e-9, atol=1e-12)
        assert np.allclose(found[c], plain[c]) == (not known[c])
    for before, after in zip(given, drawn, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_class_does_not_see_its_own_mean(drawn):
    texts, means, known = drawn
    moved = means.copy()
    moved[3] += 100
    before, after = (predict_means(texts, m, known, slope=0.3, without_own=True) for m in (means, moved))
    np.testing.assert_allclose(after[3], before[3], rtol=1e-9)
    assert np.abs(after[2] - before[2]).max() > 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("without_own", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_one_known_class_teaches_nothing(drawn, slope, without_own):
    """Its centered text is zero: only the slope is left."""
    texts, means, _ = drawn
    known = np.arange(CLASSES) == 2
    found = predict_means(texts, means, known, slope=slope, without_own=without_own)
    alone = predict_means(texts[2:3], means[2:3], known[2:3], slope=slope, without_own=without_own)
    np.testing.assert_allclose(found, slope * (texts - texts[2]), atol=1e-12)
    np.testing.assert_allclose(alone, np.zeros_like(texts[:1]), atol=1e-12)


@pytest.mark.parametrize("without_own", [False, True])
def test_known_classes_of_one_text(drawn, without_own):
    texts, means, known = drawn
    found = predict_means(np.broadcast_to(texts[0], texts.shape), means, known, without_own=without_own)
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_another_unknown_class_changes_no_prediction(drawn):
    texts, means, known = drawn
    fewer = predict_means(texts[:7], means[:7], known[:7], slope=0.3)
    rows = np.r_[0:7, 7]
    more = predict_means(texts[rows], means[rows], known[rows], slope=0.3)
    np.testing.assert_allclose(more[:7], fewer, rtol=1e-10)


def test_posterior_means_by_hand():
    predicted = np.array([[1.0, 0.0], [4.0, 4.0], [9.0, 9.0], [7.0, -7.0]])
    sums = np.array([[3.0, 3.0], [0.0, 0.0], [2.0, 6.0], [1.0, 2.0]])
    # One imaginary image and three; two imaginary ones alone; no imaginary one; half a one and one.
    found = posterior_means(predicted, np.array([1.0, 2.0, 0.0, 0.5]), sums, np.array([3, 0, 4, 1]))
    np.testing.assert_allclose(found, [[1.0, 0.75], [4, 4], [0.5, 1.5], [3.0, -1.0]])
