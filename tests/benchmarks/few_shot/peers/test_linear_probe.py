import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from benchmarks.few_shot import peers
from benchmarks.few_shot.peers import LinearProbe
from hybrid.errors import FewShotError


def probabilities(world, rows, classes=5, **options):
    expert = LinearProbe(world.scale, **options).fit(world.images[rows], world.labels[rows], world.texts[:classes])
    return softmax(expert.logits(world.test), axis=1)


@pytest.mark.parametrize("known", [[0, 1, 2, 3, 4], [0, 2, 4], [1, 3], [0, 1]])
def test_probabilities_are_scikit_learns(world, known):
    rows = np.isin(world.labels, known)
    model = LogisticRegression(C=0.5).fit(world.images[rows].astype(float), world.labels[rows])
    found = probabilities(world, rows, c=0.5)
    np.testing.assert_allclose(found[:, known], model.predict_proba(world.test), atol=1e-5)
    assert not found[:, np.setdiff1d(np.arange(5), known)].any()


def test_c_is_that_of_clip_on_vectors_ten_times_as_long(world):
    model = LogisticRegression(C=0.316, tol=1e-8, max_iter=5000).fit(10 * world.images.astype(float), world.labels)
    expected = model.predict_proba(10 * world.test.astype(float))
    np.testing.assert_allclose(probabilities(world, slice(None)), expected, atol=2e-3)
    assert np.abs(probabilities(world, slice(None), c=0.316) - expected).max() > 0.1


def test_one_class_is_certain(world):
    rows = world.labels == 3
    np.testing.assert_array_equal(probabilities(world, rows).argmax(axis=1), 3)
    np.testing.assert_array_equal(probabilities(world, rows)[:, 3], 1)


@pytest.mark.filterwarnings("error")
def test_one_image_a_class_warns_of_nothing():
    """Scikit-learn warns from some twenty images on."""
    images = np.eye(30, dtype=np.float32)
    found = LinearProbe(100.0).fit(images, np.arange(30), images).logits(images)
    assert found.argmax(axis=1).tolist() == list(range(30))


def test_no_convergence_is_an_error(world, monkeypatch):
    monkeypatch.setattr(peers, "MAX_ITERATIONS", 1)
    with pytest.raises(FewShotError, match=r"with C = 31\.6 did not converge"):
        probabilities(world, slice(None))
