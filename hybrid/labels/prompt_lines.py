"""Classes from the lines of a prompt file: what is clear is read, what is not is refused by its line."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybrid.errors import DataError, listing
from hybrid.images.naming import plural
from hybrid.labels.rank_tables import read_rank_table
from hybrid.labels.taxonomy import Statement
from hybrid.labels.text_files import named_csv_errors

EXPECTED = "one class per line: zebra, or with other names: zebra: striped horse, plains zebra"
KEEP = 'a name that begins so stands in quotes: "1. FC Union"'
QUOTE = 'put a name that holds , : # < or brackets into quotes: "Washington, D.C."'

# A `#` within a word belongs to the name: only after whitespace does it begin a comment.
COMMENT = re.compile(r"(?:^|\s)#.*")
_FINAL_COMMENT = re.compile(r'(?:^|\s)#[^"]*$')  # of a line with quotes, in which a # may stand
# Between a class and what it stands under, outside of quotes.
_UNDER = re.compile(r'\s<(?=\s|$)(?=(?:[^"]*"[^"]*")*[^"]*$)')
_BULLET = re.compile("^[-+*\u2022\u2023\u25e6\u00b7\u2013\u2014]\\s+(?:\\[[ xX]?\\]\\s+)?(?=\\S)")
_NUMBER = re.compile(r"^(?:\(?\d{1,5}[.)]\s+|\d{1,5}\t\s*)(?=\S)")
_QUOTED = re.compile(r"^(?:\"([^\"]*)\"|“([^”]*)”|„([^“”]*)[“”]|«([^»]*)»|`([^`]*)`|'([^']*)')\s*([:,;]?)\s*(.*)$")
_OPEN_QUOTES = '"“„«`'
_CODE = re.compile(r"^[\[\]{}]|[\"'][\]}]$|=\s*[\"'\[{]|^</?\w[^>]*>$|^([-*=_~])\1{2,}$|\w://")
_HEADER = re.compile(r"^(names|classes|labels|categories|class_names)\s*:$", re.IGNORECASE)
NAME_COLUMNS = ("name", "class_name", "classname", "class", "label", "category")
OTHER_COLUMNS = ("synonyms", "synonym", "prompts", "prompt", "aliases", "alias", "other_names")
_PATH_COLUMNS = ("path", "file", "filename", "image", "filepath")


@dataclass(frozen=True)
class Entry:
    """A class as a file lists it: its name, other names, and where that stands, for messages.

    `above` is what the class stands under, the nearest first; empty where the file does not say.
    """

    name: Any
    synonyms: tuple[Any, ...]
    place: str
    above: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """What a prompt file holds.

    Attributes
    ----------
    entries : tuple of Entry
    notes : tuple of str
        How it was read, where that is not what everybody expects.
    statements : tuple of Statement
        Where classes stand, in a table of ranks; elsewhere the entries say it.
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    statements: tuple[Statement, ...] = ()


def statement_of(entry: Entry) -> Statement:
    """What an entry says of where its class stands."""
    return Statement(
        tuple((name, None) for name in (entry.name, *entry.above)), (entry.name, *entry.synonyms), entry.place
    )


def parse_lines(text: str, where: str) -> Parsed:
    """Read the classes of a text.

    Parameters
    ----------
    text : str
        One class per line, a table with a header, or all names in one line.
    where : str
        The file, for messages.

    Raises
    ------
    DataError
        If a line is not clear.
    """
    ranks = read_rank_table(text, where, only_ranks=True)
    if ranks is not None:
        return Parsed(_entries_of(ranks.statements), ranks.notes, ranks.statements)
    numbered = enumerate(re.split(r"\r\n|\r|\n", text), start=1)
    lines = [(number, line.strip()) for number, line in numbered if line.strip()]
    content = [(number, line) for number, line in lines if not line.startswith("#")]
    tags = [line.split()[0] for _, line in lines if re.match(r"#[^\W\d]\w*$", line)]
    notes = [f"{where}: lines that begin with # are comments: {listing(tags, 3)}; {QUOTE}"] if tags else []
    table = _table(content, where)
    if table is not None:
        parsed = _parse_table(table, content, where)
    elif len(content) == 1 and _is_one_line_list(_FINAL_COMMENT.sub("", content[0][1])):
        parsed = _parse_one_line(content[0], where)
    else:
        parsed = _parse_lines(content, where)
    return Parsed(parsed.entries, (*notes, *parsed.notes))


