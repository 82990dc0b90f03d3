"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from hybrid.config import Regions
    from hybrid.gate.policy import Balance, Policy


class RegionsChoice(StrEnum):
    """How a photo is cut for the head."""

    NONE = "none"
    SLIC = "slic"
    TILES = "tiles"


Run = Annotated[Path, typer.Option(help="Folder that holds index, head, gate and settings.", show_default=True)]
DEFAULT_RUN = Path("runs/default")
Sources = Annotated[
    list[str],
    typer.Argument(
        help="Class folders, a plain folder, a CSV or Parquet manifest (path, label), WebDataset .tar shards, photos."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode photos.  [default: one a core]")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Photos that go through a model at once.  [default: 32, or what a GPU has memory for]"),
]
Prompts = Annotated[
    str | None,
    typer.Option(help="Classes that may be named: a file (one class a line) or a bundled name such as animals."),
]
TemplatesOption = Annotated[
    str | None,
    typer.Option(help="Prompt templates: simple, imagenet or a file.  [default: those of the gate, else simple]"),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="open_clip model, model folder, hf-hub:REPO, tiny (bundled) or precomputed:FILE.npz.  "
        "[default: the run's own, else ViT-B-32-256]"
    ),
]
Pretrained = Annotated[
    str | None,
    typer.Option(help="open_clip tag or checkpoint file.  [default: datacomp_s34b_b86k for ViT-B-32-256]"),
]
Precision = Annotated[
    str | None, typer.Option(help="auto, fp32, bf16 or fp16: how the encoder computes.  [default: auto]")
]
Prior = Annotated[float | None, typer.Option(help="Expected share of photos of unseen classes, 0 to 1.")]
BalanceOption = Annotated[
    str | None,
    typer.Option(
        "--balance",
        help="equal: photos of seen and of unseen classes are as likely; natural: by the number of classes.  "
        "[default: equal]",
    ),
]
MaxSeenLoss = Annotated[
    float | None,
    typer.Option(help="As many unseen classes as can be had for this share of the right seen answers, such as 0.01."),
]
Reject = Annotated[
    float | None,
    typer.Option(help='Answer "none of these", but keep this share of photos of seen classes, such as 0.95.'),
]
MaxFalseAccept = Annotated[
    float | None, typer.Option(help="The same by the share of photos of unknown classes that may pass, such as 0.1.")
]
RegionsOption = Annotated[
    RegionsChoice | None,
    typer.Option(
        "--regions",
        help="Let the head vote on the parts of each photo too.  [default: as it was trained]",
        show_default=False,
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(help="Give each photo a set that holds the true class of this share of seen photos, such as 0.9."),
]


def regions_of(choice: RegionsChoice | None) -> Regions | None:
    """Give the choice as settings know it."""
    return cast("Regions | None", choice and choice.value)


def policy_of(
    prior: float | None,
    balance: str | None,
    max_seen_loss: float | None,
    reject: float | None = None,
    max_false_accept: float | None = None,
    coverage: float | None = None,
) -> Policy:
    """Join the flags; ConfigError where they contradict each other."""
    from hybrid.errors import ConfigError
    from hybrid.gate.policy import Policy

    if balance not in (None, "natural", "equal"):
        raise ConfigError("--balance takes natural or equal", got=str(balance))
    return Policy(prior, cast("Balance | None", balance), max_seen_loss, reject, max_false_accept, coverage)
