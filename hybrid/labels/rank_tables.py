"""Taxonomies as tables: columns of ranks as GBIF and SpeciesNet have them, or a name and its parent in each row."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid.errors import DataError, listing
from hybrid.images.naming import plural
from hybrid.labels.names import class_key
from hybrid.labels.taxonomy import Statement
from hybrid.labels.text_files import named_csv_errors

# From the widest to the narrowest; a table may have any of them, in any order.
RANKS = (
    *("domain", "kingdom", "subkingdom", "phylum", "subphylum", "superclass", "class", "subclass", "infraclass"),
    *("superorder", "order", "suborder", "infraorder", "superfamily", "family", "subfamily", "tribe", "subtribe"),
    *("genus", "subgenus", "species", "subspecies"),
)
_BINOMIAL = {"species", "subspecies"}
SPECIESNET = ("class", "order", "family", "genus", "species")
_SAME = {
    "superkingdom": "domain",
    "division": "phylum",
    "specificepithet": "species",
    "infraspecificepithet": "subspecies",
}
# Columns that name what a row describes; the first of them that a row fills is what its class is called.
_LABELS = ("name", "label", "category")
_COMMON = ("commonname", "vernacularname", "englishname", "common", "englishcommonname", "preferredcommonname")
_SCIENTIFIC = ("canonicalname", "scientificname", "binomial", "taxon")
_OTHERS = ("synonyms", "synonym", "aliases", "alias", "othernames", "prompts", "prompt")
_NAMES = (*_LABELS, *_COMMON, *_SCIENTIFIC)
PARENT, RANK = ("parent", "parentname", "under"), ("rank", "taxonrank", "level")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
_FEWEST = 2
EXPECTED = (
    "columns of ranks (kingdom ... family, genus, species, common_name), or name,parent, or lines: "
    "zebra < equid < mammal"
)


@dataclass(frozen=True)
class RankTable:
    """What a table says.

    Attributes
    ----------
    statements : tuple of Statement
        One for each row that names something.
    notes : tuple of str
    """

    statements: tuple[Statement, ...]
    notes: tuple[str, ...]


def read_rank_table(text: str, where: str, *, only_ranks: bool = False) -> RankTable | None:
    """Read a text that is a table of ranks; None where it is not.

    Parameters
    ----------
    only_ranks : bool
        Take a table of two ranks at least: in a list of prompts, a column ``class`` alone names the classes.

    Raises
    ------
    DataError
        If it is such a table, and a row is not clear.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return None
    if _is_speciesnet(lines[0]):
        return _speciesnet(text, where)
    for delimiter in ",;\t":
        with named_csv_errors(where):
            header = [cell.strip() for cell in next(csv.reader([lines[0]], delimiter=delimiter), [])]
        columns = [_column(cell) for cell in header]
        ranks = [column for column in columns if column in RANKS]
        if only_ranks and len(ranks) < _FEWEST:
            continue
        edges = bool(set(columns) & set(PARENT) and set(columns) & set(_NAMES)) and not only_ranks
        if len(columns) > 1 and (ranks or edges):
            return _table(text, where, delimiter, header)
    return None


def _column(cell: str) -> str:
    """The name of a column as it is compared: ``vernacularName``, ``Common name`` and ``common_name`` are one each."""
    name = re.sub(r"[\W_]+", "", cell.casefold())
    return _SAME.get(name, name)


def _rows(text: str, where: str, delimiter: str, width: int) -> list[tuple[str, list[str]]]:
    """Cells of each row that says anything, with its place; cells that are missing at the end are empty."""
    reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    rows = []
    with named_csv_errors(where):
        for cells in reader:
            cells = [" ".join(cell.split()) for cell in cells]
            if not any(cells) or cells[0].startswith("#"):
                continue
            place = f"line {reader.line_num}"
            if len(cells) > width:
                raise DataError(
                    f"{where}, {place}: {len(cells)} cells under {width} columns",
                    got=delimiter.join(cells)[:120],
                    fix="put a cell that holds the delimiter into quotes",
                )
            rows.append((place, cells + [""] * (width - len(cells))))
    return rows


