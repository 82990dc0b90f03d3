"""`hybrid export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.config import Regions


@options.with_groups
def export(
    out: Annotated[Path, typer.Argument(help="The bundle to write, such as animals.hybrid.", show_default=False)],
    *,
    run: options.RunOptions,
    text: Annotated[
        bool,
        typer.Option("--text/--no-text", help="Whether new classes can be named in the bundle: by a text tower."),
    ] = True,
    answer: options.AnswerOptions,
    transductive: options.Transductive = False,
) -> None:
    """Write a run to one file that answers without torch.

    python -m hybrid.lite OUT.hybrid photo.jpg
    """
    from hybrid.cli import show
    from hybrid.cli.load import read_by
    from hybrid.cli.outputs import BUNDLE, Outputs
    from hybrid.run.run import Run

    policy = replace(answer.policy(), transductive=transductive)
    Outputs(read_by(run, options.EncoderOptions()), run.run).file("OUT", out, BUNDLE)
    summary = Run(run.run, device="cpu", say=show.note, text_bar=show.text_progress).export(
        out,
        run.prompts,
        templates=run.templates,
        policy=policy,
        regions=cast("Regions | None", answer.regions and answer.regions.value),
        strict_names=run.strict_names,
        taxonomy=answer.taxonomy,
        text=text,
    )
    show.note(*summary.notes)
    show.result(f"{out}: {summary.size / 1e6:,.0f} MB")
