"""The gate at an operating point: answers, rejection, sets, and the terms that sum to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hybrid.errors import GateError
from hybrid.gate import conformal, rejection
from hybrid.gate.conformal import prediction_sets, set_threshold
from hybrid.gate.context import answer as answer_under
from hybrid.gate.context import log_evidence
from hybrid.gate.decide import Decider, FittedGate
from hybrid.gate.gate import Gate, GateWeights, SeenWeights, UnseenWeights
from hybrid.gate.policy import Policy
from hybrid.gate.terms import total

SPACES = {
    "names alone": {"prompted": (8, 9, 10, 11)},
    "all kinds": {"prompted": (8, 9), "more": {8: 3}, "added": {10: 4}, "image_only": {11: 5}},
    "merely named ones stand apart": {"prompted": (9, 8, 10), "more": {8: 3}},
    "every unseen class": {"prompted": (8, 9), "more": {8: 3, 9: 1}},
    "no name": {"image_only": {11: 5, 8: 1}},
    "added": {"added": {11: 5, 8: 1}},
}
POLICIES = [{}, {"prior": 0.2}, {"balance": "natural"}, {"max_seen_loss": 0.1}]


def decider(fitted: FittedGate, world, kind: str = "names alone", **policy) -> Decider:
    space = world.space(**SPACES[kind])
    return Decider(fitted, space.texts, world.scale, Policy(**policy), space.support)


def answer(decide: Decider, world, uniform=None, rows=slice(None)):
    images = world.test.embeddings[rows]
    return decide(images, world.head(images), uniform if uniform is None else uniform[rows])


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_answer_is_the_gates_and_reasons_give_it_back(fitted, large, kind, policy):
    decide = decider(fitted, large, kind, reject=0.9, coverage=0.9, **policy)
    uniform = np.random.default_rng(3).random(len(large.test))
    decided = answer(decide, large, uniform)
    evidence = large.evidence(large.space(**SPACES[kind]))
    odds = decide.point.odds
    expected = fitted.gate.fuse(evidence, *odds)
    np.testing.assert_allclose(decided.fused.log_probabilities, expected.log_probabilities, rtol=1e-9)
    np.testing.assert_allclose(decided.fused.p_unseen, expected.p_unseen, rtol=1e-9)
    np.testing.assert_allclose(decided.p_known, fitted.rejector.p_known(fitted.gate, evidence, *odds), rtol=1e-9)
    probabilities = np.exp(decided.fused.log_probabilities)
    np.testing.assert_array_equal(decided.sets, prediction_sets(probabilities, uniform, decide.point.set_threshold))
    for row in (0, 50, 299):
        single = answer(decide, large, uniform, slice(row, row + 1))
        np.testing.assert_allclose(
            single.fused.log_probabilities[0], decided.fused.log_probabilities[row], rtol=1e-8, atol=1e-8
        )
        assert single.p_known[0] == pytest.approx(decided.p_known[row])
        np.testing.assert_array_equal(single.sets[0], decided.sets[row])
    reasons = decide.reasons(large.test.embeddings, large.head(large.test.embeddings))
    np.testing.assert_allclose(1 / (1 + np.exp(-total(reasons.unseen))), expected.p_unseen, atol=1e-9)
    last = "bias" if kind == "names alone" else "shown"
    assert [t.name for t in reasons.unseen][-2:] == [last, "prior"]
    assert all(t.value.shape == (300,) for t in reasons.unseen)
    np.testing.assert_allclose(reasons.unseen[-1].product, decide.point.log_odds)
    for terms, part in ((reasons.among_seen, slice(0, 8)), (reasons.among_unseen, slice(8, None))):
        logits, within = total(terms), expected.log_probabilities[:, part]
        np.testing.assert_allclose(logits - logits[:, :1], within - within[:, :1], atol=1e-8)


def test_without_rejection_and_coverage_there_is_neither(fitted, large):
    plain = answer(decider(fitted, large), large, np.zeros(300))
    assert plain.p_known is plain.sets is None
    decided = answer(decider(fitted, large, coverage=0.9), large)
    assert decided.sets is None, "without a number for each image there are no sets"


def test_acceptance_and_coverage_on_new_images(fitted, large):
    decide = decider(fitted, large, reject=0.9, coverage=0.9)
    decided = answer(decide, large, np.random.default_rng(3).random(len(large.test)))
    seen = large.test.target < 8
    assert (decided.p_known[seen] >= decide.point.accept_above).mean() == pytest.approx(0.9, abs=0.08)
    # Two hundred new images, and a threshold from two hundred others.
    covered = decided.sets[np.arange(len(seen)), large.test.target][seen].mean()
    assert covered == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 * 2 / 200))


def test_without_a_gate_there_is_no_answer(fitted, large):
    assert fitted.warning is FittedGate(reason="no names").warning is None
    with pytest.raises(GateError, match="has no gate") as caught:
        decider(FittedGate(reason="no names"), large)
    assert caught.value.got == "no names"
    assert caught.value.fix == "hybrid train-head"


def test_the_prior_answers_and_warns(large):
    """Support classes too."""
    prior = FittedGate(Gate(), large.gaussians, reason="5 classes; needed: 6")
    assert prior.warning == "the gate is the documented prior, not fitted: 5 classes; needed: 6"
    log_p = answer(decider(prior, large, "all kinds", prior=0.5), large).fused.log_probabilities
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1)
    rows = large.test.target == 11
    assert np.mean(log_p.argmax(axis=1)[rows] == 11) > 0.4
    assert np.mean(log_p.argmax(axis=1)[~rows] == 11) < 0.15
    with pytest.raises(GateError, match="--coverage needs a fitted gate"):
        decider(prior, large, coverage=0.9)


def test_fitting_without_an_image_of_an_unseen_class_beats_the_prior(fitted, large):
    """What it is all for: NLL over seen and unseen images, on images that nothing was fitted on."""
    rows = np.arange(len(large.test))

    def nll(one: FittedGate) -> float:
        return -answer(decider(one, large), large).fused.log_probabilities[rows, large.test.target].mean()

    assert nll(fitted) < nll(FittedGate(Gate(), large.gaussians))


# Reasons


GATE = Gate(
    seen=SeenWeights(similarity=0.4, alignment=0.2, head=0.7, gda=0.3, posterior=0.15),
    unseen=UnseenWeights(similarity=0.9, centered=0.2, predicted=0.1),
    gate=GateWeights(bias=0.5, unseen_text=1.1, seen_text=-0.9, seen=-0.2, ood_score=0.6, head_uncertainty=0.8),
    hubness=0.35,
    head_temperature=1.7,
)


def test_terms_by_hand(draw_evidence):
    evidence = draw_evidence(images=3, seen=4, unseen=2)
    terms = GATE.terms(evidence)
    names = ["unseen_text", "seen_text", "seen", "novelty", "doubt", "bias"]
    assert [(t.name, t.weight) for t in terms] == list(zip(names, [1.1, -0.9, -0.2, 0.6, 0.8, 0.5], strict=True))
    np.testing.assert_array_equal(terms[3].value, evidence.ood_score)
    similarity = evidence.similarity - 0.35 * evidence.hubness
    seen = 0.7 * evidence.head + 0.4 * similarity[:, :4] - 0.2 * evidence.alignment + 0.3 * evidence.gda
    seen += 0.15 * evidence.posterior
    text = 0.9 * similarity + 0.2 * evidence.centered + 0.1 * evidence.predicted
    np.testing.assert_allclose(total(GATE.seen_terms(evidence)), seen, atol=1e-12)
    np.testing.assert_allclose(total(GATE.text_terms(evidence)), text, atol=1e-12)
    assert [t.name for t in GATE.seen_terms(evidence)] == ["head", "similarity", "memory", "posterior", "alignment"]
    # The head has no say in the evidence for the seen classes: it does not know what it does not know.
    other = replace(evidence, head=evidence.head[:, ::-1])
    np.testing.assert_array_equal(terms[2].value, GATE.terms(other)[2].value)


def test_reasons_where_every_class_is_seen(fitted, large):
    decide = Decider(fitted, large.texts[:8], large.scale, Policy())
    reasons = decide.reasons(large.test.embeddings, large.head(large.test.embeddings))
    assert reasons.unseen == reasons.among_unseen == ()
    assert len(reasons.among_seen) == 4


def test_support_terms_are_what_the_images_changed(fitted, large):
    """The gate's own terms stay those of the answer without the images; who is least like them gets nothing."""
    space = large.space((8, 9, 10), more={8: 3})
    images = large.test.embeddings
    plain = Decider(fitted, space.texts, large.scale, Policy(prior=0.2)).reasons(images, large.head(images))
    decide = Decider(fitted, space.texts, large.scale, Policy(prior=0.2), space.support)
    reasons = decide.reasons(images, large.head(images))
    assert [t.name for t in reasons.unseen] == [*(t.name for t in plain.unseen[:-1]), "shown", "prior"]
    for old, new in zip(plain.unseen[:-1], reasons.unseen, strict=False):
        assert (old.name, old.weight) == (new.name, new.weight)
        np.testing.assert_allclose(new.value, old.value, rtol=1e-9)
    assert [t.name for t in reasons.among_unseen] == ["similarity", "centred", "predicted", "shown"]
    for old, new in zip(plain.among_unseen, reasons.among_unseen, strict=False):
        np.testing.assert_allclose(new.value, old.value, rtol=1e-9)
    added = reasons.among_unseen[-1].product
    np.testing.assert_allclose(added[:, 1:].min(axis=1), 0, atol=1e-9)
    assert np.abs(added[:, 0]).min() > 1e-3


