"""`hybrid train-head`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybrid.cli import options

Backbone = Annotated[str | None, typer.Option(help="timm model.  [default: convnext_tiny]")]
Weights = Annotated[
    Path | None,
    typer.Option(help="Local weights of the backbone (safetensors, or torch with plain tensors)."),
]
FromTimm = Annotated[
    bool | None,
    typer.Option("--pretrained/--no-pretrained", help="timm's pretrained weights.  [default: pretrained]"),
]
Classes = Annotated[Path | None, typer.Option(help="File of the seen classes, one a line.  [default: every label]")]
Kind = Annotated[
    str | None, typer.Option(help="backbone (a fine-tuned timm network) or linear (on the CLIP embeddings).")
]
SETTING_NAMES = (
    "unfreeze, hidden, dropout, label_smoothing, learning_rate, backbone_rate, weight_decay, schedule, "
    "warmup_epochs, balanced_sampling, crop_scale, flip, rotation, colour_jitter, mixed_precision, patience, monitor, "
    "val_fraction, freeze_norms, mean, std, crop_pct, backbone_args, l2_c, workers"
)
GateFolds = Annotated[
    str | None,
    typer.Option(
        help="What the gate's fit asks for the head's doubt: memory (nothing), frozen (heads on frozen features) or "
        "fine-tuned (the recipe again, five times).  [default: memory]"
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help=f"Any setting of the recipe, repeatable: {SETTING_NAMES}."),
]


def train_head(
    run: options.Run = options.DEFAULT_RUN,
    head: Kind = None,
    backbone: Backbone = None,
    backbone_weights: Weights = None,
    pretrained: FromTimm = None,
    classes: Classes = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many.  [default: 20]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="[default: 32]")] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels.  [default: 224]")] = None,
    seed: Annotated[int | None, typer.Option(help="[default: 0]")] = None,
    gate_folds: GateFolds = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    set_: Assignments = None,
    templates: Annotated[str, typer.Option(help="Prompt templates: simple, imagenet or a file.")] = "simple",
    device: options.Device = "auto",
) -> None:
    """Train a head on the index's labelled photos, calibrate it and fit the gate."""
    from hybrid.artifact import HeadFiles, Layout, read_run
    from hybrid.cli import show
    from hybrid.cli.settings import read_names
    from hybrid.config import HeadSettings, load_settings
    from hybrid.device import resolve
    from hybrid.encoders import load_encoder
    from hybrid.encoders.base import expand_user
    from hybrid.training import train_run

    flags = {
        "kind": head,
        "backbone": backbone,
        "backbone_weights": str(expand_user(str(backbone_weights)).absolute()) if backbone_weights else None,
        "pretrained": pretrained,
        "epochs": epochs,
        "batch_size": batch_size,
        "image_size": image_size,
        "seed": seed,
        "gate_folds": gate_folds,
    }
    settings = load_settings(HeadSettings, recipe, set_ or (), flags)
    limit_to = read_names(classes) if classes else None
    layout = Layout(run)
    encoder = load_encoder(read_run(layout).encoder, device)
    for line in encoder.notes:
        show.note(line)
    info = train_run(
        layout,
        encoder,
        settings,
        resolve(device),
        limit_to=limit_to,
        templates=templates,
        say=show.note,
    )
    curves = layout.head / HeadFiles.CURVES
    drawn = f"; curves in {curves}" if curves.is_file() else ""
    show.stdout().print(f"head with {len(info.classes)} classes in {layout.head}{drawn}", soft_wrap=True)
