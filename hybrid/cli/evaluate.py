"""`hybrid evaluate`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.evaluation.results import Evaluation


def evaluate(
    sources: options.Sources,
    run: options.Run = options.DEFAULT_RUN,
    prompts: options.Prompts = None,
    templates: options.TemplatesOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, writable=True, help="Write report.html into this folder: one page with curves and photos."
        ),
    ] = None,
    prior: options.Prior = None,
    balance: options.BalanceOption = None,
    max_seen_loss: options.MaxSeenLoss = None,
    reject: options.Reject = None,
    max_false_accept: options.MaxFalseAccept = None,
    coverage: options.Coverage = None,
    regions: options.RegionsOption = None,
    encoder: options.Encoder = None,
    pretrained: options.Pretrained = None,
    precision: options.Precision = None,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
) -> None:
    """Score head, zero-shot and hybrid on labelled photos."""
    from hybrid.cli import show
    from hybrid.cli.load import load_classifier
    from hybrid.evaluation.evaluate import evaluate as run_evaluation
    from hybrid.images.sources import scan

    policy = options.policy_of(prior, balance, max_seen_loss, reject, max_false_accept, coverage)
    found = scan(sources)
    classifier = load_classifier(
        run, prompts, templates, encoder, pretrained, precision, device, policy, options.regions_of(regions)
    )
    for line in (*found.notes, *classifier.notes):
        show.note(line)
    with show.image_progress("evaluating", len(found.records)) as progress:
        result = run_evaluation(classifier, found.records, batch_size=batch_size, workers=workers, progress=progress)
    for line in result.notes:
        show.note(line)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
    _show(result)
    if report is not None:
        from hybrid.evaluation.html_report import write_report

        made = datetime.now().astimezone()
        file = write_report(result, report, run=str(run), made=made, sources=sources, notes=found.notes)
        show.stdout().print(f"report: {file}", markup=False, soft_wrap=True)
    show.list_unreadable(result.unreadable)
    if result.unreadable:
        raise typer.Exit(show.EXIT_UNREADABLE)


def _show(result: Evaluation) -> None:
    from hybrid.cli import show
    from hybrid.evaluation.promises import describe
    from hybrid.evaluation.report import scores_table

    console = show.stdout()
    console.print(f"{result.scored} photos, {result.seen} seen and {result.unseen} unseen classes")
    console.print(scores_table(result.systems))
    for promise in (result.sets, result.rejection):
        if promise is not None:
            console.print(describe(promise), markup=False, soft_wrap=True)
