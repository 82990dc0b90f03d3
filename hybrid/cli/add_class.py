"""`hybrid add-class` and `hybrid remove-class`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

Name = Annotated[str, typer.Argument(help="The class; case, spaces, _ and - make no difference.", show_default=False)]


@options.with_groups
def add_class(
    name: Name,
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            help="Photos of the class: files, folders, manifests, shards; none to add it by its name alone.",
            show_default=False,
        ),
    ] = None,
    *,
    run: options.Run = options.DEFAULT_RUN,
    synonym: Annotated[list[str] | None, typer.Option(help="Another name of the class, repeatable.")] = None,
    named: Annotated[
        bool | None,
        typer.Option(
            "--name/--no-name",
            help="Whether the name says something to the encoder, or photos alone speak.  [default: as before, else "
            "--name]",
            show_default=False,
        ),
    ] = None,
    precision: options.Precision = None,
    batch: options.BatchOptions,
    device: options.Device = "auto",
) -> None:
    """Add a class by photos, name or both, without training. Again to add more photos."""
    from hybrid.cli import show
    from hybrid.cli.settings import encoder_settings
    from hybrid.encoders import load_encoder
    from hybrid.images.sources import scan
    from hybrid.run.classes import add_class as add
    from hybrid.run.files import Layout, read_run

    layout = Layout(run)
    read_run(layout)  # before the encoder, which takes a while
    found = scan(photos, labeled=False) if photos else None
    encoder = load_encoder(encoder_settings(layout, None, None, precision), device)
    show.note(*(found.notes if found else ()), *encoder.notes)
    done = add(
        layout,
        encoder,
        name,
        found.records if found else (),
        synonyms=tuple(synonym or ()),
        named=named,
        batch_size=batch.batch_size,
        workers=batch.workers,
    )
    show.note(*done.notes)
    known = known_by(done.images, done.named, done.synonyms)
    show.result(f"{done.name}: {known}; {done.new} new in {layout.root}")
    show.exit_if_unreadable(done.unreadable)


def remove_class(name: Name, run: options.Run = options.DEFAULT_RUN) -> None:
    """Forget a class that the head was not trained on. Its names, and its photos in the index."""
    from hybrid.cli import show
    from hybrid.images.naming import plural
    from hybrid.run.classes import remove_class as remove
    from hybrid.run.files import Layout

    done = remove(Layout(run), name)
    show.note(*done.notes)
    show.result(f"{done.name}: forgotten, with {plural(done.images, 'photo')}")


def known_by(images: int, named: bool, synonyms: Sequence[str]) -> str:
    """Say how a class is known that the head does not know."""
    from hybrid.images.naming import plural

    names = "its name" + (f" (also {', '.join(synonyms)})" if synonyms else "")
    if not images:
        return f"known by {names} alone"
    shown = f"shown by {plural(images, 'photo')}"
    return f"{shown} and known by {names}" if named else f"{shown} alone"
