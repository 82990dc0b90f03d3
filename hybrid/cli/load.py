"""Load what the flags of a command describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hybrid.cli.options import with_stdin
from hybrid.encoders.base import expand_user
from hybrid.errors import ConfigError
from hybrid.images.sequences import sequenced
from hybrid.images.sources import scan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hybrid.cli.options import EncoderOptions, RegionsChoice, RunOptions
    from hybrid.config import Regions
    from hybrid.gate.policy import Policy
    from hybrid.images.records import ImageRecord
    from hybrid.run.fitted import FittedClassifier


def load_classifier(
    run: RunOptions,
    policy: Policy,
    encoder: EncoderOptions,
    device: str,
    regions: RegionsChoice | None = None,
    taxonomy: str | None = None,
) -> FittedClassifier:
    """Load a run, or zero-shot alone where there is no run; says its notes.

    Raises
    ------
    ConfigError
        If the flags name another encoder than the run has: its index and gate would not fit.
    """
    cut = cast("Regions | None", regions and regions.value)
    opened = encoder.open(run.run, device)
    return opened.classifier(
        run.prompts,
        templates=run.templates,
        policy=policy,
        regions=cut,
        strict_names=run.strict_names,
        taxonomy=taxonomy,
    ).fitted


def in_context(
    classifier: FittedClassifier, records: Sequence[ImageRecord], sequence_by: str | None
) -> list[ImageRecord]:
    """Say which images belong together, and on stderr what is known of them; `sequence_by` as `SequenceBy` has it."""
    from hybrid.cli import show

    found, notes = sequenced(records, sequence_by)
    show.note(*notes, *classifier.context.image_notes(found))
    return found


def read_by(run: RunOptions, encoder: EncoderOptions) -> dict[str, str | None]:
    """Name the files that these options let a command read, by their flags."""
    return {
        "--prompts": run.prompts,
        "--templates": run.templates,
        "--encoder": (encoder.encoder or "").removeprefix("precomputed:") or None,
        "--pretrained": encoder.pretrained,
    }


def one_image(argument: str, source: str) -> ImageRecord:
    """Find the one image that a source holds; ConfigError, naming the `argument`, where it holds another number."""
    records = scan(with_stdin([source]) or [], labeled=False, each_row=True).records
    if len(records) != 1:
        raise ConfigError(f"{argument} takes one photo", got=f"{len(records)} in {source}", fix="name one of them")
    return records[0]


def absolute(file: Path | None) -> str | None:
    """Make a file's path absolute, as settings keep it."""
    return None if file is None else str(expand_user(str(file)).absolute())


def read_names(file: Path) -> tuple[str, ...]:
    """Class names of a prompt file (one per line, # comments), or as they are typed."""
    from hybrid.labels.prompts import PromptSet

    return PromptSet.load(str(file)).names
