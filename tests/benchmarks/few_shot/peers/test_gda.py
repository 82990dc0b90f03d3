import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from benchmarks.few_shot.peers import GDA, precision

DIM = 12


def authors_precision(images, labels):
    """Their code's line, on numpy's covariance."""
    centered = np.concatenate([images[labels == c] - images[labels == c].mean(axis=0) for c in np.unique(labels)])
    covariance = np.cov(centered.T)
    return DIM * np.linalg.pinv((len(centered) - 1) * covariance + np.trace(covariance) * np.eye(DIM))


class Given:
    """A covariance estimator for scikit-learn that knows the answer."""

    def __init__(self, covariance_):
        self.covariance_ = covariance_

    def fit(self, rows):
        return self


def zero_shot(world):
    return world.scale * world.test.astype(float) @ world.texts.T


@pytest.mark.parametrize("alpha", [1.0, 0.1])
def test_discriminant_is_scikit_learns(world, alpha):
    images = world.images.astype(float)
    shrunk = np.linalg.inv(authors_precision(images, world.labels))
    lda = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Given(shrunk), priors=np.full(5, 0.2))
    expected = lda.fit(images, world.labels).decision_function(world.test) - np.log(0.2)
    found = GDA(world.scale, alpha=alpha).fit(world.images, world.labels, world.texts).logits(world.test)
    np.testing.assert_allclose(found, zero_shot(world) + alpha * expected, rtol=1e-5, atol=1e-4)


def test_alpha_is_1_unless_told():
    assert GDA(100.0).alpha == 1.0


def test_precision(world):
    centered = world.images.astype(float) - np.stack(
        [world.images[world.labels == c].astype(float).mean(axis=0) for c in world.labels]
    )
    np.testing.assert_allclose(precision(centered), authors_precision(world.images.astype(float), world.labels))
    # By hand: 2 rows, scatter diag(2, 0), covariance diag(2, 0), trace 2; 2 * inv(diag(4, 2)).
    np.testing.assert_allclose(precision(np.array([[1.0, 0], [-1, 0]])), [[0.5, 0], [0, 1]])


def test_many_images_leave_no_shrinkage():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, DIM)) * np.linspace(0.5, 2, DIM)
    rows -= rows.mean(axis=0)
    unshrunk = np.linalg.inv(np.cov(rows.T))
    assert np.abs(precision(rows) * 4000 / DIM - unshrunk).max() < 0.05 * np.abs(unshrunk).max()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("copies", [1, 3, 7])
def test_images_that_do_not_vary_leave_zero_shot(world, copies):
    """In float64 the mean of three copies is not exactly the image: rounding must not become a covariance."""
    first = [int(np.flatnonzero(world.labels == c)[0]) for c in range(5)]
    exact = world.images[first].astype(float)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    images, labels = np.repeat(exact, copies, axis=0), np.repeat(np.arange(5), copies)
    found = GDA(world.scale).fit(images, labels, world.texts).logits(world.test)
    np.testing.assert_allclose(found, zero_shot(world), atol=1e-6)


def test_a_text_stands_in_for_a_mean(world):
    rows = world.labels != 2
    images, labels = world.images[rows].astype(float), world.labels[rows]
    means = np.stack([images[labels == c].mean(axis=0) if c != 2 else np.zeros(DIM) for c in range(5)])
    others = [0, 1, 3, 4]
    means[2] = world.texts[2] - (world.texts[others] - means[others]).mean(axis=0)
    p = authors_precision(images, labels)
    expected = [[mu @ p @ x - mu @ p @ mu / 2 for mu in means] for x in world.test.astype(float)]
    found = GDA(world.scale).fit(world.images[rows], labels, world.texts).logits(world.test)
    np.testing.assert_allclose(found, zero_shot(world) + expected, rtol=1e-5, atol=1e-4)
