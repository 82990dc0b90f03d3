"""The published scores and sets beside the product's, each against a calculation by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.open_set import scores as oss
from hybrid.gate.conformal import set_threshold
from hybrid.gate.gaussians import ClassGaussians


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def random_units(n, d=5, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


def test_maximum_probability_and_entropy():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    np.testing.assert_allclose(oss.maximum_probability(np.log(p) + 7), [0.5, 0.8])
    by_hand = [sum(q * math.log(q) for q in row) for row in p]
    np.testing.assert_allclose(oss.negative_entropy(np.log(p)), by_hand)


def test_mcm_is_a_softmax_of_bare_cosines():
    assert oss.mcm(np.array([[0.3, 0.1]]))[0] == pytest.approx(1 / (1 + math.exp(-0.2)))
    assert oss.mcm(np.array([[0.3, 0.1]]), 0.01)[0] == pytest.approx(1 / (1 + math.exp(-20)))


def test_energy_does_not_overflow():
    assert oss.energy(np.array([[1.0, 2.0]]))[0] == pytest.approx(math.log(math.e + math.e**2))
    assert oss.energy(np.array([[1000.0, 1000.0]]))[0] == pytest.approx(1000 + math.log(2))


def test_neglabel_by_hand():
    known, others = np.array([[2.0, 1.0], [0.0, 0.0]]), np.array([[0.5, 3.0, 1.0], [-1.0, 0.0, 2.0]])
    for row, value in enumerate(oss.neglabel(known, others)):
        own, foreign = np.exp(known[row]).sum(), np.exp(others[row]).sum()
        assert value == pytest.approx(own / (own + foreign))


def test_neglabel_groups_are_equal_and_averaged():
    known, others = np.array([[1.0]]), np.arange(5.0)[None]
    order = np.random.default_rng(0).permutation(5)
    groups = (order[:2], order[2:4])  # the fifth is left over
    by_hand = np.mean([math.e / (math.e + np.exp(others[0, group]).sum()) for group in groups])
    assert oss.neglabel(known, others, group=2)[0] == pytest.approx(by_hand)


def test_neglabel_of_huge_logits_is_finite():
    with np.errstate(over="raise", invalid="raise"):
        assert oss.neglabel(np.array([[2000.0, 0.0]]), np.array([[0.0]]))[0] == 1


def test_mining_keeps_the_negatives_farthest_from_the_classes():
    texts = np.eye(3)
    negatives = unit(np.array([[1, 0.1, 0], [-1, -1, -1], [0.2, 0.2, -1], [0, 1, 1.0]]))
    near = [np.quantile(row @ texts.T, 0.95) for row in negatives]
    assert oss.mine_negatives(negatives, texts, 0.5).tolist() == np.argsort(near)[:2].tolist() == [1, 2]
    assert oss.mine_negatives(negatives, texts).tolist() == [1]


def test_neighbor_distance_by_brute_force():
    images, bank = random_units(4), random_units(9, seed=1)
    for k in (1, 3):
        by_hand = [-sorted(np.linalg.norm(bank - image, axis=1))[k - 1] for image in images]
        np.testing.assert_allclose(oss.neighbor_distance(images, bank, k), by_hand)
    farthest = [-max(np.linalg.norm(bank - image, axis=1)) for image in images]
    np.testing.assert_allclose(oss.neighbor_distance(images, bank, 50), farthest)
    assert oss.neighbor_distance(bank, bank, 1) == pytest.approx(0, abs=1e-7)


def test_relative_mahalanobis_by_brute_force():
    labels = np.repeat(np.arange(3), 6).astype(np.intp)
    memory = ClassGaussians.fit(random_units(18), labels, 3)
    images = random_units(4, seed=2)

    def squared(image, mean, covariance):
        return float((image - mean) @ np.linalg.solve(covariance, image - mean))

    for image, value in zip(images, oss.relative_mahalanobis(images, memory), strict=True):
        everything = squared(image, memory.background.mean, memory.background.covariance)
        assert value == pytest.approx(-min(squared(image, m, memory.within) - everything for m in memory.means))


@pytest.mark.parametrize("seed", range(6))
def test_auroc_and_fpr95_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    # rounded, so that there are ties
    known, unknown = rng.normal(1, 1, 20 + 17 * seed).round(1), rng.normal(0, 1, 53).round(1)
    truth, scores = np.r_[np.ones(len(known)), np.zeros(len(unknown))], np.r_[known, unknown]
    assert oss.auroc(known, unknown) == pytest.approx(roc_auc_score(truth, scores))
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert oss.fpr95(known, unknown) == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-12)])


def test_fpr95_of_perfect_and_useless_scores():
    assert oss.fpr95(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0
    assert oss.fpr95(np.array([1.0, 1.0]), np.array([1.0])) == 1


def test_set_scores_by_hand():
    p, u = np.array([[0.2, 0.5, 0.3]]), np.array([0.5])
    np.testing.assert_allclose(oss.lac(p, u), [[0.8, 0.5, 0.7]])
    np.testing.assert_allclose(oss.aps(p, u), [[1.0, 0.5, 0.8]])
    np.testing.assert_allclose(oss.aps_randomised(p, u), [[0.9, 0.25, 0.65]])


@pytest.mark.parametrize("name", oss.SETS)
def test_sets_cover_as_promised(name):
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.full(6, 0.5), size=20000)
    target = (rng.random(len(p))[:, None] > np.cumsum(p, axis=1)).sum(axis=1).clip(max=5)
    scores, half = oss.SETS[name](p, rng.random(len(p))), len(p) // 2
    threshold = set_threshold(scores[:half], target[:half], 0.9)
    inside = scores[half:][np.arange(half), target[half:]] <= threshold
    assert inside.mean() == pytest.approx(0.9, abs=0.01)


def test_measure_sets():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
    found = oss.measure_sets(sets, np.array([0, 1, 2, 0]), seen=2)
    assert found == {
        "coverage_seen": pytest.approx(2 / 3),
        "coverage_unseen": 0.0,
        "coverage": 0.5,
        "size_seen": pytest.approx(5 / 3),
        "size_unseen": 0.0,
        "size": 1.25,
        "singletons": 0.25,
        "empty": 0.25,
    }
