"""The gate with support images: image by image in plain numbers, and that all other classes keep their ratios."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import msgspec
import numpy as np
import pytest
from scipy.special import log_softmax

from hybrid.gate.decide import Decider
from hybrid.gate.evidence import Evidence
from hybrid.gate.gate import Gate, GateWeights, SeenWeights, UnseenWeights
from hybrid.gate.policy import Policy
from hybrid.gate.support import SupportGate, SupportWeights

SUPPORT = SupportGate(
    named=SupportWeights(ratio=0.4, bias=-1.2, base=-0.25, seen_ratio=0.35, ratio_shots=-0.3, bias_shots=0.6),
    image_only=SupportWeights(ratio=0.5, bias=1.9, ratio_shots=0.8, bias_shots=-3.0),
    boost=2.5,
)
GATE = Gate(
    seen=SeenWeights(similarity=0.7, alignment=0.3, head=0.6, gda=0.2, posterior=0.15),
    unseen=UnseenWeights(similarity=0.5, centered=0.4, predicted=0.25),
    gate=GateWeights(bias=-0.4, unseen_text=0.9, seen_text=-0.5, seen=-0.35, ood_score=0.8, head_uncertainty=1.3),
    hubness=0.35,
    head_temperature=1.7,
    support=SUPPORT,
)
NOTHING = SupportWeights(ratio=0.0, bias=0.0)
SILENT = msgspec.structs.replace(GATE, support=SupportGate(named=NOTHING, image_only=NOTHING, boost=2.5))


def by_name(e: Evidence, classes: list[int], log_odds: float = 0.0) -> np.ndarray:
    """The gate's answer over some classes without any image; `test_gate` holds it against plain numbers."""
    return np.exp(GATE.fuse(replace(e.with_texts(classes), support=None), log_odds).log_probabilities)


def by_hand(e: Evidence, log_odds: float, support_log_odds: float) -> np.ndarray:
    """The answer, one image and one class after the other."""
    support, seen = e.support, e.seen
    prompted = list(range(support.prompted))
    plain = by_name(e, prompted)
    answers = []
    for row in range(len(plain)):
        likelihoods = [math.exp(e.baseline[row])] * seen + [math.exp(e.located[row, c]) for c in prompted[seen:]]
        odds = np.zeros(support.classes)
        odds[: len(prompted)] = plain[row]
        odds[seen : len(prompted)] *= math.exp(log_odds)
        for column, place in enumerate(support.place):
            against_seen = support.likelihood[row, column] - e.baseline[row]
            against_all = support.likelihood[row, column] - math.log(np.mean(likelihoods))
            share = math.log2(min(support.counts[column], 16)) / 4
            w = SUPPORT.named if place < support.named else SUPPORT.image_only
            gain = (w.ratio + w.ratio_shots * share) * against_all + w.bias + w.bias_shots * share
            weighed = 1
            if place < support.named:
                p = plain[row, place] if place < support.prompted else 0
                weighed = p
                if place >= support.prompted:
                    # At the prior of 2.5 seen classes.
                    prior = math.log(2.5 / seen * (len(prompted) - seen + 1))
                    p = by_name(e, [*prompted, place], prior)[row, -1]
                    weighed = p / (1 - p)
                gain += w.seen_ratio * against_seen + w.base * math.log(p)
            odds[place] = weighed * math.exp(gain + (log_odds if place < support.prompted else support_log_odds))
        answers.append(odds / odds.sum())
    return np.array(answers)


