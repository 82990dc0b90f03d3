"""What support images say, against scipy's Gaussians; what they add, against plain numbers."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.linear_model import Ridge

from hybrid.gate.gaussians import DIMENSIONS, SHRINKAGE
from hybrid.gate.support import Likelihood, SupportGate, SupportWeights

SEEN, DIM = 6, 10
GATE = SupportGate(
    named=SupportWeights(ratio=0.4, bias=-1.2, base=-0.25, seen_ratio=0.35, ratio_shots=-0.3, bias_shots=0.6),
    image_only=SupportWeights(ratio=0.5, bias=1.9, ratio_shots=0.8, bias_shots=-3.0),
    boost=2.5,
)


@pytest.fixture
def world(make_world):
    return make_world()


def predicted_means(world) -> np.ndarray:
    """Where texts say that the images of all nine classes lie."""
    centered = world.texts - world.texts[:SEEN].mean(axis=0)
    middle = world.gaussians.means.mean(axis=0)
    text_map, start = world.gaussians.text_map, world.gaussians.text_map.slope * centered
    strength = text_map.ridge * np.mean((centered[:SEEN] ** 2).sum(axis=1))
    ridge = Ridge(alpha=strength, fit_intercept=False, solver="cholesky")
    return middle + start + ridge.fit(centered[:SEEN], world.gaussians.means - middle - start[:SEEN]).predict(centered)


def log_density(world, images: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Gaussian of the rounded covariance that counts as much as one in 20 dimensions."""
    within = world.gaussians.within
    sphere = np.eye(DIM) * np.mean(np.diag(within))
    covariance = ((1 - SHRINKAGE) * within + SHRINKAGE * sphere) * DIM / DIMENSIONS
    return multivariate_normal(mean, covariance).logpdf(images)


def test_all_leave_out_the_same_constant(world):
    """Class 6 and 7 are prompted, 7 has two support images; 8 is added with three, or image-only."""
    images, means = world.test.embeddings, predicted_means(world)
    for space, named in (
        (world.space((6, 7), more={7: 2}, added={8: 3}), True),
        (world.space((6, 7), more={7: 2}, image_only={8: 3}), False),
    ):
        likelihood = Likelihood(world.gaussians, space.texts)
        located, baseline = likelihood.located(images), likelihood.baseline(images)
        expected = np.column_stack([log_density(world, images, mean) for mean in means[: 8 + named]])
        constant = expected[:, 6] - located[:, 6]
        np.testing.assert_allclose(located + constant[:, None], expected, rtol=1e-7, atol=1e-7)
        for c in range(SEEN):
            labeled = world.train + world.val
            own = labeled.embeddings[labeled.target == c]
            # One imaginary image where the text says.
            mean = (own.sum(axis=0) + means[c]) / (len(own) + 1)
            posterior = likelihood.posterior(images)[:, c]
            np.testing.assert_allclose(posterior + constant, log_density(world, images, mean), rtol=1e-7, atol=1e-7)
        seen = [np.exp(log_density(world, images, mean)) for mean in world.gaussians.means]
        np.testing.assert_allclose(baseline + constant, np.log(np.mean(seen, axis=0)), rtol=1e-8)
        evidence = likelihood(images, space.support)
        for column, (label, count, by_text) in enumerate(((7, 2, 1), (8, 3, int(named)))):
            own = images[world.test.target == label][:count]
            # One imaginary image where the text says.
            mean = (by_text * means[label] + own.sum(axis=0)) / (by_text + count)
            found = evidence.likelihood[:, column] + constant
            np.testing.assert_allclose(found, log_density(world, images, mean), rtol=1e-8)


def test_kinds_of_support_classes(draw_support):
    support = draw_support(listed=(5, 4), prompted=7, added=2, bare=3).support
    assert support.place.tolist() == [5, 4, 7, 8, 9, 10, 11]
    assert support.has_name.tolist() == [True] * 4 + [False] * 3
    assert support.added.tolist() == [False, False, True, True, False, False, False]
    assert support.classes == 12
    rows = np.array([3, 0])
    part = support[rows]
    np.testing.assert_array_equal(part.likelihood, support.likelihood[rows])
    assert (part.classes, part.prompted, part.named) == (12, 7, 9)


