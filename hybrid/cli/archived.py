"""What `hybrid predict --archive` does: it answers for the vectors of an archive, and reads no photo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.errors import ConfigError

if TYPE_CHECKING:
    from hybrid.cli import options
    from hybrid.cli.predict import PhotoOptions
    from hybrid.cluster.archive import Archive
    from hybrid.run.fitted import Embedded


def refuse_with_archive(
    sources: object,
    asked: PhotoOptions,
    answer: options.ManyOptions,
    detector: options.DetectionOptions,
    batch: options.BatchOptions,
) -> None:
    """Refuse what is about photos that are read; ConfigError with the flags."""
    given = {
        "a source": sources,
        "--grid": asked.grid,
        "--sequence-by": asked.sequence_by,
        "--explain-neighbors": asked.explain_neighbors,
        "--regions": answer.regions,
        "--detections": detector.detections,
        "--batch-size": batch.batch_size,
        "--workers": batch.workers,
    }
    flags = [flag for flag, value in given.items() if value]
    if flags:
        raise ConfigError(
            "--archive answers for vectors, and reads no photo",
            got=", ".join(flags),
            fix="leave these out, or --archive",
        )


def predict_archive(
    place: Path,
    run: options.RunOptions,
    encoder: options.EncoderOptions,
    answer: options.ManyOptions,
    output: options.PredictionOutputOptions,
    top_k: int,
    device: str,
) -> None:
    """Answer for all images of an archive, some thousand at a time."""
    from hybrid.cli import show
    from hybrid.cli.load import load_classifier, read_by
    from hybrid.cli.outputs import PREDICTIONS, Outputs
    from hybrid.cli.write import writer_of
    from hybrid.cluster.archive import OTHER_RUN, Archive

    policy = answer.policy()
    archive = Archive.open(place)
    outputs = Outputs({**answer.read_by, **read_by(run, encoder)}, run.run)
    outputs.file("--out", output.out, PREDICTIONS)
    classifier = load_classifier(run, policy, archive_encoder(archive, run.run, encoder), device, None, answer.taxonomy)
    archive.check_encoder(classifier.encoder.fingerprint, "the run", OTHER_RUN)
    # Records are gone through beforehand only where an answer depends on others.
    records = archive.records if archive.has_sequences or policy.class_priors is not None else ()
    show.note(*classifier.context.image_notes(records))
    unreadable: list[tuple[str, str]] = []
    count = 0
    with (
        writer_of(output, None, str(run.run)) as write,
        show.image_progress("classifying", archive.info.rows) as progress,
    ):
        for batch in classifier.classify_embedded(_embedded(archive), records):
            write(classifier.predictions(batch, top_k))
            count += len(batch.unreadable)
            unreadable += batch.unreadable[: show.LISTED - len(unreadable)]
            progress(len(batch.records) + len(batch.unreadable))
    show.exit_if_unreadable(unreadable, count)


def _embedded(archive: Archive) -> Iterator[Embedded]:
    from hybrid.run.fitted import Embedded

    for batch in archive.batches():
        good = [row for row, reason in enumerate(batch.reasons) if reason is None]
        unreadable = tuple(
            (record.path, reason) for record, reason in zip(batch.records, batch.reasons, strict=True) if reason
        )
        records, hashes = [batch.records[row] for row in good], [str(batch.hashes[row]) for row in good]
        vectors = batch.vectors if not unreadable else batch.vectors[good]
        yield Embedded(records, hashes, vectors, unreadable)


def archive_encoder(archive: Archive, run: Path, given: options.EncoderOptions) -> options.EncoderOptions:
    """The archive's encoder, where no run says which and none was given."""
    from hybrid.run.files import Layout, is_run

    if given.encoder is not None or is_run(Layout(run)):
        return given
    own = archive.info.encoder
    return replace(given, encoder=own.model, pretrained=own.pretrained, precision=own.precision)
