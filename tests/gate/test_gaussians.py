"""The Gaussians against scipy's densities and scikit-learn's estimators."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.covariance import ledoit_wolf as ledoit_wolf_of_scikit_learn
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from hybrid.errors import ArtifactError, GateError
from hybrid.gate.gaussians import ClassGaussians, Gaussian, ledoit_wolf


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
    "all nought": (7, 3, 0.0),
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
    """Their covariance is a sphere: nothing to shrink, and no division by nought."""
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


def test_logits_are_log_densities_up_to_a_constant_a_image(make_world, gaussians):
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
    test = np.concatenate([world.test.embeddings, world.strange])
    normalized = [multivariate_normal(mean, gaussians.within).logpdf(test) for mean in gaussians.means]
    known = logsumexp(normalized, axis=0) - np.log(6)
    some = multivariate_normal(gaussians.background.mean, gaussians.background.covariance).logpdf(test)
    # A constant is left out: the two log-determinants.
    constant = (np.linalg.slogdet(gaussians.within)[1] - np.linalg.slogdet(gaussians.background.covariance)[1]) / 2
    np.testing.assert_allclose(gaussians.ood_score(test), some - known - constant, rtol=1e-7, atol=1e-7)


def test_what_is_strange_is_novel(make_world):
    world = make_world(noise=0.15)
    seen = world.gaussians.ood_score(world.test.embeddings[world.test.target < 6])
    assert np.median(world.gaussians.ood_score(world.strange)) > np.quantile(seen, 0.95)


def test_squared_distance_by_hand():
    gaussian = Gaussian(np.array([1.0, 2.0]), np.array([[4.0, 0.0], [0.0, 0.25]]))
    found = gaussian.squared_distance(np.array([[3.0, 2.0], [1.0, 3.0], [1.0, 2.0]], dtype=np.float32))
    np.testing.assert_allclose(found, [1.0, 4.0, 0.0])
    assert found.dtype == np.float64


FRESH = """
import sys
from pathlib import Path
import numpy as np
from hybrid.gate.gaussians import ClassGaussians
gaussians = ClassGaussians.load(Path(sys.argv[1]))
photos = np.load(sys.argv[2])
np.savez(sys.argv[3], logits=gaussians.logits(photos), ood_score=gaussians.ood_score(photos), counts=gaussians.counts)
"""


def test_a_fresh_process_says_the_same(make_world, gaussians, tmp_path):
    test = make_world().test.embeddings
    gaussians.save(tmp_path / "memory.safetensors")
    np.save(tmp_path / "photos.npy", test)
    command = [
        sys.executable,
        "-c",
        FRESH,
        *(tmp_path / name for name in ("memory.safetensors", "photos.npy", "o.npz")),
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "o.npz")
    np.testing.assert_allclose(found["logits"], gaussians.logits(test), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found["ood_score"], gaussians.ood_score(test), rtol=1e-3, atol=1e-3)
    assert found["counts"].tolist() == gaussians.counts.tolist()


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
def test_classes_without_a_image_and_labels_outside(labels, found):
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
