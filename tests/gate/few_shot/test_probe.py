"""Logistic regression against scikit-learn's, and what it divides against the definition."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from hybrid.gate.few_shot import posterior, probe
from hybrid.gate.few_shot.base import check_shots
from hybrid.gate.few_shot.probe import Probe


@pytest.mark.parametrize("known", [[0, 1, 2, 3, 4], [0, 2, 4]])
def test_probabilities_are_scikit_learns(world, known):
    rows = np.isin(world.labels, known)
    images = world.images[rows].astype(float)
    model = LogisticRegression(C=31.6, tol=1e-8, max_iter=5000).fit(images, world.labels[rows])
    found = Probe.fit(check_shots(images, world.labels[rows], world.texts))
    assert found.shown.tolist() == known
    logits = world.test.astype(float) @ found.weight[:, :-1].T + found.weight[:, -1]
    np.testing.assert_allclose(softmax(logits, axis=1), model.predict_proba(world.test), atol=5e-3)


def test_one_class_or_too_much_work_leaves_it_out(world, monkeypatch):
    shots = check_shots(world.images, world.labels, world.texts)
    assert Probe.fit(check_shots(world.images[:0], world.labels[:0], world.texts)) is None
    assert Probe.fit(check_shots(world.images[world.labels == 1], world.labels[world.labels == 1], world.texts)) is None
    monkeypatch.setattr(probe, "MOST_CELLS", 5 * len(world.labels))
    assert Probe.fit(shots) is not None
    monkeypatch.setattr(probe, "MOST_CELLS", 5 * len(world.labels) - 1)
    assert Probe.fit(shots) is None


def test_classes_without_images_keep_their_probability(world):
    rows = np.isin(world.labels, [0, 2, 4])
    found = Probe.fit(check_shots(world.images[rows], world.labels[rows], world.texts))
    log_p = log_softmax(np.random.default_rng(1).normal(size=(len(world.test), 5)), axis=1)
    mixed = found.divide(log_p, world.test.astype(float), 0.3)
    np.testing.assert_allclose(np.exp(mixed).sum(axis=1), 1)
    np.testing.assert_array_equal(mixed[:, [1, 3]], log_p[:, [1, 3]])
    assert np.abs(mixed - log_p).max() > 0.1
    np.testing.assert_array_equal(found.divide(log_p, world.test.astype(float), 0.0), log_p)


def test_the_share_goes_by_errors_on_held_out_images():
    """Of 100 images: as many errors, 1.4 times as many, far more."""
    share = [posterior._share(np.arange(100) < 28, np.arange(100) < by_mean) for by_mean in (28, 39, 90)]
    np.testing.assert_allclose(share, [0.25, 0.125, 0], atol=1e-12)
    # None of either is too little to go by.
    assert posterior._share(np.zeros(5, bool), np.zeros(5, bool)) == 0
