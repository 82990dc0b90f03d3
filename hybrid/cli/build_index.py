"""`hybrid build-index`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.images.sources import Scan
    from hybrid.index.build import IndexSummary
    from hybrid.terminal import FittedTable

# Classes that the table shows, when there are more.
_SHOWN = 10
_SPLITS = ("train", "val", "test", None)


@options.with_groups
def build_index(
    sources: options.Sources,
    *,
    run: options.Run = options.DEFAULT_RUN,
    encoder: options.EncoderOptions,
    sequence_by: options.SequenceBy = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Whether folders and tables give class labels.")
    ] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget photos of sources that are not named in this call.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Forget photos of sources and folders that are empty now, lost most of their photos, or do not exist "
            "any more. Without it they stay, or an error asks.",
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read every photo, also those whose size and times are as before, and make again what is damaged in "
            "the index.",
        ),
    ] = False,
    detector: options.DetectionOptions,
    batch: options.BatchOptions,
    wait: options.Wait = True,
    device: options.Device = "auto",
) -> None:
    """Embed photos and cache the vectors. Only what is new or changed is computed."""
    from hybrid.cli import show
    from hybrid.images.sources import scan

    opened = encoder.open(run, device, wait=wait)
    # A run that is there may have photos of a source that is empty or gone.
    scanned = scan(sources, labeled=labels, keep_empty=opened.layout.run.is_file())
    found = detector.boxes_of(_in_sequences(scanned, sequence_by), "indexed", labeled=labels)
    if labels and found.records:
        show.stderr.print(_class_table(Counter((record.label, record.split) for record in found.records)))
    opened.encoder.check(found.records)  # loaded before the progress begins
    with show.image_progress("embedding", len(found.records)) as progress:
        summary = opened.index(
            found,
            replace=replace,
            prune=prune,
            verify=verify,
            batch_size=batch.batch_size,
            workers=batch.workers,
            progress=progress,
        )
    _note_kept(summary.kept)
    show.result(f"{_counts(summary)} in {run}")
    show.exit_if_unreadable(summary.unreadable)


def _counts(made: IndexSummary) -> str:
    from hybrid.images.naming import plural

    return (
        f"{plural(made.images, 'photo')}: {made.encoded} encoded, {made.reused} copies of known content, "
        f"{made.unchanged} unchanged; {made.new} new, {made.changed} changed, {made.removed} removed; "
        f"{plural(made.vectors, 'vector')}"
    )


def _note_kept(count: int) -> None:
    from hybrid.cli import show

    if count:
        show.note(f"{count} photos that add-class gave a class stay with it (hybrid remove-class forgets them)")


def _in_sequences(found: Scan, sequence_by: str | None) -> Scan:
    """Say which photos belong together."""
    from hybrid.images.sequences import sequenced

    records, notes = sequenced(found.records, sequence_by)
    return dataclasses.replace(found, records=tuple(records), notes=(*found.notes, *notes))


def _class_table(counts: Mapping[tuple[str | None, str | None], int]) -> FittedTable | str:
    """Count photos by class and split, so that folders that were read wrongly show at once."""
    from hybrid.images.naming import plural
    from hybrid.terminal import Column, FittedTable

    total = sum(counts.values())
    classes = sorted({label for label, _ in counts if label is not None})
    if not classes:
        return f"{plural(total, 'photo')}, none of them with a label (class folders, or a manifest, give labels)"
    splits = [split for split in _SPLITS if any(own == split for _, own in counts)]
    headings = [split or ("no split" if len(splits) > 1 else "photos") for split in splits]
    table = FittedTable([Column("class"), *(Column(heading, kind="number") for heading in headings)])

    def add(name: str, labels: set[str | None]) -> None:
        figures = [sum(n for (label, own), n in counts.items() if own == split and label in labels) for split in splits]
        table.add_row(name, *(str(figure) if figure else "-" for figure in figures))

    shown = classes if len(classes) <= _SHOWN + 1 else classes[:_SHOWN]
    for name in shown:
        add(name, {name})
    if rest := classes[len(shown) :]:
        add(f"and {len(rest)} more classes", set(rest))
    if any(label is None for label, _ in counts):
        add("(no label)", {None})
    if len(classes) > 1:
        add(f"all {len(classes)} classes", {label for label, _ in counts})
    return table
