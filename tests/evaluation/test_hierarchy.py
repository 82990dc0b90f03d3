"""Figures in a taxonomy: by hand on a small tree, and against brute force over ancestors."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.errors import MetricError
from hybrid.evaluation.hierarchy import (
    THRESHOLDS,
    branches,
    describe_hierarchy,
    flat_curve,
    hierarchical_distance,
    hierarchy_curve,
    node_answers,
    rank_scores,
    report_hierarchy,
    score_hierarchy,
    specificity,
)
from hybrid.labels.space import join
from hybrid.labels.taxonomy import Statement, build_taxonomy
from hybrid.labels.tree import ClassTree, plant

#         animal
#     mammal      bird
#   equid   cat     emu
# zebra horse
NAMES = ("zebra", "horse", "cat", "emu")
ZEBRA, HORSE, CAT, EMU = range(4)
P = np.array(
    [
        [0.5, 0.4, 0.02, 0.08],  # zebra; equid .9
        [0.3, 0.6, 0.02, 0.08],  # horse; equid .9
        [0.1, 0.2, 0.6, 0.1],  # cat; mammal .9
        [0.05, 0.0, 0.0, 0.95],  # emu
    ]
)
TRUE = np.array([HORSE, HORSE, ZEBRA, CAT])


def animals(*, ranked: bool = True) -> ClassTree:
    def rank(name: str) -> str | None:
        return {"mammal": "class", "bird": "class", "equid": "family"}.get(name) if ranked else None

    chains = ("zebra < equid < mammal < animal", "horse < equid", "cat < mammal", "emu < bird < animal")
    statements = [Statement(tuple((n, rank(n)) for n in c.split(" < ")), (c.split(" < ")[0],), c) for c in chains]
    return plant(build_taxonomy(statements, "test"), join(NAMES, None))


TREE = animals()


def test_how_far_mistakes_go():
    """Zebra for horse meets at equid, cat for zebra at mammal, emu for cat at animal: heights 1, 2 and 3."""
    predicted = P.argmax(axis=1)
    assert hierarchical_distance(TREE, predicted, TRUE).tolist() == [1, 0, 2, 3]
    scores = score_hierarchy(TREE, P, TRUE)
    assert (scores.distance, scores.severity) == (1.5, 2.0)
    perfect = score_hierarchy(TREE, np.eye(4), np.arange(4))
    assert (perfect.distance, perfect.severity) == (0.0, None)
    with pytest.raises(MetricError, match="not probabilities"):
        score_hierarchy(TREE, P * 2, TRUE)


def test_accuracy_by_rank():
    """The third is a mammal by its sum, .9, and by its class; the second and the first are equids."""
    found = {rank.rank: rank for rank in rank_scores(TREE, P, TRUE)}
    assert list(found) == ["class", "family"]
    assert (found["class"].nodes, found["class"].images, found["class"].accuracy) == (2, 4, 0.75)
    # Of the images of zebra and horse alone: there is but one family to choose.
    assert (found["family"].nodes, found["family"].images, found["family"].accuracy) == (1, 3, 1.0)
    assert (found["family"].of_class, found["class"].of_class) == (2 / 3, 0.75)
    # The sum may be right where the likeliest class is not: mammal .6 against emu .4.
    torn = rank_scores(TREE, np.array([[0.2, 0.2, 0.2, 0.4]]), np.array([CAT]))[0]
    assert (torn.accuracy, torn.of_class) == (1.0, 0.0)
    levels = rank_scores(animals(ranked=False), P, TRUE)
    assert [(level.rank, level.images) for level in levels] == [("level 1", 4), ("level 2", 4), ("level 3", 3)]


def test_answers_with_nodes():
    """At .9: equid, equid, mammal, emu; depths 2, 2, 1, 2; of sizes 2, 2, 3 and 1 among four classes."""
    answers = node_answers(TREE, P, TRUE, 0.9)
    assert (answers.images, answers.below_root, answers.right, answers.exact) == (4, 1.0, 0.75, 0.0)
    assert answers.depth == 7 / 4
    information = [1 - np.log(2) / np.log(4)] * 2 + [1 - np.log(3) / np.log(4), 1.0]
    assert answers.specificity == pytest.approx(np.mean(information))
    sure = node_answers(TREE, P, TRUE, 0.93)
    assert (sure.below_root, sure.right) == (0.25, 0.0)  # emu alone, which is a cat
    assert node_answers(TREE, P, TRUE, 0.96).right is None
    none = node_answers(TREE, P, TRUE, 0.9, TRUE == EMU)
    assert (none.images, none.right, none.depth) == (0, None, None)


def test_the_curves_run_from_classes_to_the_root():
    curve, flat = hierarchy_curve(TREE, P, TRUE), flat_curve(TREE, P, TRUE)
    for found in (curve, flat):
        assert found.threshold == tuple(THRESHOLDS)
        assert (found.specificity[0], found.accuracy[0]) == (1.0, 0.25), "the likeliest classes"
        assert (found.specificity[-1], found.accuracy[-1]) == (0.0, 1.0), "nobody is as sure as 1"
        assert all(np.diff(found.accuracy) >= 0)
        assert all(np.diff(found.specificity) <= 0)
    place = curve.threshold.index(0.9)
    assert curve.accuracy[place] == 0.75
    assert curve.specificity[place] == node_answers(TREE, P, TRUE, 0.9).specificity
    assert (flat.accuracy[place], flat.specificity[place]) == (0.75, 0.25)


def test_a_report_in_words_and_by_branches():
    report = report_hierarchy(TREE, {"zero_shot": np.full((4, 4), 0.25), "hybrid": P}, TRUE, 2, 0.9)
    assert (report.nodes, report.depth, report.root) == (8, 3, "animal")
    assert list(report.systems) == ["zero_shot", "hybrid"]
    assert {name: group.images for name, group in report.asked.items()} == {"all": 4, "seen": 3, "unseen": 1}
    first, everything, *_ = describe_hierarchy(report)
    assert first == (
        "taxonomy, hybrid: right at class 75.0%, family 100.0%; hierarchical distance 1.500, "
        "2.00 of those that are wrong"
    )
    assert (
        "100.0% answered below 'animal', 75.0% of them right; 0.0% by their class; mean depth 1.75 of 3" in everything
    )
    assert report_hierarchy(TREE, {"hybrid": P}, TRUE, 2, None).asked is None
    root = branches(TREE, P, TRUE, 0.9)
    assert (root.name, root.images, root.found, root.answers, root.right) == ("animal", 4, 1.0, 0, 0)
    mammal, bird = root.below
    assert (mammal.name, mammal.rank, mammal.images, mammal.found, mammal.answers) == ("mammal", "class", 4, 0.75, 1)
    assert (bird.images, bird.found, bird.below[0].answers, bird.below[0].right) == (0, None, 1, 0)
    equid = next(node for node in mammal.below if node.name == "equid")
    assert (equid.images, equid.found, equid.answers, equid.right) == (3, 2 / 3, 2, 2)
    assert [(node.name, node.cls, node.found) for node in equid.below] == [("zebra", 0, 0.0), ("horse", 1, 0.5)]
    assert branches(TREE, P, TRUE, None).answers is None


def test_against_brute_force_over_ancestors():
    rng = np.random.default_rng(1)
    chains = [[f"c{i}", f"g{i // 2}", f"f{i // 6}", "root"] for i in range(24)]
    statements = [Statement(tuple((name, None) for name in chain), (chain[0],)) for chain in chains]
    tree = plant(build_taxonomy(statements, "test"), join([chain[0] for chain in chains], None))
    target = rng.integers(0, 24, 300)
    probabilities = rng.dirichlet(np.full(24, 0.05), 300) + 0.2 * np.eye(24)[target]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    heights = [
        next(k for k, name in enumerate(chains[p]) if name == chains[t][k])
        for p, t in zip(predicted, target, strict=True)
    ]
    assert hierarchical_distance(tree, predicted, target).tolist() == heights
    for confident in (0.6, 0.9):
        right, below, depth = [], [], []
        for row, true in zip(probabilities, target, strict=True):
            for level in range(4):  # from the class up
                sums: dict[str, float] = {}
                for chain, value in zip(chains, row, strict=True):
                    sums[chain[level]] = sums.get(chain[level], 0.0) + value
                name = max(sums, key=lambda key: sums[key])
                if sums[name] >= confident or level == 3:
                    break
            depth.append(3 - level)
            below.append(level < 3)
            right.append(chains[true][level] == name)
        answers = node_answers(tree, probabilities, target, confident)
        assert answers.depth == pytest.approx(np.mean(depth))
        assert answers.below_root == pytest.approx(np.mean(below))
        assert answers.right == pytest.approx(np.mean(np.array(right)[below]))
    assert specificity(tree)[tree.node].tolist() == [1.0] * 24
