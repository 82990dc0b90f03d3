"""`hybrid predict`."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.classifier import Batch, HybridClassifier
    from hybrid.images.records import ImageRecord
    from hybrid.prediction import Prediction

GRID_IMAGES = 25


class Format(StrEnum):
    """How predictions are written."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


def predict(
    sources: options.Sources,
    run: options.Run = options.DEFAULT_RUN,
    prompts: options.Prompts = None,
    templates: options.TemplatesOption = None,
    top_k: Annotated[int, typer.Option(min=1, help="Classes to list for each photo.")] = 5,
    out: Annotated[Path | None, typer.Option(help="File for the predictions.  [default: stdout]")] = None,
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="[default: by the ending of --out, else table]", show_default=False),
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="Draw the first 25 photos with their answers to this PNG.")] = None,
    prior: options.Prior = None,
    balance: options.BalanceOption = None,
    max_seen_loss: options.MaxSeenLoss = None,
    reject: options.Reject = None,
    max_false_accept: options.MaxFalseAccept = None,
    coverage: options.Coverage = None,
    regions: options.RegionsOption = None,
    explain_neighbors: Annotated[
        bool, typer.Option("--explain-neighbors", help="List the 5 nearest labeled photos of the index as evidence.")
    ] = False,
    encoder: options.Encoder = None,
    pretrained: options.Pretrained = None,
    precision: options.Precision = None,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
) -> None:
    """Classify photos over all classes. Trained, named, and shown by a few photos."""
    from hybrid.cli import show
    from hybrid.cli.load import load_classifier
    from hybrid.cli.write import writer_of
    from hybrid.images.sources import scan

    policy = options.policy_of(prior, balance, max_seen_loss, reject, max_false_accept, coverage)
    found = scan(sources, labeled=False)
    classifier = load_classifier(
        run, prompts, templates, encoder, pretrained, precision, device, policy, options.regions_of(regions)
    )
    for line in (*found.notes, *classifier.notes):
        show.note(line)
    evidence = _Evidence(run, classifier) if explain_neighbors else None
    drawn: list[tuple[ImageRecord, Prediction]] = []
    with (
        writer_of(out, format_.value if format_ else None) as write,
        show.image_progress("classifying", len(found.records)) as progress,
    ):
        for batch in classifier.classify(found.records, batch_size=batch_size, workers=workers):
            predictions = classifier.predictions(batch, top_k)
            predictions = evidence.add(batch, predictions) if evidence else predictions
            write(predictions)
            drawn += list(zip(batch.records, predictions, strict=True))[: GRID_IMAGES - len(drawn)] if grid else []
            progress(len(batch.records))
    _draw(drawn, grid)
    if evidence is not None:
        evidence.say_notes()
    show.list_unreadable(classifier.unreadable)
    if classifier.unreadable:
        raise typer.Exit(show.EXIT_UNREADABLE)


class _Evidence:
    """Finds the nearest labelled photos of every batch, and counts what there is to say of them."""

    def __init__(self, run: Path, classifier: HybridClassifier) -> None:
        from hybrid.cli import show
        from hybrid.run.files import Layout
        from hybrid.tools.search.neighbors import LabeledNeighbors

        self._neighbors = LabeledNeighbors(Layout(run), classifier.encoder)
        for line in self._neighbors.notes:
            show.note(line)
        self._notes: Counter[str] = Counter()
        # The head may answer alone and need no embedding of its own.
        classifier.always_embed = self._neighbors.missing is None

    def add(self, batch: Batch, predictions: list[Prediction]) -> list[Prediction]:
        from hybrid.tools.search.neighbors import with_neighbors

        near = self._neighbors.nearest(batch.embeddings, batch.hashes)
        self._notes.update(note for found in near for note in found.notes)
        return with_neighbors(predictions, near)

    def say_notes(self) -> None:
        from hybrid.cli import show

        for note, images in self._notes.items():
            show.note(f"{note} (so for {images} of the photos)")


def _draw(drawn: list[tuple[ImageRecord, Prediction]], grid: Path | None) -> None:
    from hybrid.cli import show
    from hybrid.evaluation.grid import draw_grid
    from hybrid.images.decode import read_and_decode

    if grid is None or not drawn:
        return
    grid.parent.mkdir(parents=True, exist_ok=True)
    draw_grid([p for _, p in drawn], [read_and_decode(record) for record, _ in drawn], grid)
    show.note(f"picture of {len(drawn)} predictions: {grid}")
