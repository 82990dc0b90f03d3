"""Bundled recipes: one TOML file each, over the keys of `HeadSettings`, and no code."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.config import HeadSettings, load_settings
from hybrid.encoders.base import expand_user
from hybrid.errors import ConfigError
from hybrid.heads.registry import check_kind

FOLDER = Path(__file__).parent
ENDING = ".toml"


def recipe_names() -> tuple[str, ...]:
    """Names of the bundled recipes, in alphabetical order."""
    return tuple(sorted(file.stem for file in FOLDER.glob(f"*{ENDING}")))


def find_recipe(name_or_file: str | Path) -> Path:
    """Find the file of a recipe.

    Parameters
    ----------
    name_or_file : str or Path
        A bundled name (``"resnet18"``), which goes before a file of the same name (write ``./resnet18`` for that), or
        a TOML file of your own.

    Raises
    ------
    ConfigError
        If it is neither; names the recipes, and what is near in spelling.
    """
    names = recipe_names()
    if str(name_or_file) in names:
        return FOLDER / f"{name_or_file}{ENDING}"
    file = expand_user(str(name_or_file))
    if file.is_file():
        return file
    # A Path drops the `./` that says "this is a file".
    is_path = file.suffix == ENDING or "/" in str(name_or_file) or len(file.parts) > 1
    near = difflib.get_close_matches(file.stem if is_path else str(name_or_file), names, n=3, cutoff=0.5)
    raise ConfigError(
        f"there is no recipe {'file ' if is_path else ''}{name_or_file}",
        expected=f"a TOML file, or one of {', '.join(names)}",
        got=f"near it: {', '.join(near)}" if near else None,
        fix="hybrid recipes (lists them)",
    )


def load_recipe(
    name_or_file: str | Path, assignments: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> HeadSettings:
    """Read a recipe over the defaults, then ``KEY=VALUE`` assignments, then flags that are not None.

    Raises
    ------
    ConfigError
        If there is no such recipe, its file cannot be read, or a setting is wrong.
    """
    settings = load_settings(find_recipe(name_or_file), assignments, flags)
    check_kind(settings.kind)
    return settings


def recipe_description(settings: HeadSettings) -> str:
    """Describe a head's recipe; empty where its words are of another kind of head.

    Version 0.1.0 kept a recipe's words with ``--head linear`` too, and numbered the recipes by their reports.
    """
    words = re.sub(r" \(report \d\)$", "", settings.description)
    bundled = map(load_recipe, recipe_names())
    return "" if any(recipe.description == words and recipe.kind != settings.kind for recipe in bundled) else words


def recipe_label(name_or_file: str | Path) -> str:
    """Return the name of a bundled recipe, or the stem of a file: ``my/big.toml`` is ``big``."""
    return find_recipe(name_or_file).stem


def as_toml(settings: HeadSettings) -> str:
    """Write every setting as a recipe file that reads back as the same settings.

    TOML has no null: a setting that is None stands in a comment.
    """
    lines = (
        f"# {key} = none" if value is None else f"{key} = {_toml(value)}" for key, value in settings.flat().items()
    )
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Write a value as TOML does, which for all but tables is as JSON does."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