# SpeciesNet


def _is_speciesnet(line: str) -> bool:
    cells = line.strip().split(";")
    return len(cells) == len(SPECIESNET) + 2 and bool(_UUID.match(cells[0]))


def _speciesnet(text: str, where: str) -> RankTable:
    """Lines of ``uuid;class;order;family;genus;species;common name``; all that has a class is an animal there."""
    rows = _rows(text, where, ";", len(SPECIESNET) + 2)
    statements = []
    for place, (uuid, *ranked, common) in rows:
        if not _UUID.match(uuid):
            raise DataError(
                f"{where}, {place}: not a line of SpeciesNet's taxonomy",
                expected="uuid;class;order;family;genus;species;common name",
                got=uuid[:80],
                fix="correct or remove the line",
            )
        chain = _chain(dict(zip(SPECIESNET, ranked, strict=True)))
        if chain:
            statements.append(Statement((*chain, ("animal", "kingdom")), _names([common], chain), place))
        elif common:
            statements.append(Statement(((common, "kingdom" if common == "animal" else None),), (common,), place))
    note = f"{where}: SpeciesNet's taxonomy, {plural(len(statements), 'name')}"
    apart, notes = _told_apart(statements, where)
    return RankTable(apart, (note, *notes))


# Homonyms


def _told_apart(statements: Sequence[Statement], where: str) -> tuple[tuple[Statement, ...], list[str]]:
    """Name genera and wider taxa by what they stand under where one name stands under several: Oenanthe (Apiaceae).

    A bird and a plant may have one name for their genus; a species has no second place.
    """
    known: dict[tuple[str, str], list[dict[str, str]]] = {}
    for statement in statements:
        for rank, name, above in _lineages(statement):
            groups = known.setdefault((rank, class_key(name)), [])
            group = next((g for g in groups if _fit(g, above)), None)
            if group is None:
                groups.append(dict(above))
            else:
                group.update(above)
    twice = {key: groups for key, groups in known.items() if len(groups) > 1 and key[0] not in _BINOMIAL}
    if not twice:
        return tuple(statements), []
    made = []
    renamed: dict[str, None] = {}
    for statement in statements:
        chain = list(statement.chain)
        for rank, name, above in _lineages(statement):
            groups = twice.get((rank, class_key(name)), [])
            if groups:
                chain[chain.index((name, rank))] = (_by_its_place(name, above, groups), rank)
                renamed.setdefault(_by_its_place(name, above, groups))
        made.append(Statement(tuple(chain), statement.names, statement.place))
    note = f"WARNING: {where}: names that stand in several places are as many taxa: {listing(list(renamed), 4)}"
    return tuple(made), [note]


def _lineages(statement: Statement) -> list[tuple[str, str, dict[str, str]]]:
    """Rank and name of each taxon of a row that has a rank, and what it stands under, by rank."""
    chain = statement.chain
    return [
        (rank, name, {r: n for n, r in chain[index + 1 :] if r is not None})
        for index, (name, rank) in enumerate(chain)
        if rank is not None
    ]


