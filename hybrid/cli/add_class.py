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
            callback=options.with_stdin,
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
            help="Whether the name describes the photos, or the photos speak alone.  [default: as before, else --name]",
            show_default=False,
        ),
    ] = None,
    precision: options.Precision = None,
    decoder: options.Decoder = "auto",
    batch: options.BatchOptions,
    wait: options.Wait = True,
    device: options.Device = "auto",
) -> None:
    """Add a class by photos, name or both, without training. Again to add more photos."""
    from hybrid.cli import show
    from hybrid.images.sources import scan

    opened = options.EncoderOptions(precision=precision, decoder=decoder).open(run, device, wait=wait)
    found = scan(photos, labeled=False) if photos else None
    show.note(*(found.notes if found else ()))
    summary = opened.add_class(
        name,
        found.records if found else None,
        synonyms=tuple(synonym or ()),
        named=named,
        batch_size=batch.batch_size,
        workers=batch.workers,
    )
    show.note(*summary.notes)
    known = known_by(summary.images, summary.named, summary.synonyms)
    show.result(f"{summary.name}: {known}; {summary.new} new in {run}")
    show.exit_if_unreadable([*(found.unread if found else ()), *summary.unreadable])


def remove_class(name: Name, run: options.Run = options.DEFAULT_RUN, wait: options.Wait = True) -> None:
    """Forget a class that the head was not trained on. Its names, and its photos in the index."""
    from hybrid.cli import show
    from hybrid.images.naming import plural
    from hybrid.run.run import Run

    summary = Run(run, wait=wait).remove_class(name)
    show.note(*summary.notes)
    show.result(f"{summary.name}: forgotten, with {plural(summary.images, 'photo')}")


def known_by(images: int, named: bool, synonyms: Sequence[str]) -> str:
    """Say how a class is known that the head does not know."""
    from hybrid.images.naming import plural

    names = "its name" + (f" (also {', '.join(synonyms)})" if synonyms else "")
    if not images:
        return f"known by {names} alone"
    shown = f"shown by {plural(images, 'photo')}"
    return f"{shown} and known by {names}" if named else f"{shown} alone"