def _entries_of(statements: Sequence[Statement]) -> tuple[Entry, ...]:
    """The classes of a table of ranks: each taxon that has a row, by all names that its rows give it."""
    called: dict[tuple[str, str | None], dict[str, None]] = {}
    places: dict[tuple[str, str | None], str] = {}
    for statement in statements:
        if statement.names:
            called.setdefault(statement.chain[0], {}).update(dict.fromkeys(statement.names))
            places.setdefault(statement.chain[0], statement.place)
    return tuple(Entry(next(iter(names)), tuple(names)[1:], places[key]) for key, names in called.items())


def unclear(where: str, what: str, got: str, fix: str = QUOTE) -> DataError:
    """Make the error for what may be a class, or part of something else."""
    return DataError(f"{where}: {what}", expected=EXPECTED, got=f"{got:.120}", fix=fix)


# Lines


def _parse_lines(lines: Sequence[tuple[int, str]], where: str) -> Parsed:
    entries, notes, marked = [], [], 0
    if lines and _HEADER.match(lines[0][1]) and len(lines) > 1:
        if not all(_BULLET.match(line) for _, line in lines[1:]):
            raise unclear(
                where, f"line {lines[0][0]} looks like YAML, which is not read", lines[0][1], "one class per line"
            )
        lines = lines[1:]
    for number, line in lines:
        bare = _NUMBER.sub("", _BULLET.sub("", line))
        marked += bare != line
        bare, above = split_above(bare, f"line {number}", where)
        entry, line_notes = _parse_line(bare, f"line {number}", where)
        entries += [replace(entry, above=above)] if entry else []
        notes += [f"{where}, line {number}: {note}" for note in line_notes]
    if marked:
        notes.insert(0, f"{where}: bullets and numbers before {marked} of {len(lines)} names are left out; {KEEP}")
    return Parsed(tuple(entries), tuple(notes[:5]))


def _parse_line(line: str, place: str, where: str) -> tuple[Entry | None, list[str]]:
    """Read one line without its bullet, and say what may surprise; None where only a comment is left."""
    quoted = _QUOTED.match(line)
    if quoted is not None:
        name = next(group for group in quoted.groups()[:6] if group is not None)
        mark, rest = quoted[7], COMMENT.sub("", quoted[8]).strip()
        if mark == ":" or not rest:
            return Entry(name.strip(), _split_synonyms(rest), place), []
    if line[0] in _OPEN_QUOTES:
        raise unclear(f"{where}, {place}", "what stands in quotes is not all of the name", line, "leave the quotes out")
    bare = COMMENT.sub("", line).strip()
    if not bare:
        return None, []
    notes = [_comment_note(line, bare)] if re.search(r"\s#\d", line) else []
    bare = bare.rstrip(",;").rstrip()
    name, colon, others = bare.partition(":")
    _check_line(name.strip(), bare, place, where)
    if colon and (name.strip().isdigit() or re.search(r"\d:\d", bare)):
        notes.append(f"{bare!r} is read as the class {name.strip()!r} with the other name {others.strip()!r}; {QUOTE}")
    return Entry(name.strip(), _split_synonyms(others), place), notes


def split_above(line: str, place: str, where: str) -> tuple[str, tuple[str, ...]]:
    """Take what a class stands under out of a line: ``zebra: striped horse < equid < mammal``, nearest first.

    The other names may stand at the end, too.
    """
    if not _UNDER.search(line):
        return line, ()
    head, *above = (part.strip() for part in _UNDER.split(_FINAL_COMMENT.sub("", line).rstrip(",; ")))
    if above and (last := _QUOTED.match(above[-1])) is None:
        above[-1], colon, others = (part.strip() for part in above[-1].partition(":"))
    elif above and last is not None:
        quoted = next(group for group in last.groups()[:6] if group is not None)
        above[-1], colon, others = f'"{quoted}"', last[7], last[8]
    if above and colon:
        if ":" in re.sub(r'"[^"]*"', "", head):
            raise unclear(f"{where}, {place}", "other names in two places of one line", line, "leave one colon out")
        head = f"{head}: {others}"
    names = tuple(re.sub(r"^([\"'])(.*)\1$", r"\2", name).strip() for name in above)
    if not all((head, *names)):
        raise unclear(
            f"{where}, {place}",
            "nothing stands on one side of <",
            line,
            "write: zebra < equid < mammal",
        )
    return head, names


