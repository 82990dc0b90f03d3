"""`hybrid build-index`."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid.cli import options


@options.with_groups
def build_index(
    sources: options.Sources,
    *,
    run: options.Run = options.DEFAULT_RUN,
    encoder: options.EncoderOptions,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Whether folders and tables give class labels.")
    ] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget photos of sources that are not named in this call.")
    ] = False,
    batch: options.BatchOptions,
    device: options.Device = "auto",
) -> None:
    """Embed photos and cache the vectors. Only what is new or changed is computed."""
    from hybrid.cli import show
    from hybrid.images.sources import scan

    opened = encoder.open(run, device)
    found = scan(sources, labeled=labels)
    opened.encoder.check(found.records)  # loaded before the progress begins
    with show.image_progress("embedding", len(found.records)) as progress:
        summary = opened.index(
            found, replace=replace, batch_size=batch.batch_size, workers=batch.workers, progress=progress
        )
    if summary.kept:
        show.note(f"{summary.kept} photos that add-class gave a class stay with it (hybrid remove-class forgets them)")
    show.result(
        f"{summary.images} photos: {summary.encoded} encoded, {summary.reused} copies of known content, "
        f"{summary.unchanged} unchanged; {summary.new} new, {summary.changed} changed, {summary.removed} removed; "
        f"{summary.vectors} vectors in {run}"
    )
    show.exit_if_unreadable(summary.unreadable)
