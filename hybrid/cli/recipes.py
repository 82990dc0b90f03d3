"""`hybrid recipes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hybrid.terminal import FittedTable

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME|FILE.toml", help="Print this recipe's file; without it, list all."),
]
Every = Annotated[
    bool, typer.Option("--settings", help="Print every setting of the recipe, those it leaves at their default too.")
]


def recipes(name: Name = None, settings: Every = False) -> None:
    """List the recipes of train-head, or print one. To keep and edit it: hybrid recipes resnet18 > mine.toml."""
    from hybrid.cli import show
    from hybrid.errors import ConfigError
    from hybrid.heads.recipes import as_toml, find_recipe, load_recipe

    console = show.stdout()
    if name is None:
        if settings:
            raise ConfigError("--settings takes a recipe", fix="hybrid recipes convnext-tiny --settings")
        console.print(_table())
        return
    # Also where the file is printed as it is: an error in a file of one's own is better said.
    chosen = load_recipe(name)
    text = as_toml(chosen) if settings else find_recipe(name).read_text(encoding="utf-8")
    console.out(text.rstrip("\n"), highlight=False)


def _table() -> FittedTable:
    from hybrid.heads.recipes import load_recipe, recipe_names
    from hybrid.terminal import Column, FittedTable

    table = FittedTable([Column("recipe"), Column("description")])
    for name in recipe_names():
        table.add_row(name, load_recipe(name).description)
    return table