def test_likeness_of_merely_named_classes(world):
    """Classes 6 to 8 are prompted, 7 has images and so has 9, without a name."""
    space = world.space((6, 7, 8), more={7: 2}, image_only={9: 3})
    found = Likelihood(world.gaussians, space.texts).likeness(space.support)
    assert found.shape == (9, 2)
    centered = world.texts - world.texts[:SEEN].mean(axis=0)
    expected = np.zeros((9, 2))
    for c in (6, 8):
        cosine = centered[c] @ centered[7] / np.linalg.norm(centered[c]) / np.linalg.norm(centered[7])
        expected[c, 0] = min(max(2 * cosine - 1, 0), 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    kin = world.texts.copy()
    kin[8] = kin[7]
    found = Likelihood(world.gaussians, kin[: len(space.texts)]).likeness(space.support)
    np.testing.assert_allclose(found[8], [1, 0], atol=1e-6)


# What it adds


def test_kin_share_what_their_like_gains(draw_support):
    """Row by row; where it is a loss, they keep what they had."""
    support = draw_support(listed=(5, 4), prompted=8, added=1, bare=1).support
    likeness = np.zeros((8, 4))
    likeness[6], likeness[7] = (0.2, 0.7, 0.1, 0), (0.9, 0, 0, 0)
    support = replace(support, likeness=likeness)
    rng = np.random.default_rng(0)
    before, own = np.log(rng.dirichlet(np.ones(8), size=20)), np.where(support.has_name, -1.0, 0.0) + np.zeros((20, 4))
    against = 3 * rng.normal(size=(2, 20, 4))
    gate = msgspec.structs.replace(GATE, kin=0.5)
    gain = gate.gain(own, against, support)
    with_kin, without = (one.add(before, own, against, support) for one in (gate, GATE))
    changed = with_kin - without
    changed -= changed[:, :1]
    np.testing.assert_allclose(changed[:, 6], 0.35 * np.maximum(gain[:, 1], 0), atol=1e-9)
    np.testing.assert_allclose(changed[:, 7], 0.45 * np.maximum(gain[:, 0], 0), atol=1e-9)
    assert (gain[:, :2] < 0).any()
    np.testing.assert_allclose(np.delete(changed, [6, 7], axis=1), 0, atol=1e-9)


@pytest.mark.filterwarnings("error")
def test_a_class_that_is_certain_by_name_overflows_nowhere(draw_support):
    support = draw_support().support
    rng = np.random.default_rng(3)
    own = np.where(support.has_name, -rng.exponential(size=support.likelihood.shape), 0.0)
    before = np.log(rng.dirichlet(np.ones(7), size=20))
    for certain in (0.0, -1e-17, -1e-13):
        sure = np.where(support.added, certain, own)
        answer = GATE.add(before, sure, rng.normal(size=(2, *own.shape)), support)
        assert np.isfinite(answer).all()
        assert (np.exp(answer[:, 7:9]).sum(axis=1) > 0.99).all()


def test_weights_are_kept_as_plain_numbers():
    plain = msgspec.json.decode(msgspec.json.encode(GATE))
    assert plain["named"]["seen_ratio"] == 0.35
    assert plain["boost"] == 2.5
    assert msgspec.json.decode(msgspec.json.encode(GATE), type=SupportGate) == GATE


def test_describe_has_every_number():
    text = GATE.describe()
    assert "add (0.40 -0.30 s) x the log-likelihood ratio to all named classes +0.35 x that to the seen ones" in text
    assert "-0.25 x the log-probability by name -1.20 +0.60 s;" in text
    assert "without a name (0.50 +0.80 s) x the ratio +1.90 -3.00 s" in text
    assert text.endswith("(the documented prior)")
    assert "prior" not in msgspec.structs.replace(GATE, fitted=True).describe()
