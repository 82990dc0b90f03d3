"""`hybrid evaluate`."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hybrid.evaluation.results import Evaluation
    from hybrid.images.sources import Scan
    from hybrid.terminal import SafeConsole

HeldOut = Annotated[
    bool,
    typer.Option(
        "--held-out",
        help="In the place of SOURCES: labeled photos of the index that the head was not trained on; those of split "
        "test, if there are any.",
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write all figures to this file, new or written by hybrid before.")
]
Report = Annotated[
    Path | None,
    typer.Option(
        file_okay=False, writable=True, help="Write report.html into this folder: one page with curves and photos."
    ),
]
# What the report names in the place of sources.
HELD_OUT = "the index, held out of the training"


@options.with_groups
def evaluate(
    sources: options.OptionalSources = None,
    *,
    run: options.RunOptions,
    held_out: HeldOut = False,
    json_file: JsonFile = None,
    report: Report = None,
    answer: options.ManyOptions,
    detector: options.DetectionOptions,
    sequence_by: options.SequenceBy = None,
    encoder: options.EncoderOptions,
    batch: options.BatchOptions,
    device: options.Device = "auto",
) -> None:
    """Score head, zero-shot and hybrid on labeled photos."""
    from hybrid.cli import show
    from hybrid.cli.load import in_context, load_classifier, read_by
    from hybrid.cli.outputs import EVALUATION, REPORT, Outputs
    from hybrid.evaluation.evaluate import evaluate as run_evaluation
    from hybrid.evaluation.html_report import FILE_NAME
    from hybrid.files import is_stdout

    policy = answer.policy()
    found = _found(sources, run.run, held_out=held_out)
    more = {"--detections": detector.detections, **answer.read_by}
    outputs = Outputs({"a source": found.sources, **more, **read_by(run, encoder)}, run.run, found.records)
    outputs.file("--json", json_file, EVALUATION)
    if report is not None:
        outputs.folder("--report", report, {FILE_NAME: REPORT})
    found = detector.boxes_of(found, "scored")
    show.note(*found.notes)
    classifier = load_classifier(run, policy, encoder, device, answer.regions, answer.taxonomy)
    records = in_context(classifier, found.records, sequence_by)
    with show.image_progress("evaluating", len(found.records)) as progress:
        result = run_evaluation(
            classifier,
            records,
            **vars(batch),
            progress=progress,
            strict_names=run.strict_names,
            skip=progress.skip,
        )
    show.note(*result.notes)
    if json_file is not None:
        _write_json(json_file, result.to_json())
    # Where stdout is the JSON, people read the rest beside it.
    console = show.stderr if json_file is not None and is_stdout(json_file) else show.stdout()
    _print(result, console)
    if report is not None:
        file = _write_report(result, report, str(run.run), sources or [HELD_OUT], found.notes)
        show.say(console, f"report: {file}")
    show.exit_if_unreadable([*found.unread, *result.unreadable])


def _found(sources: list[str] | None, run: Path, *, held_out: bool) -> Scan:
    """The photos to score."""
    from hybrid.errors import ConfigError
    from hybrid.images.sources import scan
    from hybrid.run.files import Layout
    from hybrid.run.held_out import held_out as held_out_of

    if not held_out:
        return scan(options.given(sources, "--held-out"))
    if sources:
        raise ConfigError("--held-out takes the photos of the index", got="sources too", fix="leave one of them out")
    return held_out_of(Layout(run))


def _write_report(result: Evaluation, folder: Path, run: str, sources: list[str], notes: Sequence[str]) -> Path:
    from hybrid.evaluation.html_report import write_report

    made = datetime.now().astimezone()
    return write_report(result, folder, run=run, made=made, sources=sources, notes=notes)


def _print(result: Evaluation, console: SafeConsole) -> None:
    from hybrid.cli import show
    from hybrid.evaluation.hierarchy import describe_hierarchy
    from hybrid.evaluation.report import scores_table
    from hybrid.evaluation.results import describe

    counts = f"{result.scored} photos, {result.seen} seen and {result.unseen} unseen classes"
    show.say(console, counts)
    console.print(scores_table(result.systems))
    for rates in (result.sets, result.rejection):
        if rates is not None:
            show.say(console, describe(rates))
    for line in describe_hierarchy(result.hierarchy) if result.hierarchy is not None else ():
        show.say(console, line)


def _write_json(file: Path, values: dict[str, Any]) -> None:
    from hybrid.files import atomic_write, is_stdout

    text = json.dumps(values, indent=2) + "\n"
    if is_stdout(file):
        sys.stdout.write(text)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")
