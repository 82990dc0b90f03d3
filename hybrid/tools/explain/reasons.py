"""The gate's reasons for one image, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid.gate.decide import Reasons
from hybrid.gate.terms import Term
from hybrid.tools.explain.explanation import Contribution, GateReasons, Margin

MEANINGS = {
    "unseen_text": "text evidence for the unseen classes",
    "seen_text": "text evidence for the seen classes",
    "seen": "evidence for the seen classes with GDA",
    "novelty": "the out-of-distribution score",
    "doubt": "the head's uncertainty",
    "bias": "the gate's bias",
    "shown": "the support photos",
    "prior": "the prior",
}
CLASS_MEANINGS = {
    "head": "the head",
    "similarity": "zero-shot similarity to the text",
    "alignment": "how well the text fits its class's photos",
    "memory": "Gaussian discriminant analysis of the labeled photos",
    "posterior": "Gaussian discriminant analysis that begins where the text says",
    "centred": "zero-shot similarity after centering",
    "predicted": "likeness to the class mean predicted from the text",
    "shown": "the class's support photos",
}
# A term that adds less is not worth a word.
WORTH_SAYING = 0.05


def gate_reasons(reasons: Reasons, names: Sequence[str], answer: int) -> GateReasons:
    """Say how the gate came to its answer for the one image of `reasons`.

    Parameters
    ----------
    names : sequence of str
        The label space, seen classes first.
    answer : int
        Place of the most probable class. It may be of the less probable group, whose mass fewer classes share.
    """
    terms = [_contribution(term, MEANINGS, float(term.value[0])) for term in reasons.unseen]
    log_odds = float(sum(term.product for term in terms)) if terms else None
    p_unseen = float(1 / (1 + np.exp(-log_odds))) if log_odds is not None else 0.0
    seen = reasons.among_seen[0].value.shape[1]
    among_seen = _margin(reasons.among_seen, names[:seen])
    among_unseen = _margin(reasons.among_unseen, names[seen:]) if reasons.among_unseen else None
    words = _words(terms, log_odds, p_unseen, among_seen if answer < seen else among_unseen)
    if log_odds is not None and (p_unseen > 0.5) != (answer >= seen):
        words += f" The other group shares its probability among more classes: {names[answer]} is the likeliest of all."
    return GateReasons(
        terms=terms,
        log_odds=log_odds,
        p_unseen=p_unseen,
        among_seen=among_seen,
        among_unseen=among_unseen,
        words=words,
    )


def _contribution(term: Term, meanings: dict[str, str], value: float) -> Contribution:
    weight = float(term.weight)
    return Contribution(name=term.name, meaning=meanings[term.name], value=value, weight=weight, product=weight * value)


def _margin(terms: Sequence[Term], names: Sequence[str]) -> Margin | None:
    if len(names) < 2:
        return None
    total = np.sum([term.product[0] for term in terms], axis=0)
    best, second = (int(c) for c in np.argsort(-total, kind="stable")[:2])
    parts = [_contribution(t, CLASS_MEANINGS, float(t.value[0, best] - t.value[0, second])) for t in terms]
    log_ratio = float(sum(part.product for part in parts))
    return Margin(label=names[best], runner_up=names[second], terms=parts, log_ratio=log_ratio)


def _words(terms: Sequence[Contribution], log_odds: float | None, p_unseen: float, margin: Margin | None) -> str:
    if log_odds is None:
        first = "Every class of the list is seen, so there is nothing to weigh between seen and unseen"
    else:
        side = "an unseen class" if p_unseen > 0.5 else "a seen class"
        sign = 1 if p_unseen > 0.5 else -1
        pro = _listed([t for t in terms if t.product * sign > WORTH_SAYING])
        contra = _listed([t for t in terms if t.product * sign < -WORTH_SAYING])
        share = max(p_unseen, 1 - p_unseen)
        against = f"; against it {contra}" if contra else ""
        sure = f"{side} ({share:.1%}, log-odds {log_odds:+.2f})"
        first = f"The gate takes it for {sure}: for it {pro or 'little'}{against}"
    if margin is None:
        return first + "."
    for_label = _listed([t for t in margin.terms if t.product > WORTH_SAYING])
    lead = f" by {for_label}" if for_label else " by a hair"
    return f"{first}. There {margin.label} leads {margin.runner_up}{lead}."


def _listed(terms: Sequence[Contribution]) -> str:
    ordered = sorted(terms, key=lambda term: -abs(term.product))
    return ", ".join(f"{term.meaning} ({term.product:+.2f})" for term in ordered)
