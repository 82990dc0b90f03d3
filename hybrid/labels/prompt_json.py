"""Classes from a prompt file in JSON, as a program or a dataset writes it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hybrid.errors import DataError, listing
from hybrid.images.naming import plural
from hybrid.labels.prompt_lines import NAME_COLUMNS, OTHER_COLUMNS, Entry, Parsed, column_name, unclear

# What a class stands under.
ABOVE_KEYS = ("under", "parents", "parent")
# Under which the list of names stands beside other things.
_LIST_KEYS = ("names", "classes", "labels", "categories", "class_names", "prompts")


def parse_json(text: str, where: str) -> Parsed:
    """Read the classes of a JSON text: a list of names, names with their other names, or numbers with names.

    Raises
    ------
    DataError
        If it is not JSON, or what it holds may be no class.
    """
    value = _load(text, where)
    if isinstance(value, dict):
        wrapped = [v for key, v in value.items() if str(key).casefold() in _LIST_KEYS and isinstance(v, list | dict)]
        alone = len(value) == 1 or not all(isinstance(other, str | list | None) for other in value.values())
        value = wrapped[0] if len(wrapped) == 1 and alone else value
    entries = _of_dict(value, where) if isinstance(value, dict) else _of_list(value, where)
    return Parsed(tuple(entries), (f"{where}: {plural(len(entries), 'name')} in JSON",))


def _load(text: str, where: str) -> Any:
    """Read JSON, JSON lines, or a list as Python prints it."""
    try:
        return json.loads(text, object_pairs_hook=_no_repeated_key)
    except RecursionError as error:
        raise DataError(
            f"{where}: JSON nested too deep",
            expected='a list of names: ["llama", "zebra"]',
            fix="write such a list, or one name per line",
        ) from error
    except ValueError as error:
        reason = str(error)
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        if len(lines) > 1 and all(line.lstrip()[0] in "{[" for line in lines):
            return [json.loads(line, object_pairs_hook=_no_repeated_key) for line in lines]
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        pass
    raise DataError(
        f"{where} begins like JSON and is not",
        expected='["llama", "zebra"], or one class per line',
        got=reason,
        fix='correct it; a name that begins with a bracket stands in quotes: "[REC]"',
    )


def _no_repeated_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if repeated:
        raise DataError("a class is listed twice in the JSON", got=listing(repeated), fix="remove one of them")
    return dict(pairs)


def _of_list(value: Any, where: str) -> list[Entry]:
    items = list(value) if isinstance(value, list | tuple | set) else [value]
    return [_of_item(item, f"entry {number}", where) for number, item in enumerate(items, 1)]


def _of_item(item: Any, place: str, where: str) -> Entry:
    if isinstance(item, str) or (isinstance(item, int) and not isinstance(item, bool)):
        return Entry(item, (), place)
    if isinstance(item, dict):
        row = {column_name(str(key)): value for key, value in item.items()}
        names = [row[column] for column in NAME_COLUMNS if column in row]
        chosen = next((name for name in names if isinstance(name, str)), names[0] if names else None)
        if chosen is not None:
            others = [_synonyms(row[column], place, where) for column in OTHER_COLUMNS if column in row]
            above = _above([row.get(key) for key in ABOVE_KEYS])
            return Entry(chosen, tuple(name for names in others for name in names), place, above)
    raise unclear(f"{where}, {place}", "not a class name", repr(item), 'a list of names: ["llama", "zebra"]')


def _above(values: list[Any]) -> tuple[str, ...]:
    """What a class stands under: one name, a list of them, the nearest first, or ``equid < mammal``.

    Under these keys other programs keep numbers and more, which say nothing here.
    """
    for value in values:
        names = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
        if names and all(isinstance(name, str) for name in names):
            return tuple(part for name in names for part in map(str.strip, re.split(r"\s<\s", name)) if part)
    return ()


def _of_dict(value: Mapping[Any, Any], where: str) -> list[Entry]:
    """Names with their other names; or numbers with their names, either way round."""
    if set(map(column_name, map(str, value))) & set(NAME_COLUMNS) and any(isinstance(v, str) for v in value.values()):
        return [_of_item(dict(value), "entry 1", where)]
    numbers = [str(key) for key in value]
    if value and all(key.isdigit() for key in numbers) and all(isinstance(name, str) for name in value.values()):
        return [Entry(name, (), f"entry {key}") for key, name in value.items()]
    if value and all(key.isdigit() for key in numbers):
        raise unclear(where, "numbers with several names each", repr(dict(value)), 'one name each: {"0": "llama"}')
    if value and all(isinstance(number, int) and not isinstance(number, bool) for number in value.values()):
        return [Entry(name, (), f"entry {number}") for name, number in value.items()]
    return [
        Entry(name, _synonyms(others, f"entry {name!r}", where), f"entry {name!r}") for name, others in value.items()
    ]


def _synonyms(value: Any, place: str, where: str) -> tuple[str, ...]:
    """Other names: one, a list of them, or none."""
    if value is None or value == "":
        return ()
    names: Iterable[Any] = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else [None]
    found = tuple(names)
    if not all(isinstance(name, str) for name in found):
        raise unclear(
            f"{where}, {place}", "other names are a text or a list of texts", repr(value), '"zebra": ["striped horse"]'
        )
    return found
