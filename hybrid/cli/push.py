"""`hybrid push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.evaluation.results import Evaluation
    from hybrid.run.fitted import FittedClassifier

# What the card reports is kept: asked for where the run can promise it.
REJECT, COVERAGE = 0.95, 0.9


@options.with_groups
def push(
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; made if it is missing.")],
    *,
    run: options.RunOptions,
    taxonomy: options.TaxonomyFile = None,
    evaluate: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Labeled photos whose figures go onto the card; may be given again."),
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="License of the run, as the hub spells it: apache-2.0, cc-by-4.0.")
    ] = None,
    public_encoder: Annotated[
        str | None,
        typer.Option(help="Where others find the encoder, if the run has it from a file: hf-hub:OWNER/NAME."),
    ] = None,
    with_index: Annotated[
        bool,
        typer.Option(
            "--with-index", help="Publish paths, labels, hashes and vectors of the index's photos too; never photos."
        ),
    ] = False,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository.  [default: the account's]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch.  [default: main]")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Write all of it into this new folder, and push nothing."),
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Put the run on the model hub, with a model card. Read it from there with --run hf://OWNER/NAME."""
    from hybrid.cli import show
    from hybrid.cli.load import load_classifier
    from hybrid.gate.policy import Policy
    from hybrid.hub.push import MESSAGE, Publication, push, write_repository

    how = Publication(repository, public_encoder, with_index, license_)
    classifier = load_classifier(run, Policy(), options.EncoderOptions(), device, taxonomy=taxonomy)
    if evaluate:
        evaluation = _evaluated(classifier, evaluate)
        called = ", ".join(Path(source).name for source in evaluate)
        how = Publication(repository, public_encoder, with_index, license_, evaluation, called)
    if out is not None:
        write_repository(classifier, how, out)
        show.result(f"what would be pushed: {out}")
        return
    place = push(classifier, how, private=private, revision=revision, message=message or MESSAGE)
    show.note(f"load it with: --run hf://{repository}{f'@{revision}' if revision else ''}")
    show.result(place)


def _evaluated(classifier: FittedClassifier, sources: list[str]) -> Evaluation:
    """Score the run on labeled photos, with what it can promise of rejection and prediction sets."""
    from dataclasses import replace

    from hybrid.cli import show
    from hybrid.evaluation.evaluate import evaluate
    from hybrid.gate.policy import Policy
    from hybrid.images.sources import scan

    gate = classifier.gate
    if gate is not None and gate.rejector is not None:
        classifier = replace(classifier, policy=Policy(reject=REJECT, coverage=COVERAGE))
    found = scan(sources)
    show.note(*found.notes)
    with show.image_progress("evaluating", len(found.records)) as progress:
        result = evaluate(classifier, found.records, progress=progress, skip=progress.skip)
    return replace(result, unreadable=(*found.unread, *result.unreadable))
