"""Load the classifier that the flags of predict and evaluate describe."""

from __future__ import annotations

from pathlib import Path

from hybrid.classifier import HybridClassifier
from hybrid.cli.settings import encoder_settings
from hybrid.config import Regions
from hybrid.errors import ConfigError
from hybrid.gate.policy import Policy
from hybrid.labels.prompts import PromptSet
from hybrid.run.files import Layout, read_run


def load_classifier(
    run: Path,
    prompts: str | None,
    templates: str | None,
    encoder: str | None,
    pretrained: str | None,
    precision: str | None,
    device: str,
    policy: Policy,
    regions: Regions | None = None,
) -> HybridClassifier:
    """Load a run, or zero-shot alone where there is no run.

    Raises
    ------
    ConfigError
        If the flags name another encoder than the run has: its index and gate would not fit.
    """
    layout = Layout(run)
    settings = encoder_settings(layout, encoder, pretrained, precision)
    if layout.run.is_file():
        recorded = read_run(layout).encoder
        if (settings.model, settings.pretrained) != (recorded.model, recorded.pretrained):
            raise ConfigError(
                f"the run {run} has another encoder",
                expected=f"{recorded.model} / {recorded.pretrained}",
                got=f"{settings.model} / {settings.pretrained}",
                fix="leave --encoder out, or use another --run",
            )
    return HybridClassifier.from_run(
        run,
        prompts=PromptSet.load(prompts) if prompts is not None else None,
        templates=templates,
        encoder=settings,
        device=device,
        policy=policy,
        regions=regions,
    )
