"""The terms of the gate: they sum to what the gate answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hybrid.gate.decide import Decider
from hybrid.gate.gate import Gate, GateWeights, SeenWeights, UnseenWeights
from hybrid.gate.policy import Policy
from hybrid.gate.terms import total

GATE = Gate(
    seen=SeenWeights(similarity=0.4, alignment=0.2, head=0.7, gda=0.3),
    unseen=UnseenWeights(similarity=0.9, centered=0.2, predicted=0.1),
    gate=GateWeights(bias=0.5, unseen_text=1.1, seen_text=-0.9, seen=-0.2, ood_score=0.6, head_uncertainty=0.8),
    head_temperature=1.7,
)


def test_terms_sum_to_the_log_odds(draw_evidence):
    evidence = draw_evidence(images=9)
    terms = GATE.terms(evidence)
    assert [(t.name, t.weight) for t in terms] == [
        ("unseen_text", 1.1),
        ("seen_text", -0.9),
        ("seen", -0.2),
        ("novelty", 0.6),
        ("doubt", 0.8),
        ("bias", 0.5),
    ]
    np.testing.assert_array_equal(terms[3].value, evidence.ood_score)


def test_terms_among_classes(draw_evidence):
    evidence = draw_evidence(images=3, seen=4, unseen=2)
    seen = 0.7 * evidence.head + 0.4 * evidence.similarity[:, :4] - 0.2 * evidence.alignment + 0.3 * evidence.gda
    text = 0.9 * evidence.similarity + 0.2 * evidence.centered + 0.1 * evidence.predicted
    np.testing.assert_allclose(total(GATE.seen_terms(evidence)), seen, atol=1e-12)
    np.testing.assert_allclose(total(GATE.text_terms(evidence)), text, atol=1e-12)
    assert [t.name for t in GATE.seen_terms(evidence)] == ["head", "similarity", "alignment", "memory"]
    assert all(t.value.shape == (3, 4) for t in GATE.seen_terms(evidence))
    # The head has no say in the evidence for the seen classes: it does not know what it does not know.
    other = replace(evidence, head=evidence.head[:, ::-1])
    np.testing.assert_array_equal(GATE.terms(evidence)[2].value, GATE.terms(other)[2].value)


@pytest.mark.parametrize("policy", [Policy(), Policy(prior=0.2), Policy(balance="natural")])
def test_reasons_give_the_answer_back(fitted, large, policy):
    decide = Decider(fitted, large.texts, large.scale, policy)
    images = large.test.embeddings
    answer = decide(images, large.head(images)).fused
    reasons = decide.reasons(images, large.head(images))
    log_odds = sum(t.product for t in reasons.unseen)
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), answer.p_unseen, atol=1e-9)
    assert [t.name for t in reasons.unseen][-2:] == ["bias", "prior"]
    for terms, part in ((reasons.among_seen, slice(0, 8)), (reasons.among_unseen, slice(8, None))):
        logits = sum(t.product for t in terms)
        within = answer.log_probabilities[:, part]
        np.testing.assert_allclose(
            logits - logits.max(axis=1, keepdims=True), within - within.max(axis=1, keepdims=True), atol=1e-9
        )


def test_reasons_where_every_class_is_seen(fitted, large):
    decide = Decider(fitted, large.texts[:8], large.scale, Policy())
    reasons = decide.reasons(large.test.embeddings, large.head(large.test.embeddings))
    assert reasons.unseen == reasons.among_unseen == ()
    assert len(reasons.among_seen) == 4


# Shown classes

SPACES = {
    "all kinds": {"prompted": (8, 9), "more": {8: 3}, "joined": {10: 4}, "image_only": {11: 5}},
    "merely named ones stand apart": {"prompted": (9, 8, 10), "more": {8: 3}},
    "every unseen class": {"prompted": (8, 9), "more": {8: 3, 9: 1}},
    "no name": {"image_only": {11: 5, 8: 1}},
    "joined": {"joined": {11: 5, 8: 1}},
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("policy", [Policy(), Policy(prior=0.2), Policy(balance="natural"), Policy(max_seen_loss=0.1)])
def test_reasons_give_the_answer_with_shown_classes_back(fitted, large, space, policy):
    made = large.space(**space)
    decide = Decider(fitted, made.texts, large.scale, policy, made.support)
    images = large.test.embeddings
    answer = decide(images, large.head(images)).fused
    reasons = decide.reasons(images, large.head(images))
    log_odds = sum(t.product for t in reasons.unseen)
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), answer.p_unseen, atol=1e-9)
    assert [t.name for t in reasons.unseen][-2:] == ["shown", "prior"]
    assert all(t.value.shape == (300,) for t in reasons.unseen)
    np.testing.assert_allclose(reasons.unseen[-1].product, decide.point.log_odds)
    for terms, part in ((reasons.among_seen, slice(0, 8)), (reasons.among_unseen, slice(8, None))):
        logits = sum(t.product for t in terms)
        within = answer.log_probabilities[:, part]
        np.testing.assert_allclose(logits - logits[:, :1], within - within[:, :1], atol=1e-8)


def test_shown_terms_are_what_the_images_changed(fitted, large):
    """The gate's own terms stay those of the answer without the images; merely named classes get nothing."""
    space = large.space((8, 9, 10), more={8: 3})
    images = large.test.embeddings
    plain = Decider(fitted, space.texts, large.scale, Policy(prior=0.2)).reasons(images, large.head(images))
    made = Decider(fitted, space.texts, large.scale, Policy(prior=0.2), space.support)
    reasons = made.reasons(images, large.head(images))
    assert [t.name for t in reasons.unseen] == [*(t.name for t in plain.unseen[:-1]), "shown", "prior"]
    for old, new in zip(plain.unseen[:-1], reasons.unseen, strict=False):
        assert (old.name, old.weight) == (new.name, new.weight)
        np.testing.assert_allclose(new.value, old.value, rtol=1e-9)
    assert [t.name for t in reasons.among_unseen] == ["similarity", "centred", "predicted", "shown"]
    for old, new in zip(plain.among_unseen, reasons.among_unseen, strict=False):
        np.testing.assert_allclose(new.value, old.value, rtol=1e-9)
    added = reasons.among_unseen[-1].product
    np.testing.assert_allclose(added[:, 1:], 0, atol=1e-9)
    assert np.abs(added[:, 0]).min() > 1e-3


def test_a_class_without_a_name_has_no_text_terms(fitted, large):
    space = large.space((8,), image_only={11: 5})
    decide = Decider(fitted, space.texts, large.scale, Policy(), space.support)
    *texts, support = decide.reasons(large.test.embeddings, large.head(large.test.embeddings)).among_unseen
    for term in texts:
        assert term.value.shape == (300, 2)
        assert not term.value[:, 1].any()
    assert support.value[:, 1].any()
