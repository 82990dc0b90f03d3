"""Load what the flags of a command describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hybrid.classifier import HybridClassifier
from hybrid.errors import ConfigError
from hybrid.images.sources import scan
from hybrid.labels.prompts import PromptSet
from hybrid.run.files import Layout, read_run

if TYPE_CHECKING:
    from hybrid.cli.options import EncoderOptions, RegionsChoice, RunOptions
    from hybrid.config import Regions
    from hybrid.gate.policy import Policy
    from hybrid.images.records import ImageRecord


def load_classifier(
    run: RunOptions, policy: Policy, encoder: EncoderOptions, device: str, regions: RegionsChoice | None = None
) -> HybridClassifier:
    """Load a run, or zero-shot alone where there is no run.

    Raises
    ------
    ConfigError
        If the flags name another encoder than the run has: its index and gate would not fit.
    """
    layout = Layout(run.run)
    settings = encoder.settings(layout)
    if layout.run.is_file():
        recorded = read_run(layout).encoder
        if (settings.model, settings.pretrained) != (recorded.model, recorded.pretrained):
            raise ConfigError(
                f"the run {run.run} has another encoder",
                expected=f"{recorded.model} / {recorded.pretrained}",
                got=f"{settings.model} / {settings.pretrained}",
                fix="leave --encoder out, or use another --run",
            )
    return HybridClassifier.from_run(
        run.run,
        prompts=PromptSet.load(run.prompts) if run.prompts is not None else None,
        templates=run.templates,
        encoder=settings,
        device=device,
        policy=policy,
        regions=cast("Regions | None", regions and regions.value),
    )


def one_image(argument: str, source: str) -> ImageRecord:
    """Find the one image that a source holds; ConfigError, naming the `argument`, where it holds another number."""
    records = scan([source], labeled=False).records
    if len(records) != 1:
        raise ConfigError(f"{argument} takes one photo", got=f"{len(records)} in {source}", fix="name one of them")
    return records[0]
