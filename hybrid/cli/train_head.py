"""`hybrid train-head`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.run.files import HeadInfo, Layout


class Tracker(StrEnum):
    """Trackers that accelerate tells of a training."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    MLFLOW = "mlflow"


Recipe = Annotated[str, typer.Option(help="A name that hybrid recipes lists, or a TOML file of settings.")]
Backbone = Annotated[str | None, typer.Option(help="Any timm model.  [default: the recipe's]")]
Weights = Annotated[
    Path | None,
    typer.Option(help="Local weights of the backbone (safetensors, or torch with plain tensors)."),
]
Classes = Annotated[Path | None, typer.Option(help="File of the seen classes, one per line.  [default: every label]")]
Kind = Annotated[
    str | None,
    typer.Option(
        help="backbone (a fine-tuned timm network) or linear (on the CLIP embeddings).  [default: the recipe's]"
    ),
]
GateFolds = Annotated[
    str | None,
    typer.Option(
        help="How the gate learns what the head says of classes it never saw: memory (not at all), frozen (from heads "
        "on frozen features) or fine-tuned (from the recipe again, five times).  [default: memory]"
    ),
]
Track = Annotated[
    Tracker | None,
    typer.Option(help="Tell a tracker of settings, epochs and final figures; TensorBoard's files go to RUN/tracking."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting of a recipe, repeatable; hybrid recipes NAME --settings lists them all.",
    ),
]
# Settings that had a flag of their own in version 0.1.
OldPretrained = Annotated[bool | None, typer.Option("--pretrained/--no-pretrained", hidden=True)]
OldImageSize = Annotated[int | None, typer.Option("--image-size", hidden=True)]


def train_head(
    run: options.Run = options.DEFAULT_RUN,
    head: Kind = None,
    backbone: Backbone = None,
    backbone_weights: Weights = None,
    classes: Classes = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs to train.  [default: the recipe's]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Photos per training step.  [default: the recipe's]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load photos.  [default: the recipe's]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the validation split and the training.  [default: 0]")] = None,
    gate_folds: GateFolds = None,
    recipe: Recipe = "convnext-tiny",
    set_: Assignments = None,
    templates: Annotated[str, typer.Option(help="Prompt templates: simple, imagenet or a file.")] = "simple",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew, where an unfinished training would go on.")
    ] = False,
    track: Track = None,
    wait: options.Wait = True,
    device: options.Device = "auto",
    pretrained: OldPretrained = None,
    image_size: OldImageSize = None,
) -> None:
    """Train a head on the index's photos and fit the gate."""
    from functools import partial

    from hybrid.cli import show
    from hybrid.cli.load import absolute, read_names
    from hybrid.device import resolve
    from hybrid.encoders import load_encoder
    from hybrid.heads.recipes import load_recipe
    from hybrid.heads.registry import check_packages
    from hybrid.heads.training.distributed import is_main_process
    from hybrid.run.files import Layout, read_run
    from hybrid.run.train import train_run

    flags: dict[str, object] = {"kind": head, "backbone": backbone, "backbone_weights": absolute(backbone_weights)}
    flags |= {"epochs": epochs, "batch_size": batch_size, "workers": workers, "seed": seed, "gate_folds": gate_folds}
    say = show.note if is_main_process() else _silent
    old = {"pretrained": pretrained, "image_size": image_size}
    settings = load_recipe(recipe, set_ or (), flags | _warn_of_old(old, say))
    check_packages(settings)
    layout = Layout(run)
    made = read_run(layout)
    encoder = load_encoder(made.encoder, device, index=made.encoder_fingerprint)
    for line in encoder.notes:
        say(line)
    limit_to = read_names(classes) if classes else None
    compute = resolve(device)
    with show.training_progress(is_main_process()) as on_step:
        how = partial(train_run, limit_to=limit_to, templates=templates, fresh=fresh, wait=wait, track=track)
        info = how(layout, encoder, settings, compute, say=say, on_step=on_step)
    if info is not None:  # otherwise another process of the same launch has the last word
        _tell(layout, info)


def _tell(layout: Layout, info: HeadInfo) -> None:
    from hybrid.cli import show
    from hybrid.run.files import HeadFiles

    curves, log = layout.head / HeadFiles.CURVES, layout.head / HeadFiles.LOG
    drawn = f"; curves in {curves}" if curves.is_file() else ""
    show.result(f"head with {len(info.classes)} classes in {layout.head}{drawn}")
    show.note(*([f"every epoch: {log}"] if log.is_file() else []), *_next(layout.root))


def _next(run: Path) -> list[str]:
    """What to do with a trained head."""
    flag = "" if run == options.DEFAULT_RUN else f" --run {shlex.quote(str(run))}"
    return [
        f"next: hybrid evaluate PHOTOS{flag}    measure it on labeled photos that it has not seen",
        f"      hybrid predict PHOTOS{flag} --prompts NAMES    classify photos, over classes that are only named too",
    ]


def _warn_of_old(flags: dict[str, bool | int | None], say: Callable[[str], None]) -> dict[str, bool | int]:
    """The flags that were given, each with a warning that says what to write instead."""
    given = {key: value for key, value in flags.items() if value is not None}
    for key, value in given.items():
        flag = f"--{key.replace('_', '-')}" if value is not False else f"--no-{key}"
        say(f"WARNING: {flag} will be removed; write --set {key}={str(value).lower()}")
    return given


def _silent(line: str) -> None:
    """One voice is enough where several processes train together."""
