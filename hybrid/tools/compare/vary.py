"""From recipes and the values to try to the rows of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from hybrid.config import HeadSettings
from hybrid.errors import ConfigError, listing

OPENING, CLOSING = "[{(", "]})"


@dataclass(frozen=True)
class Candidate:
    """One row to be: a recipe's settings under a name that no other row has."""

    name: str
    settings: HeadSettings


def candidates(
    recipes: Sequence[str],
    varied: Sequence[str],
    load: Callable[[str, Sequence[str]], HeadSettings],
    label: Callable[[str], str],
    fixed: Collection[str] = (),
) -> tuple[Candidate, ...]:
    """Make every combination of the recipes and the varied values.

    Parameters
    ----------
    recipes : sequence of str
        Names or TOML files.
    varied : sequence of str
        Each ``KEY=V1,V2``; commas within brackets or quotes belong to a value.
    load : callable
        From a recipe and ``KEY=VALUE`` assignments to its settings.
    label : callable
        From a recipe to its short name.
    fixed : collection of str
        Settings that a flag gives to all recipes; they cannot vary.

    Returns
    -------
    tuple of Candidate
        Recipe by recipe, the last varied setting changing fastest, named ``RECIPE KEY=V KEY=V``.

    Raises
    ------
    ConfigError
        If there is no recipe, one is listed twice, a ``--vary`` is not ``KEY=V1,V2``, names a setting or value twice,
        or one that is fixed; and what `load` raises.
    """
    if not recipes:
        raise ConfigError("there is no recipe to compare", fix="--recipes NAME,NAME (hybrid recipes lists them)")
    repeated = [name for name in dict.fromkeys(recipes) if list(recipes).count(name) > 1]
    if repeated:
        raise ConfigError("recipes that are listed twice", got=listing(repeated), fix="list each once")
    axes = [_axis(text) for text in varied]
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1 or key in fixed:
            other = "another --vary" if keys.count(key) > 1 else "a flag or --set"
            raise ConfigError(f"--vary {key} meets {other} of the same setting", fix="leave one of them out")
    labels = [label(recipe) for recipe in recipes]
    rows = []
    for recipe, short in zip(recipes, labels, strict=True):
        # Two files of one name in two folders are told apart by the whole of what the user wrote.
        name = short if labels.count(short) == 1 else recipe
        for values in product(*(choices for _, choices in axes)):
            assignments = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
            rows.append(Candidate(" ".join([name, *assignments]), load(recipe, assignments)))
    return tuple(rows)


def _axis(text: str) -> tuple[str, list[str]]:
    key, equals, rest = text.partition("=")
    values = [value.strip() for value in _split(rest)]
    if not equals or not key.strip() or not all(values):
        raise ConfigError("--vary takes KEY=VALUE,VALUE", got=text, fix="for example --vary 'dropout=[0,0],[0.5,0.5]'")
    if len(set(values)) < len(values):
        raise ConfigError(f"--vary {key.strip()} lists a value twice", got=rest, fix="list it once")
    return key.strip(), values


def _split(text: str) -> Iterator[str]:
    """Cut at the commas that stand outside brackets and quotes."""
    depth, quote, start = 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "," and depth == 0:
            yield text[start:place]
            start = place + 1
        else:
            depth += (character in OPENING) - (character in CLOSING)
    yield text[start:]
