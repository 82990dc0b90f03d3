"""`Taxonomy`: which class stands under what, such as zebra < equid < mammal < animal; read, joined and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from hybrid.errors import DataError, listing
from hybrid.labels.names import check_name, class_key

ANY = "any of these"
"""The node above all classes, where none of the taxonomy's stands above all of them."""
_FEW = 4


@dataclass(frozen=True)
class Taxon:
    """One node.

    Attributes
    ----------
    name : str
    rank : str or None
        Such as ``family``; None where nobody said.
    parent : int or None
        Index of the taxon that it stands under; None at the top.
    names : tuple of str
        What it is called as a class, the name that comes first before the others: common and scientific ones. Empty
        for one that only stands above others.
    """

    name: str
    rank: str | None = None
    parent: int | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statement:
    """What one line of a file says.

    Attributes
    ----------
    chain : tuple of (name, rank or None)
        A taxon, and what it stands under, the nearest first.
    names : tuple of str
        See `Taxon`.
    place : str
        Where it stands in the file, for messages.
    """

    chain: tuple[tuple[str, str | None], ...]
    names: tuple[str, ...] = ()
    place: str = ""


@dataclass(frozen=True)
class Taxonomy:
    """Taxa, each under at most one other: the parents stand before what is under them.

    Attributes
    ----------
    taxa : tuple of Taxon
    notes : tuple of str
        How a file was read, where that may surprise.
    """

    taxa: tuple[Taxon, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        return f"Taxonomy({len(self.taxa)} taxa)"

    def find(self, names: Sequence[str]) -> tuple[int, ...]:
        """Give the taxa that a class of these names may be; none, one, or several where the names do not decide.

        What a taxon's own line calls it goes before other names and before the names of ranks: ``puma`` is the species
        of that common name before it is the genus Puma.
        """
        keys = [class_key(name) for name in names]
        for table in self._tables:
            meant = {taxon for key in keys for taxon in table.get(key, ())}
            for key in keys:  # names of more than one taxon are decided by the others
                meant = meant & {taxon for known in self._tables for taxon in known.get(key, ())} or meant
            if meant:
                return tuple(sorted(meant))
        return ()

    def lineage(self, index: int) -> tuple[int, ...]:
        """A taxon and all that it stands under, from the nearest to the top."""
        line = [index]
        while (parent := self.taxa[line[-1]].parent) is not None:
            line.append(parent)
        return tuple(line)

    def chain_of(self, index: int) -> str:
        """A lineage in words."""
        return " < ".join(self.taxa[taxon].name for taxon in self.lineage(index))

    @cached_property
    def _tables(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        own: dict[str, list[int]] = {}
        other: dict[str, list[int]] = {}
        for index, taxon in enumerate(self.taxa):
            for name in taxon.names[:1]:
                own.setdefault(class_key(name), []).append(index)
            for name in (taxon.name, *taxon.names[1:]):
                places = other.setdefault(class_key(name), [])
                if index not in places:
                    places.append(index)
        return own, other


def build_taxonomy(
    statements: Sequence[Statement], where: str, *, base: Taxonomy | None = None, notes: Iterable[str] = ()
) -> Taxonomy:
    """Make a tree of statements, which may say the same thing more or less fully.

    ``horse < mammal`` beside ``horse < equid`` and ``equid < mammal`` is one place; ``horse < bird`` is another one.

    Parameters
    ----------
    where : str
        The file, for messages.
    base : Taxonomy, optional
        Taxa that are there already.

    Raises
    ------
    DataError
        If a taxon stands under itself, or in two places, or a name is none.
    """
    graph = _Graph(where, base)
    repeated = _repeated(statements)
    for statement in statements:
        graph.add(statement)
    more = [f"{where}: lines that repeat an earlier one: {listing(repeated, _FEW)}"] if repeated else []
    return Taxonomy(graph.taxa(), (*(base.notes if base is not None else ()), *notes, *more))


def joined(first: Taxonomy | None, second: Taxonomy | None, where: str) -> Taxonomy | None:
    """Join two taxonomies; DataError where they contradict each other."""
    if first is None or second is None:
        return second if first is None else first
    return build_taxonomy(list(_statements_of(second)), where, base=first, notes=second.notes)


def _statements_of(taxonomy: Taxonomy) -> Iterable[Statement]:
    for index, taxon in enumerate(taxonomy.taxa):
        chain = tuple((taxonomy.taxa[i].name, taxonomy.taxa[i].rank) for i in taxonomy.lineage(index)[:2])
        yield Statement(chain, taxon.names, repr(taxon.name))


def _repeated(statements: Sequence[Statement]) -> list[str]:
    seen: set[object] = set()
    places = []
    for statement in statements:
        key = (statement.chain, statement.names)
        if key in seen:
            places.append(statement.place)
        seen.add(key)
    return places


class _Graph:
    """Statements as edges from a taxon to those that it stands under."""

    def __init__(self, where: str, base: Taxonomy | None) -> None:
        self._where = where
        self._names: list[tuple[str, str | None]] = []
        self._called: list[dict[str, None]] = []
        self._above: list[dict[int, str]] = []  # what a taxon stands under, and the place that says so
        self._index: dict[tuple[str | None, str], int] = {}
        self._by_name: dict[str, list[int]] = {}
        self._base = None
        for statement in _statements_of(base) if base is not None else ():
            self.add(statement)
        # Other names count between two files alone: within one, a name that is also another's synonym is its own.
        self._base = base

    def add(self, statement: Statement) -> None:
        line = [self._taxon(name, rank, statement.place) for name, rank in statement.chain]
        self._called[line[0]].update(dict.fromkeys(statement.names))
        for below, above in pairwise(line):
            self._above[below].setdefault(above, statement.place)

    def _taxon(self, name: str, rank: str | None, place: str) -> int:
        name = check_name(name, f"{self._where}: {place}")
        key = class_key(name)
        if key == class_key(ANY):
            raise DataError(
                f"{self._where}: {place}: {name!r} is the node above all classes, so no other can have that name",
                fix="give the taxon another name",
            )
        index = self._index.get((rank, key))
        if index is None:
            index = self._unranked(name, key, place) if rank is None else self._index.pop((None, key), None)
        if index is None:
            index = len(self._names)
            self._names.append((name, rank))
            self._called.append({})
            self._above.append({})
            self._by_name.setdefault(key, []).append(index)
        if rank is not None:
            self._names[index] = (self._names[index][0], rank)
        self._index[rank, key] = index
        return index

    def _unranked(self, name: str, key: str, place: str) -> int | None:
        """The taxon that a name without a rank means; None for a new one."""
        # The base's taxa were added first, in their order.
        same = list(self._base.find([name])) if self._base is not None else []
        same = same or self._by_name.get(key, [])
        if len(same) > 1:
            taxa = [f"{self._names[index][0]} ({self._names[index][1]})" for index in same]
            raise DataError(
                f"{self._where}: {place}: {name!r} may be {len(same)} taxa",
                got=listing(taxa, _FEW),
                fix="name it in full, or by its scientific name",
            )
        return same[0] if same else None

    def taxa(self) -> tuple[Taxon, ...]:
        order = self._order()
        ancestors: dict[int, frozenset[int]] = {}
        parents: dict[int, int | None] = {}
        for index in order:
            parents[index] = self._parent(index, ancestors)
            ancestors[index] = frozenset(self._above[index]).union(*(ancestors[i] for i in self._above[index]))
        place = {index: number for number, index in enumerate(order)}
        made = []
        for index in order:
            (name, rank), parent = self._names[index], parents[index]
            made.append(Taxon(name, rank, None if parent is None else place[parent], tuple(self._called[index])))
        return tuple(made)

    def _parent(self, index: int, ancestors: dict[int, frozenset[int]]) -> int | None:
        """The nearest of those that a taxon stands under; all others stand above that one."""
        above = self._above[index]
        if not above:
            return None
        nearest = max(above, key=lambda i: len(ancestors[i]))
        for other, place in above.items():
            if other != nearest and other not in ancestors[nearest]:
                name = self._names[index][0]
                raise DataError(
                    f"{self._where}: {name!r} stands in two places",
                    expected="each taxon under one other",
                    got=f"{name} < {self._names[nearest][0]} ({above[nearest]}) and "
                    f"{name} < {self._names[other][0]} ({place})",
                    fix="leave one of the two out, or give two different things two names",
                )
        return nearest

    def _order(self) -> list[int]:
        """Every taxon behind all that it stands under; else as they came."""
        waiting = [len(above) for above in self._above]
        below: list[list[int]] = [[] for _ in self._above]
        for index, above in enumerate(self._above):
            for other in above:
                below[other].append(index)
        order = [index for index, count in enumerate(waiting) if not count]
        for index in order:  # grows while it is read
            for other in below[index]:
                waiting[other] -= 1
                if not waiting[other]:
                    order.append(other)
        if len(order) < len(waiting):
            raise self._circle({index for index, count in enumerate(waiting) if count})
        return order

    def _circle(self, left: set[int]) -> DataError:
        """The error for taxa that stand under themselves; `left` holds them and what is under them."""
        walk = [min(left)]
        while walk[-1] not in walk[:-1]:
            walk.append(next(index for index in self._above[walk[-1]] if index in left))
        circle = walk[walk.index(walk[-1]) :]
        places = dict.fromkeys(self._above[one][other] for one, other in pairwise(circle))
        return DataError(
            f"{self._where}: the taxonomy goes in a circle",
            expected="a tree: nothing stands under itself",
            got=f"{' < '.join(self._names[index][0] for index in circle)} ({listing(list(places), _FEW)})",
            fix="correct one of these lines",
        )
