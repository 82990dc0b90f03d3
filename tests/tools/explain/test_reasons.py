from __future__ import annotations

import numpy as np
import pytest

from hybrid.gate.decide import Reasons
from hybrid.gate.gate import Term
from hybrid.tools.explain.reasons import CLASS_MEANINGS, MEANINGS, gate_reasons


def term(name, value, weight):
    return Term(name, np.array([value], dtype=float), weight)


SEEN = (term("head", [-1, -3], 0.5), term("memory", [2, 2.5], 0.2))
UNSEEN = (term("similarity", [1, 9, 4], 1.0),)
TERMS = (term("unseen_text", 20, 1.1), term("seen_text", 23, -0.9), term("bias", 1, 0.3), term("prior", 1, -0.4))
NAMES = ("cat", "dog $x$", "yak", "llama", "gnu")


def test_numbers():
    found = gate_reasons(Reasons(TERMS, SEEN, UNSEEN), NAMES, 3)
    assert [t.product for t in found.terms] == pytest.approx([22, -20.7, 0.3, -0.4])
    assert abs(found.log_odds - 1.2) < 1e-9
    assert abs(sum(t.value * t.weight for t in found.terms) - found.log_odds) < 1e-9
    assert abs(found.p_unseen - 1 / (1 + np.exp(-1.2))) < 1e-9
    assert (found.among_seen.label, found.among_seen.runner_up) == ("cat", "dog $x$")
    assert found.among_seen.log_ratio == pytest.approx(0.5 * 2 + 0.2 * -0.5)
    assert (found.among_unseen.label, found.among_unseen.runner_up) == ("llama", "gnu")
    assert found.among_unseen.log_ratio == pytest.approx(5)


def test_words():
    said = gate_reasons(Reasons(TERMS, SEEN, UNSEEN), NAMES, 3).words
    assert said.startswith(
        "The gate takes it for an unseen class (76.9%, log-odds +1.20): for it text evidence for the"
    )
    assert "unseen classes (+22.00), the gate's bias (+0.30); against it text evidence for the seen classes" in said
    assert said.endswith("There llama leads gnu by zero-shot similarity to the text (+5.00).")
    other = gate_reasons(Reasons((term("bias", 1, -2.0),), SEEN, UNSEEN), NAMES, 0).words
    assert "for a seen class (88.1%, log-odds -2.00): for it the gate's bias (-2.00). There cat leads" in other


def test_where_there_is_nothing_to_weigh():
    found = gate_reasons(Reasons((), SEEN, ()), NAMES[:2], 0)
    assert (found.terms, found.log_odds, found.p_unseen, found.among_unseen) == ([], None, 0.0, None)
    assert found.words.startswith("Every class of the list is seen")
    one = gate_reasons(Reasons(TERMS, SEEN, (term("similarity", [3], 1.0),)), NAMES[:3], 2)
    assert one.among_unseen is None
    assert one.words.endswith("the seen classes (-20.70), the prior (-0.40).")


def test_the_answer_may_be_of_the_less_probable_group():
    """The unseen group is likelier as a whole, and shares that among more classes."""
    said = gate_reasons(Reasons((term("bias", 1, 0.3),), SEEN, UNSEEN), NAMES, 0).words
    assert "for an unseen class (57.4%" in said
    assert "There cat leads dog $x$" in said
    assert said.endswith("cat is the likeliest of all.")
    assert "likeliest" not in gate_reasons(Reasons((term("bias", 1, 0.3),), SEEN, UNSEEN), NAMES, 3).words


def test_images_of_shown_classes_are_said():
    terms = (*TERMS[:3], term("shown", -3.5, 1.0), TERMS[3])
    among = (*UNSEEN, term("shown", [0, 0.5, 7.5], 1.0))
    found = gate_reasons(Reasons(terms, SEEN, among), NAMES, 4)
    assert found.log_odds == pytest.approx(1.2 - 3.5)
    assert "the support photos (-3.50)" in found.words
    assert found.terms[3].meaning == "the support photos"
    assert (found.among_unseen.label, found.among_unseen.runner_up) == ("gnu", "llama")
    assert found.among_unseen.log_ratio == pytest.approx((4 + 7.5) - (9 + 0.5))
    said = gate_reasons(Reasons((term("bias", 1, 2.0), term("shown", 0.3, 1.0)), SEEN, among), NAMES, 4).words
    assert "There gnu leads llama by the class's support photos (+7.00)." in said


def test_every_term_that_the_gate_may_give_has_words():
    evidence = {"unseen_text", "seen_text", "seen", "novelty", "doubt", "bias", "shown", "prior"}
    classes = {"head", "similarity", "alignment", "memory", "centred", "predicted", "shown"}
    assert set(MEANINGS) == evidence
    assert set(CLASS_MEANINGS) == classes
