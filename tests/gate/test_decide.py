from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hybrid.errors import GateError
from hybrid.gate.conformal import prediction_sets
from hybrid.gate.decide import Decider, FittedGate
from hybrid.gate.gate import Gate
from hybrid.gate.policy import Policy


def decider(fitted: FittedGate, world, **policy) -> Decider:
    return Decider(fitted, world.texts, world.scale, Policy(**policy))


def ask(decide: Decider, world, uniform=None):
    images = world.test.embeddings
    return decide(images, world.head(images), uniform)


def test_the_answer_is_the_gates(fitted, large):
    images = large.test.embeddings
    decided = ask(decider(fitted, large), large)
    expected = fitted.gate.fuse(large.scorer(images, large.head(images)))
    np.testing.assert_allclose(decided.fused.log_probabilities, expected.log_probabilities, rtol=1e-9)
    assert decided.p_known is None
    assert decided.sets is None


def test_the_prior_shifts_it_by_bayes_rule(fitted, large):
    plain = ask(decider(fitted, large), large).fused.p_unseen
    found = ask(decider(fitted, large, prior=0.2), large).fused.p_unseen
    np.testing.assert_allclose(found, 0.2 * plain / (0.2 * plain + 0.8 * (1 - plain)), rtol=1e-8)


def test_natural_counts_the_classes_of_the_label_space(fitted, large):
    assert decider(fitted, large, balance="natural").point.log_odds == pytest.approx(np.log(4 / 8))
    fewer = replace(large, texts=large.texts[:9])
    assert decider(fitted, fewer, balance="natural").point.log_odds == pytest.approx(np.log(1 / 8))


def test_p_known_where_rejection_is_asked_for(fitted, large):
    decide = decider(fitted, large, reject=0.9, prior=0.3)
    decided = ask(decide, large)
    images = large.test.embeddings
    expected = fitted.rejector.p_known(fitted.gate, large.scorer(images, large.head(images)), np.log(3 / 7))
    np.testing.assert_allclose(decided.p_known, expected, rtol=1e-9)
    kept = decided.p_known[large.test.target < 8] >= decide.point.accept_above
    assert kept.mean() == pytest.approx(0.9, abs=0.08)


def test_sets_where_a_coverage_is_asked_for(fitted, large):
    decide = decider(fitted, large, coverage=0.9)
    uniform = np.random.default_rng(3).random(len(large.test))
    decided = ask(decide, large, uniform)
    answer = np.exp(decided.fused.log_probabilities)
    assert np.array_equal(decided.sets, prediction_sets(answer, uniform, decide.point.set_threshold))
    seen = large.test.target < 8
    # Two hundred new images, and a threshold from two hundred others.
    covered = decided.sets[np.arange(len(seen)), large.test.target][seen].mean()
    assert covered == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 * 2 / 200))
    assert ask(decide, large).sets is None, "without a number for each photo there are no sets"


def test_a_image_at_a_time_says_the_same(fitted, large):
    decide = decider(fitted, large, coverage=0.9, reject=0.9)
    uniform = np.random.default_rng(3).random(len(large.test))
    whole = ask(decide, large, uniform)
    head = large.head(large.test.embeddings)
    for row in (0, 50, 299):
        one = decide(large.test.embeddings[row : row + 1], head[row : row + 1], uniform[row : row + 1])
        np.testing.assert_allclose(one.fused.log_probabilities[0], whole.fused.log_probabilities[row], rtol=1e-8)
        assert one.p_known[0] == pytest.approx(whole.p_known[row])
        assert np.array_equal(one.sets[0], whole.sets[row])


def test_without_a_gate_there_is_no_answer(large):
    with pytest.raises(GateError, match="has no gate") as caught:
        decider(FittedGate(reason="no names"), large)
    assert caught.value.got == "no names"
    assert caught.value.fix == "hybrid train-head"


