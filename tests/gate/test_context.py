"""Class priors and sequences, held against values by hand."""

import numpy as np
import pytest

from hybrid.gate.context import answer, as_numbers, log_evidence, log_shares, pooling_weight
from hybrid.gate.decide import Decider
from hybrid.gate.policy import Policy

UNIFORM = np.log([0.5, 0.5])


def log(*rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows))


def test_another_prior_by_hand():
    """Ratios of the priors 2, 1 and 1/2: 0.5, 0.3, 0.2 become 1.0, 0.3, 0.1 of 1.4."""
    evidence = log_evidence(log([0.5, 0.3, 0.2]), np.log([0.25, 0.25, 0.5]))
    found, p_known = answer(evidence, log([0.5, 0.25, 0.25]))
    assert np.exp(found) == pytest.approx(np.array([[10, 3, 1]]) / 14)
    assert p_known is None
    assert np.exp(answer(evidence, log([0.25, 0.25, 0.5]))[0]) == pytest.approx(np.array([[0.5, 0.3, 0.2]]))
    # What cannot be there takes no share; the others keep their ratio.
    assert np.exp(answer(evidence, log([0.0, 1 / 3, 2 / 3]))[0]) == pytest.approx(np.array([[0.0, 0.6, 0.4]]))


def test_a_right_prior_is_bayes_rule():
    """Two classes that look alike in a drawn way: the shifted answer is the exact posterior under the new prior."""
    rng = np.random.default_rng(0)
    likelihood = rng.random((50, 4)) + 0.01
    old, new = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4))
    posterior = likelihood * old / (likelihood @ old)[:, None]
    found, _ = answer(log_evidence(np.log(posterior), np.log(old)), np.log(new)[None])
    assert np.exp(found) == pytest.approx(likelihood * new / (likelihood @ new)[:, None])


def test_none_of_these_is_one_class_more():
    """p(known) 0.9 and a first class that alone may be there: 0.9 x 0.1 x 2 = 0.18 against 0.1."""
    half = np.log([0.5, 0.5])
    evidence = log_evidence(log([0.1, 0.9]), half, np.array([0.9]))
    assert answer(evidence, half[None])[1] == pytest.approx([0.9])
    found, p_known = answer(evidence, log([1.0, 0.0]))
    assert (np.exp(found[0, 0]), p_known[0]) == pytest.approx((1.0, 0.18 / 0.28))


@pytest.mark.parametrize(("dependence", "first"), [(0.0, 0.48 / 0.56), (1.0, 0.48**0.5 / (0.48**0.5 + 0.08**0.5))])
def test_two_images_by_hand(dependence, first):
    """0.6 and 0.8 at even priors: 0.48 against 0.08 where they are independent, its root where they are one."""
    evidence = log_evidence(log([0.6, 0.4], [0.8, 0.2]), UNIFORM).sum(axis=0, keepdims=True)
    found, _ = answer(evidence * pooling_weight(2, dependence), UNIFORM[None])
    assert np.exp(found[0, 0]) == pytest.approx(first)


def test_the_prior_counts_once_however_many_images():
    """At a prior of 0.9 two images that say nothing say 0.9, not the 0.99 of a plain product."""
    prior = np.log([0.9, 0.1])
    evidence = log_evidence(np.stack([prior, prior]), prior).sum(axis=0, keepdims=True)
    assert np.exp(answer(evidence, prior[None])[0]) == pytest.approx(np.array([[0.9, 0.1]]))


def test_images_that_contradict_each_other_speak_for_none_of_these():
    """Odds of known 9 and 4: 36 where they agree, and 36 x (1.8 x 0.2 + 0.2 x 1.8) / 2 where they do not."""
    known = np.array([0.9, 0.8])
    for rows, odds in (([[0.5, 0.5]] * 2, 36), ([[0.9, 0.1], [0.1, 0.9]], 36 * 0.36), ([[0.9, 0.1]] * 2, 36 * 1.64)):
        evidence = log_evidence(np.log(rows), UNIFORM, known).sum(axis=0, keepdims=True)
        assert answer(evidence, UNIFORM[None])[1] == pytest.approx([odds / (1 + odds)])


def test_images_count_at_most_as_many_as_they_are():
    assert [pooling_weight(m, 0.5) * m for m in (1, 2, 5)] == pytest.approx([1, 4 / 3, 5 / 3])
    assert pooling_weight(7, 0.0) == 1
    assert pooling_weight(1, 1.0) == 1


def test_numbers_and_shares():
    assert as_numbers(["b", None, "a", "b", None]).tolist() == [0, 1, 2, 0, 3]
    assert np.exp(log_shares(np.array([1, 3]))) == pytest.approx([0.25, 0.75])
    assert np.exp(log_shares(np.array([1, 9]), 0.5)) == pytest.approx([0.25, 0.75])
    assert np.exp(log_shares(np.array([1, 9]), 0.0)) == pytest.approx([0.5, 0.5])


def test_what_answers_assume(large, fitted):
    """Even odds of seen and named classes, equal shares in each group; with a prior of a fifth, a fifth."""

    def decider(policy=None, **of):
        space = large.space(**of)
        return Decider(fitted, space.texts, large.scale, policy or Policy(), space.support)

    each = np.exp(decider(prompted=(8, 9)).log_prior)
    assert each == pytest.approx([1 / 16] * 8 + [1 / 4] * 2)
    assert np.exp(decider(Policy(prior=0.2), prompted=(8, 9)).log_prior) == pytest.approx([0.1] * 8 + [0.1] * 2)
    assert np.exp(decider().log_prior) == pytest.approx([1 / 8] * 8)
    # An added class has the prior of `boost` seen ones, as in the fit.
    found = np.exp(decider(prompted=(8,), added={9: 4}, image_only={10: 4}).log_prior)
    assert found / found[0] == pytest.approx([1] * 8 + [8] + [fitted.gate.support.boost] * 2)
