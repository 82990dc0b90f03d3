"""`hybrid predict`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.images.records import ImageRecord
    from hybrid.prediction import Prediction
    from hybrid.run.fitted import Batch, FittedClassifier

GRID_IMAGES = 25


@options.with_groups
def predict(
    sources: options.Sources,
    *,
    run: options.RunOptions,
    top_k: Annotated[int, typer.Option(min=1, help="Classes to list for each photo.")] = 5,
    output: options.OutputOptions,
    grid: Annotated[
        Path | None,
        typer.Option(help="Draw the first 25 photos with their answers to this PNG, new or written by hybrid before."),
    ] = None,
    answer: options.AnswerOptions,
    explain_neighbors: Annotated[
        bool, typer.Option("--explain-neighbors", help="List the 5 nearest labeled photos of the index as evidence.")
    ] = False,
    encoder: options.EncoderOptions,
    batch: options.BatchOptions,
    device: options.Device = "auto",
) -> None:
    """Classify photos into trained, named and added classes."""
    from hybrid.cli import show
    from hybrid.cli.load import load_classifier, read_by
    from hybrid.cli.outputs import PICTURE, PREDICTIONS, Outputs
    from hybrid.cli.write import format_of, writer_of
    from hybrid.encoders.base import decoder_of
    from hybrid.images.decoders import choose_decoder
    from hybrid.images.sources import scan

    policy = answer.policy()
    found = scan(sources, labeled=False, each_row=True)
    outputs = Outputs(
        {"a source": found.sources, "--taxonomy": answer.taxonomy, **read_by(run, encoder)}, run.run, found.records
    )
    format_of(output)
    outputs.file("--out", output.out, PREDICTIONS)
    outputs.file("--grid", grid, PICTURE)
    show.note(*found.notes)
    classifier = load_classifier(run, policy, encoder, device, answer.regions, answer.taxonomy)
    if decoder_of(classifier.encoder) is None:
        show.note(choose_decoder()[1])
    evidence = _Evidence(run.run, classifier) if explain_neighbors else None
    drawn: list[tuple[ImageRecord, Prediction]] = []
    unreadable = list(found.unread)
    with (
        writer_of(output) as write,
        show.image_progress("classifying", len(found.records)) as progress,
    ):
        embed = evidence is not None and evidence.needs_embeddings
        for answers in classifier.classify(
            found.records, batch_size=batch.batch_size, workers=batch.workers, embed=embed
        ):
            unreadable += answers.unreadable
            predictions = classifier.predictions(answers, top_k)
            predictions = evidence.add(answers, predictions) if evidence else predictions
            write(predictions)
            drawn += list(zip(answers.records, predictions, strict=True))[: GRID_IMAGES - len(drawn)] if grid else []
            progress(len(answers.records) + len(answers.unreadable))
    _draw(drawn, grid)
    if evidence is not None:
        show.note(*evidence.notes())
    show.exit_if_unreadable(unreadable)


class _Evidence:
    """Finds the nearest labeled images of every batch, and counts what there is to say of them."""

    def __init__(self, run: Path, classifier: FittedClassifier) -> None:
        from hybrid.cli import show
        from hybrid.run.files import Layout
        from hybrid.run.neighbors import LabeledNeighbors

        self._neighbors = LabeledNeighbors(Layout(run), classifier.encoder)
        show.note(*self._neighbors.notes)
        self._notes: Counter[str] = Counter()
        # The head may answer alone and need no embedding of its own.
        self.needs_embeddings = self._neighbors.missing is None

    def add(self, batch: Batch, predictions: list[Prediction]) -> list[Prediction]:
        from hybrid.run.neighbors import with_neighbors

        near = self._neighbors.nearest(batch.embeddings, batch.hashes)
        self._notes.update(note for neighbors in near for note in neighbors.notes)
        return with_neighbors(predictions, near)

    def notes(self) -> list[str]:
        return [f"{note} (so for {images} of the photos)" for note, images in self._notes.items()]


def _draw(drawn: list[tuple[ImageRecord, Prediction]], grid: Path | None) -> None:
    from hybrid.cli import show
    from hybrid.evaluation.report import draw_grid

    if grid is None or not drawn:
        return
    grid.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(drawn, grid)
    show.note(f"picture of {len(drawn)} predictions: {grid}")