def test_a_class_without_a_name_has_no_text_terms(fitted, large):
    space = large.space((8,), image_only={11: 5})
    decide = Decider(fitted, space.texts, large.scale, Policy(), space.support)
    *texts, support = decide.reasons(large.test.embeddings, large.head(large.test.embeddings)).among_unseen
    for term in texts:
        assert term.value.shape == (300, 2)
        assert not term.value[:, 1].any()
    assert support.value[:, 1].any()


@pytest.mark.parametrize("power", [1.0, 1.3])
def test_thresholds_of_another_prior_keep_and_cover_the_same_share(fitted, large, power):
    """Test images of each class weigh as it comes now, and stand for a sequence of their like."""
    decide = decider(fitted, large, reject=0.9, coverage=0.9)
    assert decide.point_for(decide.log_prior) == decide.point
    prior = np.array([8, 4, 2, 1, 1, 2, 0, 8, 1, 1, 1, 1]) / 30
    with np.errstate(divide="ignore"):
        log_prior = np.log(prior)
    point, uniform, target = decide.point_for(log_prior, power), np.random.default_rng(3).random(300), large.test.target
    decided, seen = answer(decide, large), target < 8
    said = power * log_evidence(decided.fused.log_probabilities, decide.log_prior, decided.p_known)
    found, p_known = answer_under(said, log_prior)
    sets = prediction_sets(np.exp(found), uniform, point.set_threshold)
    weight = prior[target[seen]]
    kept = np.average((p_known >= point.accept_above)[seen], weights=weight)
    covered = np.average(sets[np.arange(300), target][seen], weights=weight)
    assert kept == pytest.approx(0.9, abs=0.08)
    assert covered == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 * 2 * np.square(weight / weight.sum()).sum()))
    only_unseen = np.where(np.arange(12) == 9, 0.0, -np.inf)
    assert decide.point_for(only_unseen) == decide.point, "no seen class to keep"


def test_weighted_thresholds_by_hand():
    """Those of images that weigh alike are the unweighted ones."""
    own, target = np.arange(1.0, 10), np.zeros(9, int)
    for coverage in (0.3, 0.55, 0.9):
        expected = set_threshold(own[:, None], target, coverage)
        assert conformal.weighted_threshold(own, np.full(9, 2.0), coverage) == expected
    # Weights 6, 3 and 1: a new image weighs 46 / 10. .4 of 14.6 is in the first, .6 in the second, .9 in none.
    weight = np.array([6, 0, 3, 1.0])
    found = [conformal.weighted_threshold(np.array([1.0, 0, 3, 4]), weight, c) for c in (0.4, 0.6, 0.9)]
    assert found == [1, 3, 4]
    p_known = np.array([0.9, 0.2, 0.6, 0.4])
    assert [rejection.weighted_threshold(p_known, weight, s) for s in (0, 0.5, 0.65, 0.95)] == [1, 0.9, 0.6, 0.4]
    assert rejection.weighted_threshold(p_known, np.array([1.0, 1, 1, 7]), 0.9) == 0.4
