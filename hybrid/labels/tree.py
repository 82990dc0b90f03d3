"""`ClassTree`: the classes of a label space in a taxonomy, and their probabilities added up to its nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import DataError, listing
from hybrid.images.naming import plural
from hybrid.labels.names import class_key
from hybrid.labels.near import did_you_mean
from hybrid.labels.space import LabelSpace
from hybrid.labels.taxonomy import ANY, Taxonomy

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
ROOT = 0
# A sum that is as large as asked may be rounded to a hair less.
_ROUNDING = 1e-12
_FEW = 6


@dataclass(frozen=True, eq=False)
class ClassTree:
    """m nodes above c classes, the root first and every node behind its parent.

    A class is a node of its own, most often a leaf. It may stand above others: then the images of just this class
    count at the node, beside those of the classes below it.

    Attributes
    ----------
    names : tuple of str
        The m names, all different; a node that is a class has the class's label.
    ranks : tuple of (str or None)
    parent : (m,) intp
        -1 for the root.
    node : (c,) intp
        Of each class.
    notes : tuple of str
        What a user should know of how the classes were placed.
    aliases : dict of name key to class index
        Other names that the taxonomy has for the classes.
    """

    names: tuple[str, ...]
    ranks: tuple[str | None, ...]
    parent: Ints
    node: Ints
    notes: tuple[str, ...] = ()
    aliases: dict[str, int] = field(default_factory=dict, repr=False)

    @cached_property
    def depth(self) -> Ints:
        """Steps from the root, (m,)."""
        depth = np.zeros(len(self.names), np.intp)
        for index in range(1, len(depth)):
            depth[index] = depth[self.parent[index]] + 1
        return depth

    @cached_property
    def height(self) -> Ints:
        """Steps to the farthest leaf below, (m,)."""
        height = np.zeros(len(self.names), np.intp)
        for index in range(len(height) - 1, 0, -1):
            height[self.parent[index]] = max(height[self.parent[index]], height[index] + 1)
        return height

    @cached_property
    def sizes(self) -> Ints:
        """Classes at or below each node, (m,)."""
        sizes = np.bincount(self.node, minlength=len(self.names))
        for index in range(len(sizes) - 1, 0, -1):
            sizes[self.parent[index]] += sizes[index]
        return np.asarray(sizes, np.intp)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Of each node."""
        below: list[list[int]] = [[] for _ in self.names]
        for index in range(1, len(self.names)):
            below[self.parent[index]].append(index)
        return tuple(map(tuple, below))

    @cached_property
    def lines(self) -> Ints:
        """Each node's line from the root down to itself, (m, deepest + 1); -1 behind its end."""
        lines = np.full((len(self.names), int(self.depth.max()) + 1), -1, np.intp)
        for index, depth in enumerate(self.depth):
            if index:
                lines[index] = lines[self.parent[index]]
            lines[index, depth] = index
        return lines

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels that the figures of an evaluation are given for: ranks, else steps below the root."""
        ranks = dict.fromkeys(self.ranks[index] for index in np.argsort(self.depth, kind="stable").tolist() if index)
        named = [rank for rank in ranks if rank is not None]
        return tuple(named) or tuple(f"level {depth}" for depth in range(1, int(self.depth.max()) + 1))

    def at_level(self, level: str) -> Ints:
        """The node of each class at a level, (c,): the class's own or one above it; -1 where it has none there."""
        found = np.full(len(self.node), -1, np.intp)
        depth = None if level in self.ranks else int(level.rpartition(" ")[2])
        for index, node in enumerate(self.node.tolist()):
            line = [step for step in self.lines[node].tolist() if step >= 0]
            if depth is not None:
                found[index] = line[depth] if depth < len(line) else -1
            else:
                found[index] = next((step for step in reversed(line) if self.ranks[step] == level), -1)
        return found

    def sums(self, probabilities: Floats) -> Floats:
        """Probability of every node, (n, m), from those of the classes, (n, c): of all classes at or below it."""
        sums = np.zeros((len(self.names), len(probabilities)))
        sums[self.node] = probabilities.T
        for depth in range(int(self.depth.max()), 0, -1):
            nodes = np.flatnonzero(self.depth == depth)
            np.add.at(sums, self.parent[nodes], sums[nodes])
        return sums.T

    def paths(self, probabilities: Floats) -> tuple[Ints, Floats]:
        """Go from the root to the likeliest child, and on from there.

        A path ends at a leaf, or at a class that is likelier by itself than any node below it.

        Parameters
        ----------
        probabilities : (n, c)

        Returns
        -------
        nodes : (n, deepest + 1) intp
            -1 behind the end.
        probabilities : (n, deepest + 1)
            Of the nodes; never rising; -1 behind the end.
        """
        sums = self.sums(probabilities)
        own = np.full((len(self.names), len(probabilities)), -1.0)
        own[self.node] = probabilities.T
        nodes = np.full((len(sums), int(self.depth.max()) + 1), -1, np.intp)
        nodes[:, 0] = ROOT
        for step in range(1, nodes.shape[1]):
            for above in np.unique(nodes[:, step - 1]).tolist():
                if above < 0 or not (below := self.children[above]):
                    continue
                rows = np.flatnonzero(nodes[:, step - 1] == above)
                among = sums[np.ix_(rows, below)]
                goes_on = among.max(axis=1) >= own[above, rows]
                nodes[rows[goes_on], step] = np.asarray(below)[among.argmax(axis=1)[goes_on]]
        found = np.where(nodes >= 0, np.take_along_axis(sums, np.maximum(nodes, 0), axis=1), -1.0)
        return nodes, found

    def deepest(self, probabilities: Floats, confident: float) -> tuple[Ints, Floats]:
        """The deepest node of each path whose probability is at least `confident`, (n,), and that probability.

        Above one half it is the deepest of all nodes that reach it, for these stand above each other. The root always
        reaches it.
        """
        nodes, found = self.paths(probabilities)
        return answers_at(nodes, found, confident)

    def holds(self, node: Ints, index: Ints) -> NDArray[np.bool_]:
        """Whether a class of `index`, (n,), is the node of `node`, (n,), or stands below it."""
        own = self.node[index]
        return np.asarray(self.lines[own, self.depth[node]] == node)

    def common(self, first: Ints, second: Ints) -> Ints:
        """The lowest node that holds both nodes, (n,)."""
        same = self.lines[first] == self.lines[second]
        same &= self.lines[first] >= 0
        # Lines that part never meet again.
        return np.asarray(self.lines[first, same.cumprod(axis=1).sum(axis=1) - 1])

    def cover(self, classes: Sequence[int]) -> list[int]:
        """The fewest nodes that hold these classes and no other; a class by its own node; in the classes' order."""
        counts = np.bincount(self.node[list(classes)], minlength=len(self.names))
        for index in range(len(counts) - 1, 0, -1):
            counts[self.parent[index]] += counts[index]
        full = (counts == self.sizes) & (self.sizes > 1)
        found = []
        for cls in classes:
            own = int(self.node[cls])
            held = [n for n in self.lines[own].tolist() if n >= 0 and full[n]]
            # The widest; of several that hold the same classes the lowest.
            found.append(max((n for n in held if self.sizes[n] == self.sizes[held[0]]), default=own))
        return list(dict.fromkeys(found))

    def class_of(self, label: str) -> int | None:
        """The class that the taxonomy also calls so; None where there is none."""
        return self.aliases.get(class_key(label))


