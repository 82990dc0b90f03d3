"""`hybrid check`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from hybrid.cli import options


class CheckFormat(StrEnum):
    """How the result is written."""

    TABLE = "table"
    JSON = "json"


def check(
    run: options.Run = options.DEFAULT_RUN,
    format_: Annotated[CheckFormat, typer.Option("--format", help="table or json.")] = CheckFormat.TABLE,
) -> None:
    """Verify every part of a run and say what to do. Nothing is changed; exit code 1 where something is damaged."""
    from hybrid.cli import show
    from hybrid.run.check import DAMAGED, check_run
    from hybrid.run.files import Layout
    from hybrid.terminal import Column, FittedTable

    parts = check_run(Layout(run))
    damaged = [part for part in parts if part.state == DAMAGED]
    if format_ is CheckFormat.JSON:
        typer.echo(json.dumps({"run": str(run), "right": not damaged, "parts": [p.to_dict() for p in parts]}, indent=2))
    else:
        table = FittedTable([Column("part"), Column("state"), Column("found"), Column("what to do")], below=True)
        for part in parts:
            style = {"damaged": "red", "note": "yellow"}.get(part.state, "")
            table.add_row(part.name, part.state, part.found, part.fix or "-", style=style)
        show.stdout().print(table)
        of = f"of {len(parts)} parts"
        show.note(f"{len(damaged)} {of} damaged" if damaged else f"none {of} is damaged")
    if damaged:
        raise typer.Exit(1)
