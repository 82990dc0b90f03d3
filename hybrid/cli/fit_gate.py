"""`hybrid fit-gate`."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid.cli import options
from hybrid.cli.train_head import GateFolds


def fit_gate(
    run: options.Run = options.DEFAULT_RUN,
    gate_folds: GateFolds = None,
    templates: Annotated[
        str | None, typer.Option(help="Prompt templates: simple, imagenet or a file.  [default: those of the gate]")
    ] = None,
    wait: options.Wait = True,
    device: options.Device = "auto",
) -> None:
    """Fit the gate of the run's head anew. After new photos joined the index, or with other templates."""
    from hybrid.cli import show
    from hybrid.run.files import HeadFiles

    opened = options.EncoderOptions().open(run, device, wait=wait)
    with show.training_progress() as on_step:
        opened.fit_gate(gate_folds=gate_folds, templates=templates, on_step=on_step)
    show.result(f"gate in {opened.layout.head / HeadFiles.GATE}")
