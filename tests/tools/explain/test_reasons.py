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
    reasons = gate_reasons(Reasons(TERMS, SEEN, UNSEEN), NAMES, 3)
    assert [t.product for t in reasons.terms] == pytest.approx([22, -20.7, 0.3, -0.4])
    assert abs(reasons.log_odds - 1.2) < 1e-9
    assert abs(sum(t.value * t.weight for t in reasons.terms) - reasons.log_odds) < 1e-9
    assert abs(reasons.p_unseen - 1 / (1 + np.exp(-1.2))) < 1e-9
    assert (reasons.among_seen.label, reasons.among_seen.runner_up) == ("cat", "dog $x$")
    assert reasons.among_seen.log_ratio == pytest.approx(0.5 * 2 + 0.2 * -0.5)
    assert (reasons.among_unseen.label, reasons.among_unseen.runner_up) == ("llama", "gnu")
    assert reasons.among_unseen.log_ratio == pytest.approx(5)


def test_words():
    words = gate_reasons(Reasons(TERMS, SEEN, UNSEEN), NAMES, 3).words
    assert words.startswith(
        "The gate takes it for an unseen class (76.9%, log-odds +1.20): for it text evidence for the"
    )
    assert "unseen classes (+22.00), the gate's bias (+0.30); against it text evidence for the seen classes" in words
    assert words.endswith("There llama leads gnu by zero-shot similarity to the text (+5.00).")
    other = gate_reasons(Reasons((term("bias", 1, -2.0),), SEEN, UNSEEN), NAMES, 0).words
    assert "for a seen class (88.1%, log-odds -2.00): for it the gate's bias (-2.00). There cat leads" in other


def test_where_there_is_nothing_to_weigh():
    reasons = gate_reasons(Reasons((), SEEN, ()), NAMES[:2], 0)
    assert (reasons.terms, reasons.log_odds, reasons.p_unseen, reasons.among_unseen) == ([], None, 0.0, None)
    assert reasons.words.startswith("Every class of the list is seen")
    single = gate_reasons(Reasons(TERMS, SEEN, (term("similarity", [3], 1.0),)), NAMES[:3], 2)
    assert single.among_unseen is None
    assert single.words.endswith("the seen classes (-20.70), the prior (-0.40).")
    # The answer may be of the less probable group: the other is likelier as a whole, shared among more classes.
    words = gate_reasons(Reasons((term("bias", 1, 0.3),), SEEN, UNSEEN), NAMES, 0).words
    assert "for an unseen class (57.4%" in words
    assert "There cat leads dog $x$" in words
    assert words.endswith("cat is the likeliest of all.")
    assert "likeliest" not in gate_reasons(Reasons((term("bias", 1, 0.3),), SEEN, UNSEEN), NAMES, 3).words


def test_support_images_are_in_the_words():
    terms = (*TERMS[:3], term("shown", -3.5, 1.0), TERMS[3])
    among = (*UNSEEN, term("shown", [0, 0.5, 7.5], 1.0))
    reasons = gate_reasons(Reasons(terms, SEEN, among), NAMES, 4)
    assert reasons.log_odds == pytest.approx(1.2 - 3.5)
    assert "the support photos (-3.50)" in reasons.words
    assert reasons.terms[3].meaning == "the support photos"
    assert (reasons.among_unseen.label, reasons.among_unseen.runner_up) == ("gnu", "llama")
    assert reasons.among_unseen.log_ratio == pytest.approx((4 + 7.5) - (9 + 0.5))
    words = gate_reasons(Reasons((term("bias", 1, 2.0), term("shown", 0.3, 1.0)), SEEN, among), NAMES, 4).words
    assert "There gnu leads llama by the class's support photos (+7.00)." in words


def test_every_term_that_the_gate_may_give_has_words():
    assert set(MEANINGS) == {"unseen_text", "seen_text", "seen", "novelty", "doubt", "bias", "shown", "prior"}
    classes = {"head", "similarity", "alignment", "memory", "posterior", "centred", "predicted", "shown"}
    assert set(CLASS_MEANINGS) == classes
