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
    device: options.Device = "auto",
) -> None:
    """Fit the gate of the run's head anew. After new photos joined the index, or with other templates."""
    from hybrid.cli import show
    from hybrid.device import resolve
    from hybrid.encoders import load_encoder
    from hybrid.run.files import HeadFiles, Layout, read_run
    from hybrid.run.train import refit_gate

    layout = Layout(run)
    encoder = load_encoder(read_run(layout).encoder, device)
    show.note(*encoder.notes)
    refit_gate(layout, encoder, resolve(device), gate_folds=gate_folds, templates=templates, say=show.note)
    show.result(f"gate in {layout.head / HeadFiles.GATE}")
