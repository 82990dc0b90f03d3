"""Classes in a tree: where they stand, what adds up, and the deepest node; by hand and against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.errors import DataError
from hybrid.labels.prompts import PromptClass, PromptSet
from hybrid.labels.space import LabelSpace, join
from hybrid.labels.taxonomy import ANY, Statement, Taxonomy, build_taxonomy
from hybrid.labels.tree import ClassTree, plant


def taxonomy(*lines: str) -> Taxonomy:
    return build_taxonomy(
        [Statement(tuple((name, None) for name in line.split(" < ")), (line.split(" < ")[0],), line) for line in lines],
        "test",
    )


def space(*names: str, seen: int = 2) -> LabelSpace:
    return join(names[:seen], PromptSet.from_names(names[seen:]) if names[seen:] else None)


ANIMALS = taxonomy(
    "zebra < equid < mammal < animal", "horse < equid", "cat < mammal", "emu < bird < animal", "unused < fish"
)
FOUR = plant(ANIMALS, space("cat", "zebra", "emu", "horse"))
P = np.array([[0.1, 0.5, 0.05, 0.35], [0.3, 0.3, 0.3, 0.1], [0.05, 0.05, 0.9, 0.0]])


def at(tree: ClassTree, name: str) -> int:
    return tree.names.index(name)


def test_classes_find_their_places_and_empty_branches_are_left_out():
    assert set(FOUR.names) == {"animal", "mammal", "bird", "equid", "cat", "zebra", "emu", "horse"}
    assert FOUR.names[0] == "animal"
    assert [FOUR.names[node] for node in FOUR.node] == ["cat", "zebra", "emu", "horse"]
    parents = {FOUR.names[i]: FOUR.names[p] for i, p in enumerate(FOUR.parent) if p >= 0}
    assert parents == {
        "mammal": "animal",
        "bird": "animal",
        "equid": "mammal",
        "cat": "mammal",
        "zebra": "equid",
        "horse": "equid",
        "emu": "bird",
    }
    by_name = dict(zip(FOUR.names, zip(FOUR.depth, FOUR.height, FOUR.sizes, strict=True), strict=True))
    assert by_name["animal"] == (0, 3, 4)
    assert by_name["mammal"] == (1, 2, 3)
    assert by_name["bird"] == (1, 1, 1)
    assert by_name["horse"] == (3, 0, 1)
    assert FOUR.notes == ()
    assert FOUR.levels == ("level 1", "level 2", "level 3")
    assert [FOUR.names[node] for node in FOUR.at_level("level 1")] == ["mammal", "mammal", "bird", "mammal"]
    assert FOUR.at_level("level 3").tolist() == [-1, at(FOUR, "zebra"), -1, at(FOUR, "horse")]


def test_probabilities_add_up_the_tree():
    sums = FOUR.sums(P)
    expected = {"animal": 1.0, "mammal": 0.95, "equid": 0.85, "bird": 0.05, "zebra": 0.5, "cat": 0.1}
    for name, value in expected.items():
        assert sums[0, at(FOUR, name)] == pytest.approx(value)
    np.testing.assert_allclose(sums[:, FOUR.node], P)


def test_the_deepest_node_that_is_probable_enough():
    for confident, names in (
        (0.4, ["zebra", "equid", "emu"]),  # the second: mammal .7, equid .4 against cat .3
        (0.6, ["equid", "mammal", "emu"]),
        (0.88, ["mammal", "animal", "emu"]),
        (0.96, ["animal", "animal", "animal"]),
    ):
        nodes, probability = FOUR.deepest(P, confident)
        assert [FOUR.names[node] for node in nodes] == names
        np.testing.assert_allclose(probability, FOUR.sums(P)[np.arange(3), nodes])
    # Exactly as probable as asked reaches it.
    assert [FOUR.names[n] for n in FOUR.deepest(np.array([[0.0, 0.5, 0.0, 0.5]]), 0.5)[0]] == ["zebra"]


def test_a_class_above_others_counts_at_its_node():
    tree = plant(taxonomy("husky < dog < animal", "pug < dog", "cat < animal"), space("dog", "husky", "cat", "pug"))
    assert tree.notes == ("classes that stand above others, whose photos count for the node that has their name: dog",)
    assert sorted(tree.names) == ["animal", "cat", "dog", "husky", "pug"]
    probabilities = np.array([[0.5, 0.2, 0.1, 0.2]])
    assert tree.sums(probabilities)[0, tree.node[0]] == pytest.approx(0.9)
    # The class itself is likelier than what is below it: the path ends there, also where husky would be enough.
    assert tree.names[tree.deepest(probabilities, 0.15)[0][0]] == "dog"
    assert tree.names[tree.deepest(np.array([[0.2, 0.6, 0.1, 0.1]]), 0.15)[0][0]] == "husky"
    node, dog, husky = tree.node[[0, 0, 1]], np.array([0, 0, 0]), np.array([1, 1, 1])
    assert tree.holds(node, dog).tolist() == [True, True, False]
    assert tree.holds(tree.node[[0, 1, 2]], husky).tolist() == [True, True, False]


def test_what_the_taxonomy_lacks_stands_under_the_root():
    tree = plant(ANIMALS, space("zebra", "horse", "cup"))
    assert tree.names[0] == ANY
    assert tree.parent[tree.node[2]] == 0
    assert tree.notes == (f"classes that are not in the taxonomy stand under its root, {ANY!r}: cup",)
    # Two tops have a root above them; one class has one node.
    assert plant(ANIMALS, space("zebra", "unused")).names[0] == ANY
    alone = plant(taxonomy("zebra"), space("zebra", seen=1))
    assert alone.names == ("zebra",)
    assert alone.deepest(np.ones((2, 1)), 0.9)[0].tolist() == [0, 0]
    with pytest.raises(DataError, match=r"no class is in the taxonomy(.|\n)*cup, pen(.|\n)*10 names"):
        plant(ANIMALS, space("cup", "pen"))
    with pytest.raises(DataError, match=r"did you mean 'zebra' for 'zebrra'"):
        plant(ANIMALS, space("zebrra", "pen"))


def test_classes_are_found_by_any_of_their_names():
    both = build_taxonomy(
        [
            Statement((("Equus quagga", "species"), ("Equus", "genus")), ("plains zebra", "Equus quagga")),
            Statement((("Puma concolor", "species"), ("Puma", "genus")), ("puma", "Puma concolor")),
        ],
        "test",
    )
    trained = join(("Equus_quagga",), PromptSet((PromptClass("cougar", ("puma concolor",)),)))
    tree = plant(both, trained)
    assert tree.names == (ANY, "Equus", "Puma", "Equus_quagga", "cougar")
    assert tree.ranks == (None, "genus", "genus", "species", "species")
    assert tree.levels == ("genus", "species")
    assert tree.class_of("Plains Zebra") == 0
    assert tree.class_of("puma") == 1
    assert tree.class_of("okapi") is None
    # A node that has a class's name without being it is told apart by its rank.
    assert plant(both, space("puma", "plains zebra")).names == (ANY, "Equus", "Puma (genus)", "plains zebra", "puma")
    # By common and by scientific name one taxon: none of the two is lost.
    twice = plant(both, space("plains zebra", "Equus quagga", "puma"))
    assert twice.notes[0].startswith("WARNING: classes that are one taxon")
    assert (
        twice.names[twice.parent[twice.node[0]]] == twice.names[twice.parent[twice.node[1]]] == "Equus quagga (species)"
    )


def test_a_class_in_two_places_is_refused():
    twins = build_taxonomy(
        [Statement(((f"A {i}", "species"), (f"G{i}", "genus")), ("warbler", f"A {i}")) for i in range(2)], "test"
    )
    with pytest.raises(DataError, match=r"'warbler' stands in two places(.|\n)*A 0 < G0; A 1 < G1"):
        plant(twins, space("warbler", "emu"))
    clear = join(("warbler",), PromptSet((PromptClass("warbler", ("a 1",)),)))
    assert plant(twins, clear).names == ("G1", "warbler")


def test_sets_name_nodes_that_hold_all_of_their_classes():
    def cover(*classes: str) -> list[str]:
        return [FOUR.names[n] for n in FOUR.cover([("cat", "zebra", "emu", "horse").index(c) for c in classes])]

    assert cover("zebra") == ["zebra"]
    assert cover("horse", "zebra") == ["equid"]
    assert cover("zebra", "cat") == ["zebra", "cat"]
    assert cover("emu") == ["emu"]  # not bird, of which it is all
    assert cover("zebra", "emu", "cat", "horse") == ["animal"]
    assert cover("cat", "emu", "horse", "zebra") == ["animal"]
    assert cover("emu", "horse", "zebra") == ["emu", "equid"]


def random_tree(rng: np.random.Generator) -> ClassTree:
    """Up to forty taxa, any of which may be classes."""
    count = int(rng.integers(2, 40))
    lines = [f"n{i} < n{rng.integers(0, i)}" if i and rng.random() > 0.1 else f"n{i}" for i in range(count)]
    names = [f"n{i}" for i in rng.permutation(count)[: rng.integers(1, count)]]
    return plant(taxonomy(*lines), space(*names, seen=1))


def test_trees_at_random_against_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(60):
        tree = random_tree(rng)
        classes, nodes = len(tree.node), range(len(tree.names))
        lines = {n: [] for n in nodes}
        for n in nodes:
            step = n
            while step >= 0:
                lines[n].append(step)
                step = int(tree.parent[step])
        probabilities = rng.dirichlet(np.full(classes, 0.3), 5)
        below = {n: [c for c in range(classes) if n in lines[tree.node[c]]] for n in nodes}
        assert [len(below[n]) for n in nodes] == tree.sizes.tolist()
        sums = np.array([[p[below[n]].sum() for n in nodes] for p in probabilities])
        np.testing.assert_allclose(tree.sums(probabilities), sums, atol=1e-12)
        for confident in (0.51, 0.7, 0.95):
            found, _ = tree.deepest(probabilities, confident)
            for row, node in enumerate(found.tolist()):
                reaching = [n for n in nodes if sums[row, n] >= confident - 1e-12]
                assert len(lines[node]) == max(len(lines[n]) for n in reaching), "above one half they are a chain"
                assert node in reaching
        some = rng.integers(0, len(tree.names), (2, 9))
        for first, second, lowest in zip(*some.tolist(), tree.common(*some).tolist(), strict=True):
            assert lowest == next(n for n in lines[first] if n in lines[second])
        picked = np.flatnonzero(rng.random(classes) < 0.6).tolist()
        covered = tree.cover(picked)
        own = [
            set(below[n]) if set(below[n]) <= set(picked) else {int(np.flatnonzero(tree.node == n)[0])} for n in covered
        ]
        assert set().union(*own) == set(picked)