LAYOUTS = {
    "all kinds": {},
    "prompted": {"listed": (4, 6), "added": 0, "bare": 0},
    "every prompted one": {"listed": (6, 4, 5), "added": 0, "bare": 0},
    "added": {"listed": (), "added": 2, "bare": 0},
    "image_only": {"listed": (), "added": 0, "bare": 3},
    "no unseen name": {"listed": (), "prompted": 4, "added": 2, "bare": 1},
    "no name at all": {"listed": (), "prompted": 4, "added": 0, "bare": 2},
}
EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@EVERY_LAYOUT
@pytest.mark.parametrize(("log_odds", "support_log_odds"), [(0.0, 0.0), (-1.3, 0.8)])
def test_against_plain_numbers(draw_support, layout, log_odds, support_log_odds):
    evidence = draw_support(1, **layout)
    fused = GATE.fuse(evidence, log_odds, support_log_odds)
    expected = by_hand(evidence, log_odds, support_log_odds)
    np.testing.assert_allclose(np.exp(fused.log_probabilities), expected, rtol=1e-8)
    np.testing.assert_allclose(np.exp(fused.log_probabilities).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(fused.p_unseen, expected[:, 4:].sum(axis=1), rtol=1e-8)
    prompted = replace(evidence.with_texts(slice(evidence.support.prompted)), support=None)
    without = GATE.fuse(prompted, log_odds)
    np.testing.assert_allclose(fused.without_support, without.log_probabilities, atol=1e-9)
    np.testing.assert_array_equal(fused.head, evidence.head)
    np.testing.assert_allclose(fused.zero_shot, log_softmax(evidence.similarity[:, :4], axis=1), rtol=1e-9)


def test_the_documented_prior():
    support = SupportGate()
    assert (support.boost, support.fitted) == (4.0, False)
    assert support.named == SupportWeights(ratio=0.3, bias=-1.5, base=-0.3, seen_ratio=0.3)
    assert support.image_only == SupportWeights(ratio=0.6, bias=2.2, ratio_shots=0.7, bias_shots=-5.0)


def test_names_alone_where_nothing_speaks_for_any_class(draw_support):
    evidence = draw_support(listed=(), added=1, bare=0)
    parts = ("head", "gda", "similarity", "centered", "predicted", "alignment", "ood_score", "baseline", "located")
    flat = replace(evidence, **{name: np.zeros_like(getattr(evidence, name)) for name in parts})
    flat = replace(flat, head=np.full((20, 4), -np.log(4)))
    own = Gate().by_name(flat, flat.support, Gate().fuse(replace(flat, support=None)).log_probabilities)
    # Three names and the added one, each as likely as four seen classes: as likely as all four together.
    np.testing.assert_allclose(np.exp(own), 0.2, rtol=1e-12)


# One class more, or more images, change no ratio between two other classes

PLAIN = {"prompted": (6, 7), "more": {6: 1}, "added": {8: 2}, "image_only": {9: 3}}
CHANGES = {
    "one more added class": (10, {"added": {8: 2, 10: 1}}),
    "before the other": (10, {"added": {10: 4, 8: 2}}),
    "one more image-only class": (11, {"image_only": {9: 3, 11: 20}}),
    "photos of a named class": (7, {"more": {6: 1, 7: 4}}),
    "more photos of a named class": (6, {"more": {6: 8}}),
    "more photos of an added class": (8, {"added": {8: 8}}),
    "more photos of an image-only class": (9, {"image_only": {9: 8}}),
    "no photo of a named class": (6, {"more": {}}),
    "no added class": (8, {"added": {}}),
    "no image-only class": (9, {"image_only": {}}),
    "a name for it": (9, {"added": {8: 2, 9: 3}, "image_only": {}}),
}


@pytest.fixture(scope="module")
def world(make_world):
    return make_world(unseen=6, test=20)


@pytest.fixture(scope="module")
def decide(world):
    fitted = world.fitted()

    def make(space, **policy) -> tuple[np.ndarray, np.ndarray]:
        """The answer, and p(unseen)."""
        decider = Decider(fitted, space.texts, world.scale, Policy(**policy), space.support)
        fused = decider(world.test.embeddings, world.head(world.test.embeddings)).fused
        return fused.log_probabilities, fused.p_unseen

    return make


def ratios(log_p: np.ndarray, order: list[int], classes: list[int]) -> np.ndarray:
    """Of each class to the first, per image."""
    columns = [order.index(c) for c in classes]
    return np.exp(log_p[:, columns] - log_p[:, columns[:1]])


def images_of(space) -> list[int]:
    """The classes that have support images."""
    return [space.order[place] for place in space.support.place]


@pytest.mark.parametrize(("changed", "change"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("balance", [None, "equal", "natural"])
def test_other_classes_keep_their_ratios(world, decide, changed, change, balance):
    """But for merely named ones, which may win with their kin."""
    before, after = world.space(**PLAIN), world.space(**PLAIN | change)
    kept = [c for c in before.order if c in after.order and c != changed]
    assert len(kept) == len(set(before.order) | set(after.order)) - 1
    old, new = (decide(space, balance=balance)[0] for space in (before, after))
    kept = [c for c in kept if c < 6 or all(c in space.order and c in images_of(space) for space in (before, after))]
    np.testing.assert_allclose(
        ratios(new, after.order, kept), ratios(old, before.order, kept), rtol=1e-9, err_msg=f"{kept}"
    )
    if changed in after.order and changed in before.order:
        assert not np.allclose(new[:, after.order.index(changed)], old[:, before.order.index(changed)])


def test_the_first_support_class_changes_no_ratio(world, decide):
    for prompted in ((6, 7), ()):
        kept, wider = [*range(6), *prompted], world.space(prompted, added={8: 4})
        plain, support = decide(world.space(prompted))[0], decide(wider)[0]
        new, old = ratios(support, wider.order, kept), ratios(plain, kept, kept)
        np.testing.assert_allclose(new[:, :6], old[:, :6], rtol=1e-9)
        # Kin of the support class win with it, and never lose.
        assert (new >= old * (1 - 1e-9)).all()


# A class whose images say nothing


def test_classes_whose_images_add_nothing_keep_what_their_names_give_them(draw_support):
    evidence = draw_support(2, listed=(), added=1, bare=0)
    found = np.exp(SILENT.fuse(evidence).log_probabilities)
    # Added: prompted beside the other names, at the prior of 2.5 of the 4 seen classes.
    expected = by_name(evidence, list(range(8)), math.log(2.5 / 4 * 4))
    np.testing.assert_allclose(found[:, 7], expected[:, 7], rtol=1e-10)
    others = by_name(evidence, list(range(7)))
    np.testing.assert_allclose(found[:, :7], others * (1 - expected[:, 7:]), rtol=1e-9)
    # Prompted: nothing changes.
    evidence = draw_support(3, listed=(6, 4), added=0, bare=0)
    found = np.exp(SILENT.fuse(evidence).log_probabilities)
    np.testing.assert_allclose(found, by_name(evidence, list(range(7))), rtol=1e-10)
    # Image-only: as likely as all others.
    found = np.exp(SILENT.fuse(draw_support(4, listed=(), added=0, bare=1)).log_probabilities)
    np.testing.assert_allclose(found[:, 7], 0.5, rtol=1e-10)


# Shifts, sizes and odd input


@pytest.fixture(params=["names alone", "no name", *LAYOUTS])
def draw(draw_support, draw_evidence, request):
    """Draw evidence of every kind of label space."""
    if request.param in LAYOUTS:
        return partial(draw_support, **LAYOUTS[request.param])
    return partial(draw_evidence, unseen=0 if request.param == "no name" else 3)


def test_a_batch_of_one_and_of_none(draw):
    evidence = draw(6)
    whole, none = GATE.fuse(evidence), GATE.fuse(evidence[:0])
    for row in (0, 13):
        single = GATE.fuse(evidence[row : row + 1])
        np.testing.assert_allclose(single.log_probabilities[0], whole.log_probabilities[row], rtol=1e-10)
        assert single.p_unseen[0] == pytest.approx(whole.p_unseen[row], rel=1e-10)
    assert none.log_probabilities.shape == (0, whole.log_probabilities.shape[1])
    assert none.p_unseen.shape == (0,)
    if evidence.support is not None:
        assert none.without_support.shape == (0, evidence.support.prompted)


@pytest.mark.parametrize("size", [1e2, 1e5])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("error")
def test_extreme_numbers_overflow_nowhere(draw, size, seed):
    evidence = draw(seed)
    names = ("similarity", "centered", "predicted", "gda", "ood_score", "baseline", "located")
    large = replace(evidence, **{name: size * getattr(evidence, name) for name in names})
    if evidence.support is not None:
        large = replace(large, support=replace(evidence.support, likelihood=size * evidence.support.likelihood))
    for gate in (GATE, Gate()):
        fused = gate.fuse(large, 3.0, -3.0)
        assert np.isfinite(fused.log_probabilities).all()
        assert fused.without_support is None or np.isfinite(fused.without_support).all()
        np.testing.assert_allclose(np.exp(fused.log_probabilities).sum(axis=1), 1, rtol=1e-9)
        assert ((fused.p_unseen >= 0) & (fused.p_unseen <= 1)).all()
