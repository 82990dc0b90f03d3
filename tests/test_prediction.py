"""What is said of an image, from arrays written by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hybrid.gate.decide import Decided
from hybrid.gate.evidence import Evidence
from hybrid.gate.gate import Fused, Gate
from hybrid.gate.support import SupportEvidence
from hybrid.labels.prompts import PromptClass, PromptSet
from hybrid.labels.space import join
from hybrid.labels.taxonomy import Statement, build_taxonomy
from hybrid.labels.tree import plant
from hybrid.prediction import NONE, Answers, Nodes, to_predictions

SPACE = join(("cat", "dog"), PromptSet.from_names(["emu", "fox"]))
HYBRID = np.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.25, 0.4, 0.05, 0.3]])
HEAD = np.array([[0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0], [0.7, 0.3, 0, 0]])
ZERO_SHOT = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.2, 0.6], [0.1, 0.6, 0.2, 0.1]])
P_UNSEEN = np.array([0.2, 0.7, 0.35])
PATHS = ["a.jpg", "b.jpg", "c.jpg"]


def normalized(rows: np.ndarray) -> np.ndarray:
    return rows / rows.sum(axis=1, keepdims=True)


def decided(p_known=None, sets=None, head=HEAD[:, :2], zero_shot=ZERO_SHOT[:, :2], above=0.5) -> Decided:
    with np.errstate(divide="ignore"):
        fused = Fused(np.log(HYBRID), P_UNSEEN, np.log(head), np.log(normalized(zero_shot)))
    return Decided(
        fused,
        None if p_known is None else np.array(p_known),
        None if sets is None else np.array(sets, bool),
        None if above is None else np.broadcast_to(above, 3),
    )


def predict(made: Decided | None, top_k: int = 2, only_expert: str = "head", **options):
    p_unseen = None if made is None else P_UNSEEN
    answers = Answers(HEAD, ZERO_SHOT, HYBRID, p_unseen, ZERO_SHOT[:, 2:].sum(axis=1), made)
    return to_predictions(PATHS, answers, SPACE, top_k=top_k, only_expert=only_expert, **options)


def test_label_probability_and_top():
    predictions = predict(decided(), top_k=3)
    assert [p.path for p in predictions] == PATHS
    assert [(p.label, p.probability, p.seen) for p in predictions] == [
        ("cat", 0.5, True),
        ("fox", 0.4, False),
        ("dog", 0.4, True),
    ]
    assert predictions[0].top == (("cat", 0.5), ("dog", 0.3), ("emu", 0.15))
    assert predictions[1].top == (("fox", 0.4), ("emu", 0.3), ("dog", 0.2))
    assert [p.p_unseen for p in predictions] == [0.2, 0.7, 0.35]
    assert len(predict(decided(), top_k=9)[0].top) == 4
    assert [p.head for p in predictions] == [("cat", 0.9), ("cat", 0.6), ("cat", 0.7)]
    assert [p.zero_shot for p in predictions] == [("cat", 0.4), ("fox", 0.6), ("dog", 0.6)]


def test_who_decided():
    """On a seen class, the answer being "cat"; an unseen one was named by zero-shot."""
    for head, zero_shot, expert in (
        ([0.9, 0.1], [0.6, 0.4], "both"),
        ([0.9, 0.1], [0.2, 0.8], "head"),
        ([0.3, 0.7], [0.6, 0.4], "zero-shot"),
        ([0.45, 0.55], [0.3, 0.7], "head"),  # neither names it; the head is the nearer
    ):
        predictions = predict(decided(head=np.array([head] * 3), zero_shot=np.array([zero_shot] * 3)))
        assert [p.expert for p in predictions[:2]] == [expert, "zero-shot"]


def test_without_a_gate_the_only_expert_decides():
    for expert in ("head", "zero-shot"):
        predictions = predict(None, only_expert=expert)
        assert {p.expert for p in predictions} == {expert}
        assert {p.p_unseen for p in predictions} == {None}
        assert {p.set for p in predictions} == {p.p_known for p in predictions} == {None}
    # Equal probabilities go to the first name.
    answers = Answers(None, None, np.full((1, 4), 0.25), None, None, None)
    (prediction,) = to_predictions(["a"], answers, SPACE, top_k=4, only_expert="zero-shot")
    assert [label for label, _ in prediction.top] == ["cat", "dog", "emu", "fox"]


# None of these


def test_none_of_these():
    first, second, third = predict(decided(p_known=[0.8, 0.3, 0.5]))
    assert (first.label, first.p_known, first.expert) == ("cat", 0.8, "both")
    assert second.label == NONE == "none of these"
    assert second.probability == pytest.approx(0.7)
    assert second.expert == "rejected"
    assert second.seen is False
    assert second.p_known == 0.3
    # What it would have been otherwise is still said.
    assert second.top[0] == ("fox", 0.4)
    assert second.head == ("cat", 0.6)
    # At the threshold itself it is accepted.
    assert (third.label, third.p_known) == ("dog", 0.5)
    each = predict(decided(p_known=[0.8, 0.3, 0.5], above=[0.9, 0.3, 0.6]))
    assert [one.label for one in each] == [NONE, "fox", NONE], "each image has its own threshold"


def test_nothing_is_rejected_unless_it_is_asked_for():
    for prediction in predict(decided(p_known=[0.0, 0.0, 0.0], above=None)):
        assert prediction.label != NONE
        assert prediction.p_known is None
    assert NONE not in {p.label for p in predict(decided())}


# Sets


def test_sets_list_the_most_probable_first():
    sets = [[1, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]
    expected = [("cat",), ("fox", "emu", "dog"), ("dog", "fox", "cat", "emu")]
    assert [p.set for p in predict(decided(sets=sets), top_k=1)] == expected
    rejected = predict(decided(p_known=[0.1, 0, 0], sets=sets))
    assert {p.label for p in rejected} == {NONE}
    assert [p.set for p in rejected] == expected, "a rejected image keeps its set"


def test_the_warning_is_on_every_prediction():
    assert {p.warning for p in predict(decided(), warning="not fitted")} == {"not fitted"}
    assert {p.warning for p in predict(decided(p_known=[0, 0, 0]), warning="w")} == {"w"}
    assert {p.warning for p in predict(decided())} == {None}


# Shown classes

SHOWN = replace(
    SPACE,
    names=(*SPACE.names, "gnu"),
    prompts=(*SPACE.prompts, PromptClass("gnu")),
    added=1,
    shots=(0, 0, 3, 0, 2),
)
# Without the images of emu and gnu.
BEFORE = [[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.5, 0.3], [0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.2, 0.6], [0.1, 0.6, 0.1, 0.2]]
ANSWER = [
    [0.1, 0.1, 0.6, 0.1, 0.1],
    [0.1, 0.1, 0.6, 0.1, 0.1],
    [0.1, 0.1, 0.1, 0.1, 0.6],
    [0.1, 0.1, 0.1, 0.6, 0.1],
    [0.6, 0.1, 0.1, 0.1, 0.1],
]


def test_few_shot_decides_where_the_answer_would_be_another_one_without_the_images():
    assert SHOWN.prompted == 4
    opinion = np.log(np.array([[0.9, 0.1]] * 5))
    fused = Fused(np.log(ANSWER), np.full(5, 0.5), opinion, opinion, np.log(BEFORE))
    answers = Answers(None, None, np.array(ANSWER), np.full(5, 0.5), None, Decided(fused, None, None))
    predictions = to_predictions(list("abcde"), answers, SHOWN, top_k=1, only_expert="head")
    assert [(p.label, p.expert) for p in predictions] == [
        ("emu", "few-shot"),  # by name it is a cat
        ("emu", "zero-shot"),  # by name, too
        ("gnu", "few-shot"),  # nobody asked for it by name
        ("fox", "zero-shot"),
        ("cat", "both"),
    ]
    assert [p.seen for p in predictions] == [False, False, False, False, True]
    # Below the threshold it is rejected whoever gave it.
    answers = replace(answers, decided=Decided(fused, np.array([1, 1, 0.2, 1, 1]), None, np.full(5, 0.3)))
    third = to_predictions(list("abcde"), answers, SHOWN, top_k=1, only_expert="head")[2]
    assert (third.label, third.expert, third.top) == (NONE, "rejected", (("gnu", 0.6),))


def test_who_decides_is_asked_at_the_operating_point():
    """Expecting more unseen images makes it an emu by its name alone, and the images no longer decide."""
    zeros = np.zeros((1, 4))
    evidence = Evidence(
        head=np.log([[0.8, 0.2]]),
        gda=zeros[:, :2],
        similarity=np.log([[3.0, 1.0, 3.0, 1.0]]),
        centered=zeros,
        predicted=zeros,
        alignment=zeros[:, :2],
        ood_score=np.zeros(1),
        baseline=np.zeros(1),
        located=zeros,
        posterior=zeros[:, :2],
        hubness=zeros,
        support=SupportEvidence(np.array([[4.0]]), np.array([2]), np.array([3]), 4, 4),
    )
    for shift, expert in ((0.0, "few-shot"), (2.0, "zero-shot")):
        fused = Gate().fuse(evidence, shift, 1.0 + shift)
        joint = np.exp(fused.log_probabilities)
        answers = Answers(None, None, joint, fused.p_unseen, None, Decided(fused, None, None))
        space = replace(SPACE, shots=(0, 0, 3, 0))
        (prediction,) = to_predictions(["a"], answers, space, top_k=1, only_expert="head")
        assert (prediction.label, prediction.expert) == ("emu", expert)


# Nodes of a taxonomy

TREE = plant(
    build_taxonomy(
        [
            Statement((("cat", "species"), ("carnivore", "order"), ("mammal", "class")), ("cat",)),
            Statement((("dog", "species"), ("carnivore", "order")), ("dog",)),
            Statement((("emu", "species"), ("bird", "class")), ("emu",)),
            Statement((("fox", "species"), ("carnivore", "order")), ("fox",)),
        ],
        "test",
    ),
    SPACE,
)


def test_the_answer_is_the_deepest_node_that_is_probable_enough():
    """cat .5, dog .3, emu .15, fox .05; cat .1, dog .2, emu .3, fox .4; cat .25, dog .4, emu .05, fox .3."""
    nodes = Nodes(TREE, 0.8)
    first, second, third = predict(decided(), nodes=nodes)
    assert (first.label, first.rank, first.leaf) == ("carnivore", "order", "cat")
    assert first.probability == pytest.approx(0.85)
    assert (second.label, second.rank, second.leaf) == ("any of these", None, "fox")
    assert second.probability == pytest.approx(1)
    assert (third.label, third.leaf) == ("carnivore", "dog")
    # What else is said is said of the likeliest class.
    plain = predict(decided())
    for node, leaf in zip((first, second, third), plain, strict=True):
        assert node.leaf == leaf.label
        assert replace(node, label=leaf.label, probability=leaf.probability, leaf=None, rank=None) == leaf
    sure = predict(decided(), nodes=Nodes(TREE, 0.4))
    assert [(p.label, p.rank, p.leaf) for p in sure] == [
        ("cat", "species", "cat"),
        ("fox", "species", "fox"),
        ("dog", "species", "dog"),
    ]
    assert first.to_dict()["leaf"] == "cat"


def test_none_of_these_goes_before_every_node_and_sets_name_nodes():
    sets = [[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]]
    made = predict(decided(p_known=[0.8, 0.3, 0.5], sets=sets), nodes=Nodes(TREE, 0.8))
    assert [(p.label, p.leaf, p.rank) for p in made] == [
        ("carnivore", "cat", "order"),
        (NONE, "fox", None),
        ("carnivore", "dog", "order"),
    ]
    assert made[1].probability == pytest.approx(0.7)
    assert [p.set for p in made] == [("carnivore",), ("fox", "emu", "dog"), ("any of these",)]
