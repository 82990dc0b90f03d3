"""How right answers are in a taxonomy: at every rank, by how far mistakes go, and how much specificity costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.evaluation.arrays import check_sums, checked_scores
from hybrid.labels.tree import ROOT, ClassTree, answers_at

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]
# Points of a curve: thresholds on the nodes' probability.
THRESHOLDS = np.unique(np.concatenate([np.linspace(0, 1, 41), 1 - np.geomspace(1e-4, 0.02, 10)]).round(6))


@dataclass(frozen=True)
class RankScores:
    """Answers at one rank, on the images whose class has a node there.

    Attributes
    ----------
    rank : str
        Or ``level 2``, two steps below the root, where the taxonomy has no ranks.
    nodes, images : int
    accuracy : float or None
        Share of the images whose likeliest node of the rank is the right one.
    of_class : float or None
        The same, where the node is that of the likeliest class.
    """

    rank: str
    nodes: int
    images: int
    accuracy: float | None
    of_class: float | None


@dataclass(frozen=True)
class NodeAnswers:
    """Answers with nodes at one threshold; a share of no images is None.

    Attributes
    ----------
    confident : float
        Probability that a node needs.
    images : int
    below_root : float or None
        Share of the images that are answered with another node than the root.
    right : float or None
        Share of these whose node is the true class or stands above it.
    exact : float or None
        Share of all images that are answered with the very class.
    depth, specificity : float or None
        Means over all images, the root's depth being 0; see `specificity`.
    """

    confident: float
    images: int
    below_root: float | None
    right: float | None
    exact: float | None
    depth: float | None
    specificity: float | None


@dataclass(frozen=True)
class HierarchyCurve:
    """What every threshold on the nodes' probability gives; m points, thresholds rising.

    Attributes
    ----------
    threshold : tuple of float
    specificity : tuple of float
        Mean over all images.
    accuracy : tuple of float
        Share of all images whose node is right, the root always being so.
    """

    threshold: tuple[float, ...]
    specificity: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class HierarchyScores:
    """The figures of one system; field names are keys of evaluate's JSON.

    Attributes
    ----------
    distance : float
        Height of the lowest node that holds both the likeliest and the true class, averaged over all images: 0 where
        the answer is right.
    severity : float or None
        The same, averaged over the wrong answers.
    ranks : tuple of RankScores
        The widest first.
    curve, flat : HierarchyCurve
        Of answers with nodes; and of answers with the likeliest class, or else with the root.
    """

    distance: float
    severity: float | None
    ranks: tuple[RankScores, ...]
    curve: HierarchyCurve
    flat: HierarchyCurve


@dataclass(frozen=True)
class HierarchyReport:
    """What an evaluation says of a taxonomy.

    Attributes
    ----------
    nodes, depth : int
        Nodes of the tree; steps from its root to its deepest leaf.
    root : str
    systems : mapping of str to HierarchyScores
    asked : mapping of str to NodeAnswers, or None
        The answer at the threshold that was asked for: of ``all`` images, and of those of ``seen`` and of ``unseen``
        classes.
    """

    nodes: int
    depth: int
    root: str
    systems: Mapping[str, HierarchyScores]
    asked: Mapping[str, NodeAnswers] | None


def specificity(tree: ClassTree) -> Floats:
    """Information that each node gives, (m,): 1 for one of the c classes, 0 for the root, logarithmic between.

    Notes
    -----
    The information gain of Deng et al., "Hedging Your Bets: Optimizing Accuracy-Specificity Trade-offs in Large Scale
    Visual Recognition" (2012), over a uniform prior on the classes, divided by its largest value; Valmadre,
    "Hierarchical classification at multiple operating points" (2022), measures specificity so.
    """
    most = np.log(len(tree.node))
    return np.asarray(1 - np.log(tree.sizes) / most if most else np.ones(len(tree.names)), np.float64)


def hierarchical_distance(tree: ClassTree, predicted: Ints, target: Ints) -> Floats:
    """Height of the lowest node that holds both classes, (n,); 0 where they are the same.

    Notes
    -----
    Mean over mistakes: severity; mean over all: hierarchical distance at 1. Bertinetto et al., "Making Better Mistakes:
    Leveraging Class Hierarchies with Deep Networks" (2020).
    """
    height = tree.height[tree.common(tree.node[predicted], tree.node[target])]
    # A class that stands above others is right where it is the true one.
    return np.asarray(np.where(predicted == target, 0, height), np.float64)


def node_answers(
    tree: ClassTree, probabilities: Floats, target: Ints, confident: float, rows: Bools | None = None
) -> NodeAnswers:
    """Score the deepest nodes that are probable enough, for the images of `rows`, (n,), or all.

    Parameters
    ----------
    probabilities : (n, c)
    target : (n,) int
    """
    if rows is not None:
        probabilities, target = probabilities[rows], target[rows]
    nodes, _ = tree.deepest(probabilities, confident)
    below, right = nodes != ROOT, tree.holds(nodes, target)
    return NodeAnswers(
        confident,
        len(nodes),
        _mean(below),
        _mean(right[below]),
        _mean(nodes == tree.node[target]),
        _mean(tree.depth[nodes]),
        _mean(specificity(tree)[nodes]),
    )


def hierarchy_curve(tree: ClassTree, probabilities: Floats, target: Ints) -> HierarchyCurve:
    """Specificity against accuracy at every threshold, after Valmadre (2022)."""
    nodes, found = tree.paths(probabilities)
    return _curve(tree, [answers_at(nodes, found, float(t))[0] for t in THRESHOLDS], target)


def flat_curve(tree: ClassTree, probabilities: Floats, target: Ints) -> HierarchyCurve:
    """The same of answers without a taxonomy: the likeliest class where it is probable enough, else nothing."""
    best, top = tree.node[probabilities.argmax(axis=1)], probabilities.max(axis=1)
    return _curve(tree, [np.where(top >= t, best, ROOT) for t in THRESHOLDS], target)


def _curve(tree: ClassTree, answers: list[Ints], target: Ints) -> HierarchyCurve:
    information = specificity(tree)
    return HierarchyCurve(
        tuple(map(float, THRESHOLDS)),
        tuple(float(information[nodes].mean()) for nodes in answers),
        tuple(float(tree.holds(nodes, target).mean()) for nodes in answers),
    )


def rank_scores(tree: ClassTree, probabilities: Floats, target: Ints) -> tuple[RankScores, ...]:
    """Score the answers at every rank of the taxonomy."""
    sums, predicted = tree.sums(probabilities), probabilities.argmax(axis=1)
    found = []
    for level in tree.levels:
        of_class = tree.at_level(level)
        nodes = np.unique(of_class[of_class >= 0])
        rows = np.flatnonzero(of_class[target] >= 0)
        true = of_class[target[rows]]
        best = nodes[sums[np.ix_(rows, nodes)].argmax(axis=1)] if len(rows) else true
        found.append(
            RankScores(level, len(nodes), len(rows), _mean(best == true), _mean(of_class[predicted[rows]] == true))
        )
    return tuple(found)


def score_hierarchy(tree: ClassTree, probabilities: Floats, target: Ints) -> HierarchyScores:
    """Compute every figure of one system.

    Parameters
    ----------
    tree : ClassTree
        Over c classes.
    probabilities : (n, c)
        Rows sum to 1.
    target : (n,) int

    Raises
    ------
    MetricError
        If they do not fit together.
    """
    checked = checked_scores(probabilities, target)
    check_sums(checked)
    distance = hierarchical_distance(tree, checked.argmax(axis=1), target)
    return HierarchyScores(
        float(distance.mean()),
        _mean(distance[distance > 0]),
        rank_scores(tree, checked, target),
        hierarchy_curve(tree, checked, target),
        flat_curve(tree, checked, target),
    )


def report_hierarchy(
    tree: ClassTree, probabilities: Mapping[str, Floats], target: Ints, seen: int, confident: float | None
) -> HierarchyReport:
    """Score every system, and the answers of the last one at the threshold that was asked for.

    Parameters
    ----------
    probabilities : mapping of system to (n, c)
    target : (n,) int
    seen : int
        The first `seen` classes are seen.
    confident : float, optional
    """
    asked = None
    if confident is not None:
        answer = list(probabilities.values())[-1]
        groups = {"all": None, "seen": target < seen, "unseen": target >= seen}
        asked = {name: node_answers(tree, answer, target, confident, rows) for name, rows in groups.items()}
    return HierarchyReport(
        len(tree.names),
        int(tree.depth.max()),
        tree.names[ROOT],
        {name: score_hierarchy(tree, values, target) for name, values in probabilities.items()},
        asked,
    )


@dataclass(frozen=True)
class Branch:
    """A node for people, and what is below it.

    Attributes
    ----------
    name : str
    rank : str or None
    cls : int or None
        Index of the class that it is.
    classes, images : int
        At or below the node.
    found : float or None
        Share of these images whose likeliest class is at or below the node, too.
    answers : int or None
        Images that are answered with this very node, where that was asked for.
    right : int or None
        Those of them that are at or below the node.
    below : tuple of Branch
    """

    name: str
    rank: str | None
    cls: int | None
    classes: int
    images: int
    found: float | None
    answers: int | None
    right: int | None
    below: tuple[Branch, ...]


def branches(tree: ClassTree, probabilities: Floats, target: Ints, confident: float | None) -> Branch:
    """The tree from its root, with what was found of n images."""
    size = len(tree.names)
    true, best = tree.node[target], tree.node[probabilities.argmax(axis=1)]
    shared = tree.common(true, best)
    images, found = (_up(tree, np.bincount(nodes, minlength=size)) for nodes in (true, shared))
    answers = right = None
    if confident is not None:
        nodes, _ = tree.deepest(probabilities, confident)
        answers = np.bincount(nodes, minlength=size)
        right = np.bincount(nodes[tree.holds(nodes, target)], minlength=size)
    cls = {int(node): index for index, node in enumerate(tree.node)}
    made: dict[int, Branch] = {}
    for node in reversed(range(size)):
        made[node] = Branch(
            tree.names[node],
            tree.ranks[node],
            cls.get(node),
            int(tree.sizes[node]),
            int(images[node]),
            float(found[node] / images[node]) if images[node] else None,
            None if answers is None else int(answers[node]),
            None if right is None else int(right[node]),
            tuple(made[child] for child in tree.children[node]),
        )
    return made[ROOT]


def _up(tree: ClassTree, counts: Ints) -> Ints:
    """Counts of each node with those of all nodes below it."""
    for node in range(len(counts) - 1, 0, -1):
        counts[tree.parent[node]] += counts[node]
    return counts


def describe_hierarchy(report: HierarchyReport) -> list[str]:
    """Say it in a few lines."""

    def share(value: float | None) -> str:
        return "no photos" if value is None else f"{value:.1%}"

    name, main = list(report.systems.items())[-1]
    ranks = ", ".join(f"{rank.rank} {share(rank.accuracy)}" for rank in main.ranks)
    severity = "" if main.severity is None else f", {main.severity:.2f} of those that are wrong"
    lines = [
        f"taxonomy, {name.replace('_', '-')}: right at {ranks}; hierarchical distance {main.distance:.3f}{severity}"
    ]
    for group, answers in (report.asked or {}).items():
        if answers.images:
            of = "all photos" if group == "all" else f"photos of {group} classes"
            lines.append(
                f"at least {answers.confident:g} sure, {of}: {share(answers.below_root)} answered below "
                f"{report.root!r}, {share(answers.right)} of them right; {share(answers.exact)} by their class; mean "
                f"depth {answers.depth:.2f} of {report.depth}, specificity {answers.specificity:.3f}"
            )
    return lines


def _mean(values: Floats | Bools | Ints) -> float | None:
    return float(np.mean(values)) if len(values) else None