def _check_line(name: str, line: str, place: str, where: str) -> None:
    """Refuse a line that is part of something else than a list of names."""
    if "\t" in line:
        raise unclear(f"{where}, {place}", "a tab within a line, and no header that says what the columns are", line)
    if "," in name or ";" in name:
        raise unclear(
            f"{where}, {place}",
            "several names, or one that holds a comma",
            line,
            f"one class per line, its other names after a colon, or a table with a header (name, synonyms); {QUOTE}",
        )
    if _CODE.search(line):
        raise unclear(f"{where}, {place}", "not a class name", line)


def _comment_note(line: str, bare: str) -> str:
    return f"only {bare!r} is read: a # after a space begins a comment; {QUOTE}" if bare != line else ""


def _split_synonyms(text: str) -> tuple[str, ...]:
    names = (re.sub(r"^([\"'])(.*)\1$", r"\2", part.strip()).strip() for part in re.split("[,;]", text))
    return tuple(name for name in names if name)


def _is_one_line_list(line: str) -> bool:
    return bool(re.search("[,;\t]", line.rstrip(",;"))) and ":" not in re.sub(r'"[^"]*"', "", line)


def _parse_one_line(line: tuple[int, str], where: str) -> Parsed:
    """Names in one line, between commas; in quotes where they hold one."""
    bare = _FINAL_COMMENT.sub("", line[1]).strip()
    delimiter = next(mark for mark in "\t;," if mark in bare)
    if delimiter == ";" and "," in re.sub(r'"[^"]*"', "", bare):
        raise unclear(f"{where}, line {line[0]}", "both commas and semicolons between names", line[1])
    names = [re.sub(r"^'(.*)'$", r"\1", cell.strip()) for cell in _cells(bare, delimiter, where) if cell.strip()]
    placed = [split_above(name, f"name {number}", where) for number, name in enumerate(names, 1)]
    entries = tuple(Entry(name, (), f"name {number}", above) for number, (name, above) in enumerate(placed, 1))
    for entry in entries:
        if _CODE.search(entry.name):
            raise unclear(f"{where}, {entry.place}", "not a class name", entry.name)
    return Parsed(entries, (f"{where}: {plural(len(entries), 'name')} in one line: {listing(names, 4)}",))


# Tables


def _cells(line: str, delimiter: str, where: str) -> list[str]:
    with named_csv_errors(where):
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def column_name(cell: str) -> str:
    """Give the name of a column or key as it is compared."""
    return re.sub(r"[\s-]+", "_", cell.strip().casefold())


def _table(lines: Sequence[tuple[int, str]], where: str) -> tuple[str, list[str]] | None:
    """Delimiter and columns, where the first line is the header of a table; None where it is not."""
    if len(lines) < 2:
        return None
    for delimiter in ",;\t":
        columns = [column_name(cell) for cell in _cells(lines[0][1], delimiter, where)]
        if len(columns) > 1 and set(columns) & set(NAME_COLUMNS):
            return delimiter, columns
    single = column_name(lines[0][1].strip("\"'"))
    return (",", [single]) if single in NAME_COLUMNS[:5] else None


def _parse_table(table: tuple[str, list[str]], lines: Sequence[tuple[int, str]], where: str) -> Parsed:
    delimiter, columns = table
    rows = []
    for number, line in lines[1:]:
        cells = [cell.strip() for cell in _cells(line, delimiter, where)]
        if len(cells) > len(columns):
            raise unclear(f"{where}, line {number}", f"{len(cells)} cells under {len(columns)} columns", line)
        rows.append((number, dict(zip(columns, cells, strict=False))))
    named = [column for column in NAME_COLUMNS if column in columns]
    # Beside names there may be numbers under "label" or "class".
    words = [column for column in named if not all(row.get(column, "").isdigit() for _, row in rows)]
    chosen = (words or named)[0]
    others = [column for column in columns if column in OTHER_COLUMNS]
    entries = [_entry_of_row(row, chosen, others, f"line {number}") for number, row in rows]
    if set(columns) & set(_PATH_COLUMNS):  # a manifest lists a class once for each of its images
        entries = list({entry.name: entry for entry in reversed(entries)}.values())[::-1]
    unused = [column for column in columns if column not in (chosen, *others) and column]
    left_out = f", not used: {listing(unused, 4)}" if unused else ""
    other = f", other names in {listing(others)}" if others else ""
    classes = plural(len(entries), "name")
    return Parsed(tuple(entries), (f"{where}: a table, names in its column {chosen}{other}{left_out}; {classes}",))


def _entry_of_row(row: Mapping[str, str], chosen: str, others: Sequence[str], place: str) -> Entry:
    names = (name.strip() for column in others for name in re.split("[,;|]", row.get(column, "")))
    return Entry(row.get(chosen, ""), tuple(name for name in names if name), place)
