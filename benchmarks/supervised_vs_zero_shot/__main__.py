"""Supervised, zero-shot and hybrid on real images, through the commands a user types.

Caltech-101, 53 seen and 17 unseen classes, three splits, real CLIP vectors, real MobileNetV2 weights:

    HYBRID_DATA=DATA python -m benchmarks.supervised_vs_zero_shot --json caltech.json

Any other class folders, shards or manifests, any encoder; what follows `--` goes to `hybrid train-head`:

    python -m benchmarks.supervised_vs_zero_shot --train images/train --test images/test \
        --prompts animals --seen seen.txt --encoder ViT-B-32-256 -- --backbone convnext_tiny

Figures it gave: docs/results/systems.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.kit import arguments as shared
from benchmarks.kit.commands import hybrid
from benchmarks.kit.output import mean, write_json

RECIPE = Path(__file__).parents[1] / "recipes" / "mobilenetv2.toml"
FIGURES = (
    *("accuracy", "seen", "unseen", "harmonic_mean", "ausuc", "gate_auroc"),
    *("ece", "ece_seen", "ece_unseen", "ece_debiased", "nll"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the index once; for each split train, evaluate; print and write the mean."""
    options = with_caltech_defaults(parse(sys.argv[1:] if arguments is None else arguments))
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        run = ["--run", str(options.run or Path(scratch) / "run")]
        hybrid("build-index", *options.train, "--encoder", options.encoder, *run)
        for seen in options.seen or [None]:
            start = time.perf_counter()
            hybrid("train-head", *(["--classes", seen] if seen else []), *options.train_head, *run)
            seconds = time.perf_counter() - start
            report = Path(scratch) / "evaluation.json"
            prompts = ["--prompts", options.prompts] if options.prompts else []
            hybrid("evaluate", *options.test, *prompts, "--json", str(report), *run)
            results.append({"seen_file": seen, "train_seconds": seconds, **json.loads(report.read_text())})
    summary = {"mean": means(results), "splits": results}
    write_json(options.json, summary)
    show(summary)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    own, rest = shared.cut(arguments)
    parser = shared.parser(__doc__, "benchmarks.supervised_vs_zero_shot")
    parser.add_argument("--train", action="append", default=[], metavar="SOURCE")
    parser.add_argument("--test", action="append", default=[], metavar="SOURCE")
    parser.add_argument("--prompts")
    parser.add_argument(
        "--seen", action="append", default=[], metavar="FILE", help="file of seen classes, one for each split"
    )
    parser.add_argument("--encoder", default="ViT-B-32-256")
    parser.add_argument("--run", help="keep the run in this folder")
    shared.add_json(parser)
    return argparse.Namespace(**vars(parser.parse_args(own)), train_head=rest)


def with_caltech_defaults(options: argparse.Namespace) -> argparse.Namespace:
    if options.train:
        return options
    data = shared.data_folder()
    if data is None:
        sys.exit("give --train and --test, or set HYBRID_DATA to the folder with caltech101/ and backbones/")
    caltech = data / "caltech101"
    weights = data / "backbones" / "mobilenetv2_100.safetensors"
    options.train = [str(caltech / "train"), str(caltech / "val")]
    options.test = [str(caltech / "test")]
    options.prompts = str(caltech / "prompts.txt")
    options.seen = options.seen or [str(caltech / "splits" / str(i) / "seen.txt") for i in range(3)]
    options.encoder = f"precomputed:{caltech / 'embeddings.npz'}"
    options.train_head = ["--recipe", str(RECIPE), "--backbone-weights", str(weights), *options.train_head]
    return options


def means(results: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Each figure's mean over the splits; None where a split lacks it."""
    found = {}
    for system in ("supervised", "zero_shot", "hybrid"):
        scores = [result["systems"][system] for result in results if result["systems"][system]]
        if scores:
            found[system] = mean([{name: score[name] for name in FIGURES} for score in scores])
    return found


def show(summary: dict[str, Any]) -> None:
    """One row a system, the mean over the splits."""
    table = Table("system", *FIGURES, title=f"mean of {len(summary['splits'])} splits")
    for system, scores in summary["mean"].items():
        table.add_row(system, *("-" if scores[name] is None else f"{scores[name]:.3f}" for name in FIGURES))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