def _fit(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two lineages say nothing against each other."""
    return all(class_key(one[rank]) == class_key(name) for rank, name in other.items() if rank in one)


def _by_its_place(name: str, above: Mapping[str, str], groups: Sequence[Mapping[str, str]]) -> str:
    """A name with the narrowest taxon above it that tells it apart."""
    own = next(group for group in groups if _fit(group, above))
    tells = [rank for rank in RANKS if rank in own and len({class_key(g.get(rank, "")) for g in groups}) > 1]
    return f"{name} ({own[tells[-1]]})"


# Tables with a header


def _table(text: str, where: str, delimiter: str, header: Sequence[str]) -> RankTable:
    columns = [_column(cell) for cell in header]
    _check_columns(columns, where)
    _, *rows = _rows(text, where, delimiter, len(columns))
    ranks = [rank for rank in RANKS if rank in columns]
    statements, unnamed = [], []
    for place, cells in rows:
        row = dict(zip(columns, cells, strict=True))
        statement = _ranked(row, ranks, place) if ranks else _under(row, place)
        if statement is None:
            unnamed.append(place)
        else:
            statements.append(statement)
    used = (*ranks, *_NAMES, *_OTHERS, *(() if ranks else (*PARENT, *RANK)))
    unused = [cell for cell, column in zip(header, columns, strict=True) if column and column not in used]
    notes = [f"{where}: a taxonomy of {plural(len(statements), 'name')}, {_said(ranks)}{_not_used(unused)}"]
    if unnamed:
        notes.append(f"{where}: rows that name nothing: {listing(unnamed, 4)}")
    apart, more = _told_apart(statements, where) if ranks else (tuple(statements), [])
    return RankTable(apart, (*notes, *more))


def _said(ranks: Sequence[str]) -> str:
    return f"by its columns {listing(list(ranks), 9)}" if ranks else "by its columns name and parent"


def _not_used(unused: Sequence[str]) -> str:
    return f"; columns that are not used: {listing(list(unused), 4)}" if unused else ""


def _check_columns(columns: Sequence[str], where: str) -> None:
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    if twice:
        raise DataError(
            f"{where}: a column stands there twice",
            got=listing(twice),
            fix="remove or rename one of them",
        )


def _ranked(row: Mapping[str, str], ranks: Sequence[str], place: str) -> Statement | None:
    """A row of ranks describes the narrowest that it fills.

    Where the table has no column for species, its name stands below that: what it names is narrower than its ranks.
    """
    chain = _chain({rank: row[rank] for rank in ranks})
    given = [name for name in (_first(row, _LABELS), _first(row, _COMMON)) if name]
    scientific, others = _first(row, _SCIENTIFIC), _others(row)
    lowest = chain[0] if chain else None
    if lowest is None or not _BINOMIAL & set(ranks):
        named = [*given, *([scientific] if scientific else [])]
        if named and (lowest is None or class_key(named[0]) != class_key(lowest[0])):
            return Statement(((named[0], None), *chain), _names([*named, *others], ()), place)
        return Statement(chain, _names([*named, *others], chain), place) if chain else None
    if lowest[1] in _BINOMIAL and scientific and not scientific.casefold().startswith(lowest[0].casefold()):
        others = [scientific, *others]
    return Statement(chain, _names([*given, *chain[0][:1], *others], ()), place)


def _under(row: Mapping[str, str], place: str) -> Statement | None:
    """A row of a name and its parent."""
    name, parent = _first(row, _NAMES), _first(row, PARENT)
    if not name:
        return None
    rank = _first(row, RANK) or None
    names = [value for column in _NAMES if (value := row.get(column, ""))]
    chain = ((name, rank), (parent, None)) if parent else ((name, rank),)
    return Statement(chain, _names([*names, *_others(row)], ()), place)


def _first(row: Mapping[str, str], columns: Sequence[str]) -> str:
    return next((row[column] for column in columns if row.get(column)), "")


def _others(row: Mapping[str, str]) -> list[str]:
    return [name.strip() for column in _OTHERS for name in re.split("[,;|]", row.get(column, "")) if name.strip()]


def _chain(ranked: Mapping[str, str]) -> tuple[tuple[str, str | None], ...]:
    """The ranks that a row fills, the narrowest first; a species and subspecies by their whole names."""
    full = dict(ranked)
    for rank, above in (("species", "genus"), ("subspecies", "species")):
        name, wider = full.get(rank, "").split(), full.get(above, "").split()
        if name and wider and (len(name) == 1 or name[0].casefold() != wider[0].casefold()):
            full[rank] = " ".join([*wider, *name])
    return tuple((full[rank], rank) for rank in reversed(RANKS) if full.get(rank))


def _names(given: Sequence[str], chain: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    """What a class is called, each name once: the names of its row, then that of its narrowest rank."""
    called: dict[str, str] = {}
    for name in (*given, *(name for name, _ in chain[:1])):
        if name:
            called.setdefault(class_key(name), name)
    return tuple(called.values())
