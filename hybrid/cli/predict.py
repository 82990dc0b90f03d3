"""`hybrid predict`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.cli.outputs import Kind
    from hybrid.images.detections import Detections
    from hybrid.images.records import ImageRecord
    from hybrid.images.sources import Scan
    from hybrid.prediction import Prediction
    from hybrid.run.fitted import Batch, FittedClassifier

GRID_IMAGES = 25


@dataclass(frozen=True)
class PhotoOptions:
    """What is asked of photos beside their classes."""

    grid: Annotated[
        Path | None,
        typer.Option(help="Draw the first 25 photos with their answers to this PNG, new or written by hybrid before."),
    ] = None
    sequence_by: options.SequenceBy = None
    explain_neighbors: Annotated[
        bool, typer.Option("--explain-neighbors", help="List the 5 nearest labeled photos of the index as evidence.")
    ] = False


@options.with_groups
def predict(
    sources: options.OptionalSources = None,
    *,
    run: options.RunOptions,
    archive: Annotated[
        Path | None,
        typer.Option(
            help="In the place of SOURCES: all photos of this archive (hybrid archive build), by their vectors alone."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Classes to list for each photo.")] = 5,
    output: options.PredictionOutputOptions,
    asked: PhotoOptions,
    answer: options.ManyOptions,
    detector: options.DetectionOptions,
    encoder: options.EncoderOptions,
    batch: options.BatchOptions,
    device: options.Device = "auto",
) -> None:
    """Classify photos into trained, named and added classes."""
    from hybrid.cli import show
    from hybrid.cli.archived import predict_archive, refuse_with_archive
    from hybrid.cli.load import in_context, load_classifier, read_by
    from hybrid.cli.outputs import PICTURE, Outputs
    from hybrid.cli.write import writer_of
    from hybrid.images.sources import scan

    kind = _kind_of(output, detector)
    if archive is not None:
        refuse_with_archive(sources, asked, answer, detector, batch)
        predict_archive(archive, run, encoder, answer, output, top_k, device)
        return
    policy, detections = answer.policy(), detector.read()
    found = scan(options.given(sources, "--archive"), labeled=False, each_row=True)
    more = {"--detections": detector.detections, **answer.read_by}
    outputs = Outputs({"a source": found.sources, **more, **read_by(run, encoder)}, run.run, found.records)
    outputs.file("--out", output.out, kind)
    outputs.file("--grid", asked.grid, PICTURE)
    boxes = _Boxes(found, detections, output)
    show.note(*boxes.scan.notes)
    classifier = load_classifier(run, policy, encoder, device, answer.regions, answer.taxonomy)
    records = in_context(classifier, boxes.scan.records, asked.sequence_by)
    _note_decoder(classifier)
    evidence = _Evidence(run.run, classifier) if asked.explain_neighbors else None
    drawn: list[tuple[ImageRecord, Prediction]] = []
    unreadable = list(boxes.scan.unread)
    bar = show.image_progress("classifying", len(records))
    with writer_of(output, boxes.results, str(run.run)) as write, bar as progress:
        for answers, predictions in _answers(classifier, records, evidence, top_k, batch):
            unreadable += answers.unreadable
            write(boxes.rows(predictions, answers.unreadable))
            wanted = GRID_IMAGES - len(drawn) if asked.grid else 0
            drawn += list(zip(answers.records, predictions, strict=True))[:wanted]
            progress(len(answers.records) + len(answers.unreadable))
        write(boxes.rows(()))
    _draw(drawn, asked.grid)
    if evidence is not None:
        show.note(*evidence.notes())
    show.exit_if_unreadable(unreadable)


def _answers(
    classifier: FittedClassifier,
    records: Sequence[ImageRecord],
    evidence: _Evidence | None,
    top_k: int,
    batch: options.BatchOptions,
) -> Iterator[tuple[Batch, list[Prediction]]]:
    """Answer batch by batch."""
    embed = evidence is not None and evidence.needs_embeddings
    for answers in classifier.classify(records, **vars(batch), embed=embed):
        predictions = classifier.predictions(answers, top_k)
        yield answers, evidence.add(answers, predictions) if evidence else predictions


def _note_decoder(classifier: FittedClassifier) -> None:
    """Say what decodes, where the encoder has not said it."""
    from hybrid.cli import show
    from hybrid.encoders.base import decoder_of
    from hybrid.images.decoders import choose_decoder

    if decoder_of(classifier.encoder) is None:
        show.note(choose_decoder()[1])


def _kind_of(output: options.PredictionOutputOptions, detector: options.DetectionOptions) -> Kind:
    """The kind of file that is written; ConfigError where the options contradict each other."""
    from hybrid.cli.outputs import PARQUET, PREDICTIONS, RESULTS_OF_BOXES, TASKS
    from hybrid.cli.write import LABEL_STUDIO, MEGADETECTOR, format_of
    from hybrid.cli.write import PARQUET as PARQUET_FORMAT
    from hybrid.cluster.tables import import_pyarrow
    from hybrid.errors import ConfigError

    chosen = format_of(output)
    if chosen == PARQUET_FORMAT:
        import_pyarrow("predict --format parquet")
    if detector.detections is None and (chosen == MEGADETECTOR or output.per is not options.Per.BOX):
        raise ConfigError(
            f"{'--format megadetector' if chosen == MEGADETECTOR else '--per photo'} is about boxes",
            got="no --detections",
            fix="give the detector's file too: --detections FILE",
        )
    return {MEGADETECTOR: RESULTS_OF_BOXES, PARQUET_FORMAT: PARQUET, LABEL_STUDIO: TASKS}.get(chosen, PREDICTIONS)


class _Boxes:
    """Turns answers into what is written: of boxes, photo by photo; of whole photos, as they come."""

    def __init__(self, found: Scan, detections: Detections | None, output: options.PredictionOutputOptions) -> None:
        from hybrid.run.megadetector import MegaDetectorResults
        from hybrid.run.photo_answers import PhotoAnswers

        crops = detections.crop(found, labeled=False) if detections else None
        self.scan = crops.scan if crops else found
        self.results = MegaDetectorResults(crops) if crops else None
        self._answers = PhotoAnswers(crops.photos) if crops else None
        of_photos = output.per is options.Per.PHOTO and output.format_ is not options.PredictionFormat.MEGADETECTOR
        self._per = options.Per.PHOTO if of_photos else options.Per.BOX

    def rows(self, predictions: Sequence[Prediction], unreadable: Collection[object] = ()) -> Sequence[Prediction]:
        if self._answers is None:
            return predictions
        photos = self._answers.add(predictions, unreadable)
        if self._per is options.Per.BOX:
            return [one for photo in photos for one in photo.boxes]
        return [photo.best for photo in photos if photo.best is not None]


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
    if grid is None or not drawn:
        return
    from hybrid.cli import show
    from hybrid.evaluation.report import draw_grid

    grid.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(drawn, grid)
    show.note(f"picture of {len(drawn)} predictions: {grid}")