def answers_at(nodes: Ints, found: Floats, confident: float) -> tuple[Ints, Floats]:
    """The last node of each path that reaches a probability; `nodes` and `found` as `ClassTree.paths` gives them."""
    last = np.maximum((found >= confident - _ROUNDING).sum(axis=1) - 1, 0)
    rows = np.arange(len(nodes))
    return nodes[rows, last], found[rows, last]


def plant(taxonomy: Taxonomy, space: LabelSpace) -> ClassTree:
    """Place the classes of a label space in a taxonomy; taxa without a class at or below them are left out.

    A class is found by its label, its prompt or other names of that. One that is not found stands under the root.

    Raises
    ------
    DataError
        If no class is found, or the names of one are those of several taxa.
    """
    places = [_place(taxonomy, space, index) for index in range(len(space.names))]
    lost = [name for name, place in zip(space.names, places, strict=True) if place is None]
    if len(lost) == len(places):
        known = [name for taxon in taxonomy.taxa for name in (taxon.name, *taxon.names)]
        raise DataError(
            "no class is in the taxonomy",
            expected=f"some of {listing(lost, _FEW)}",
            got=f"{plural(len(taxonomy.taxa), 'name')}: {listing(list(dict.fromkeys(known)), _FEW)}",
            fix=did_you_mean(lost, list(dict.fromkeys(known))) or "name the classes there as the run does",
        )
    grower = _Grower(taxonomy, space)
    tree = grower.grow(places)
    notes = [*taxonomy.notes, *grower.notes]
    if lost:
        notes.append(
            f"classes that are not in the taxonomy stand under its root, {tree.names[ROOT]!r}: {listing(lost, _FEW)}"
        )
    return ClassTree(tree.names, tree.ranks, tree.parent, tree.node, tuple(notes), tree.aliases)