def test_the_prior_answers_and_warns(large):
    fitted = FittedGate(Gate(), large.gaussians, reason="5 classes; needed: 6")
    assert fitted.warning == "the gate is the documented prior, not fitted: 5 classes; needed: 6"
    decided = ask(decider(fitted, large, prior=0.5), large)
    np.testing.assert_allclose(np.exp(decided.fused.log_probabilities).sum(axis=1), 1)
    with pytest.raises(GateError, match="--coverage needs a fitted gate"):
        decider(fitted, large, coverage=0.9)


def test_a_fitted_gate_and_none_at_all_do_not_warn(fitted):
    assert fitted.warning is None
    assert FittedGate(reason="no names").warning is None


def test_fitting_without_a_image_of_an_unseen_class_beats_the_prior(fitted, large):
    """What it is all for: NLL over seen and unseen images, on images that nothing was fitted on."""
    rows = np.arange(len(large.test))

    def nll(one: FittedGate) -> float:
        return -ask(decider(one, large), large).fused.log_probabilities[rows, large.test.target].mean()

    assert nll(fitted) < nll(FittedGate(Gate(), large.gaussians))


# Shown classes


@pytest.fixture(scope="module")
def space(large):
    return large.space((8, 9), more={8: 3}, joined={10: 4}, image_only={11: 5})


@pytest.mark.parametrize("policy", [{}, {"prior": 0.3}, {"balance": "natural"}, {"max_seen_loss": 0.05}])
def test_the_answer_with_shown_classes_is_the_gates(fitted, large, space, policy):
    decide = Decider(fitted, space.texts, large.scale, Policy(**policy, reject=0.9, coverage=0.9), space.support)
    uniform = np.random.default_rng(3).random(len(large.test))
    decided = ask(decide, large, uniform)
    evidence = large.evidence(space)
    odds = decide.point.log_odds, decide.point.support_log_odds
    expected = fitted.gate.fuse(evidence, *odds)
    np.testing.assert_allclose(decided.fused.log_probabilities, expected.log_probabilities, rtol=1e-9)
    np.testing.assert_allclose(decided.fused.p_unseen, expected.p_unseen, rtol=1e-9)
    np.testing.assert_allclose(decided.p_known, fitted.rejector.p_known(fitted.gate, evidence, *odds), rtol=1e-9)
    answer = np.exp(decided.fused.log_probabilities)
    assert np.array_equal(decided.sets, prediction_sets(answer, uniform, decide.point.set_threshold))
    assert decided.sets.shape == (300, 12)


def test_natural_counts_shown_classes_of_every_kind(fitted, large, space):
    """4 unseen classes of 12: each one expected as often as a seen one."""
    decide = Decider(fitted, space.texts, large.scale, Policy(balance="natural"), space.support)
    assert decide.point.log_odds == pytest.approx(np.log(2 / 8))
    assert decide.point.support_log_odds == pytest.approx(-np.log(fitted.gate.support.boost))
    assert "0.333 the unseen classes' share" in decide.point.notes[0]


def test_a_image_at_a_time_says_the_same_with_shown_classes(fitted, large, space):
    decide = Decider(fitted, space.texts, large.scale, Policy(), space.support)
    whole = ask(decide, large)
    head = large.head(large.test.embeddings)
    for row in (0, 299):
        one = decide(large.test.embeddings[row : row + 1], head[row : row + 1])
        np.testing.assert_allclose(one.fused.log_probabilities[0], whole.fused.log_probabilities[row], atol=1e-8)


def test_the_prior_gate_knows_shown_classes_too(large, space):
    prior = FittedGate(Gate(), large.gaussians, reason="too little")
    decided = ask(Decider(prior, space.texts, large.scale, Policy(), space.support), large)
    np.testing.assert_allclose(np.exp(decided.fused.log_probabilities).sum(axis=1), 1)
    rows = large.test.target == 11
    found = decided.fused.log_probabilities.argmax(axis=1)
    assert np.mean(found[rows] == 11) > 0.4
    assert np.mean(found[~rows] == 11) < 0.15
