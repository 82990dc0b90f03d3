"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
BatchSize = Annotated[int, typer.Option(min=1, help="Photos that go through a model at once.")]
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