def _place(taxonomy: Taxonomy, space: LabelSpace, index: int) -> int | None:
    prompt = space.prompts[index]
    names = (space.names[index], prompt.name, *prompt.synonyms)
    found = taxonomy.find(names)
    if len(found) > 1:
        raise DataError(
            f"the class {space.names[index]!r} stands in two places of the taxonomy",
            expected="one",
            got="; ".join(taxonomy.chain_of(taxon) for taxon in found[:_FEW]),
            fix="give the class its scientific name as another name (--prompts), or the taxon another one",
        )
    return found[0] if found else None


class _Grower:
    """Makes the nodes of a tree."""

    def __init__(self, taxonomy: Taxonomy, space: LabelSpace) -> None:
        self._taxonomy, self._space = taxonomy, space
        self._names: list[str] = []
        self._ranks: list[str | None] = []
        self._parent: list[int] = []
        self.notes: list[str] = []

    def grow(self, places: Sequence[int | None]) -> ClassTree:
        at: dict[int, list[int]] = {}
        for index, place in enumerate(places):
            if place is not None:
                at.setdefault(place, []).append(index)
        kept = sorted({taxon for place in at for taxon in self._taxonomy.lineage(place)})
        above = {self._taxonomy.taxa[taxon].parent for taxon in kept}
        tops = [taxon for taxon in kept if self._taxonomy.taxa[taxon].parent is None]
        if len(tops) > 1 or None in places:
            self._node(ANY, None, -1)
        node_of: dict[int, int] = {}
        classes: dict[int, int] = {}
        for taxon in kept:
            self._taxon(taxon, at.get(taxon, []), node_of, classes)
        self._say(at, above)
        for index, place in enumerate(places):
            if place is None:
                classes[index] = self._node(self._space.names[index], None, ROOT)
        node = np.array([classes[index] for index in range(len(places))], np.intp)
        aliases = dict(self._aliases(at))
        return ClassTree(self._distinct(node), tuple(self._ranks), np.array(self._parent, np.intp), node, (), aliases)

    def _taxon(self, taxon: int, here: Sequence[int], node_of: dict[int, int], classes: dict[int, int]) -> None:
        """A node of a taxon, which is the class that stands there; of two or more each is a node below it."""
        known = self._taxonomy.taxa[taxon]
        parent = ROOT if known.parent is None else node_of[known.parent]
        name = self._space.names[here[0]] if len(here) == 1 else known.name
        node_of[taxon] = node = self._node(name, known.rank, parent if self._names else -1)
        if len(here) == 1:
            classes[here[0]] = node
        else:
            for index in here:
                classes[index] = self._node(self._space.names[index], None, node)

    def _node(self, name: str, rank: str | None, parent: int) -> int:
        self._names.append(name)
        self._ranks.append(rank)
        self._parent.append(parent)
        return len(self._names) - 1

    def _distinct(self, node: Ints) -> tuple[str, ...]:
        """Names of the nodes; where two have one, what is not a class is told apart by its rank."""
        is_class = np.zeros(len(self._names), bool)
        is_class[node] = True
        keys = [class_key(name) for name in self._names]
        counts: dict[str, int] = {}
        for key in keys:
            counts[key] = counts.get(key, 0) + 1
        return tuple(
            f"{name} ({rank or 'group'})" if counts[key] > 1 and not own else name
            for name, rank, key, own in zip(self._names, self._ranks, keys, is_class.tolist(), strict=True)
        )

    def _aliases(self, at: dict[int, list[int]]) -> Iterator[tuple[str, int]]:
        for taxon, here in at.items():
            if len(here) == 1:
                known = self._taxonomy.taxa[taxon]
                for name in (*known.names[:0:-1], known.name, *known.names[:1]):
                    if self._taxonomy.find([name]) == (taxon,):
                        yield class_key(name), here[0]

    def _say(self, at: dict[int, list[int]], above: set[int | None]) -> None:
        both = [self._space.names[here[0]] for taxon, here in at.items() if taxon in above and len(here) == 1]
        if both:
            self.notes.append(
                f"classes that stand above others, whose photos count for the node that has their name: "
                f"{listing(both, _FEW)}"
            )
        one = [" and ".join(self._space.names[i] for i in here) for here in at.values() if len(here) > 1]
        if one:
            self.notes.append(f"WARNING: classes that are one taxon, and stand beside each other: {listing(one, _FEW)}")
