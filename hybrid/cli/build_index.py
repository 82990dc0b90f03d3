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
        bool, typer.Option("--labels/--no-labels", help="Whether folders and files give class labels.")
    ] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget photos of sources that are not named in this call.")
    ] = False,
    batch: options.BatchOptions,
    device: options.Device = "auto",
) -> None:
    """Embed photos and cache the vectors. Only what is new or changed is computed."""
    from hybrid.cli import show
    from hybrid.encoders import load_encoder
    from hybrid.images.decoders import choose_decoder
    from hybrid.images.sources import scan
    from hybrid.index.build import build_index as build
    from hybrid.index.neighbors import open_index
    from hybrid.index.store import EmbeddingStore
    from hybrid.run.files import Layout, write_run

    layout = Layout(run)
    settings = encoder.settings(layout)
    found = scan(sources, labeled=labels)
    loaded = load_encoder(settings, device)
    show.note(*found.notes, *loaded.notes, choose_decoder()[1])
    loaded.check(found.records)
    write_run(layout, settings, loaded)
    with EmbeddingStore(layout.store) as store:
        with show.image_progress("embedding", len(found.records)) as progress:
            summary = build(
                found,
                loaded,
                store,
                batch_size=batch.batch_size,
                workers=batch.workers,
                progress=progress,
                replace=replace,
            )
        index = None if store.is_empty else open_index(store, loaded.fingerprint, layout.neighbors)
    show.note(*(index.notes if index is not None else ()))
    if summary.kept:
        show.note(f"{summary.kept} photos that add-class gave a class stay with it (hybrid remove-class forgets them)")
    show.result(
        f"{summary.images} photos: {summary.encoded} encoded, {summary.reused} copies of known content, "
        f"{summary.unchanged} unchanged; {summary.new} new, {summary.changed} changed, {summary.removed} removed; "
        f"{len(index) if index is not None else 0} vectors in {layout.root}"
    )
    show.exit_if_unreadable(summary.unreadable)
