"""Few-shot classification on cached vectors: the published methods and the product's default expert side by side.

Real CLIP vectors of Caltech-101, the 70 classes with a text vector:

    python benchmarks/few_shot.py --embeddings ../shared/data/caltech101/gzsl.npz --shots 1,2,4,8,16 \
        --seeds 0,1,2 --json few_shot.json

FILE.npz is of the format of benchmarks/gzsl.py. Classes without a text vector are left out. For each seed and each K,
K train images of each class (all it has where it has fewer) are drawn by numpy's default_rng(seed) without
replacement; the images of a smaller K are among those of a larger one. Every method learns from the same images and
the classes' texts, at fixed hyper-parameters; the score is mean per-class accuracy on the test images. The val images
are not used. Then the whole product: a head that was trained on three quarters of the classes, the others named or
shown by K images (benchmarks/few_shot_three_way.py). In the JSON, "methods" holds the mean over seeds by K, "per_seed"
each seed's, "hybrid" is the product's default expert; "three_way" holds the product's figures by K, "0" being names
alone.

Figures it gave: benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import few_shot_three_way
import numpy as np
from few_shot_draw import draw
from few_shot_experts import EXPERTS, make_expert
from gzsl import Data, parse_seeds, read
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from threadpoolctl import threadpool_limits

from hybrid.errors import DataError, GateError, HeadError, HybridError, listing
from hybrid.evaluation.metrics import mean_per_class_accuracy
from hybrid.gate.gaussians import LabeledEmbeddings

# Name in the table: name of the expert. The product's default expert stands last, as "hybrid".
DEFAULT = "posterior"
# mean-cache is for label spaces in which some classes have no image; here all have.
METHODS = {name: name for name in EXPERTS if name not in (DEFAULT, "mean-cache")} | {"hybrid": DEFAULT}

# Accuracy by method, then by K as text.
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Scene:
    """The classes with a text vector, in order, and the images of them with indices in that order."""

    classes: tuple[int, ...]
    texts: NDArray[np.float32]
    train: LabeledEmbeddings
    test: LabeledEmbeddings
    logit_scale: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, run every seed, print the table, write the JSON."""
    options = parse(arguments)
    try:
        data = read(options.embeddings)
        # Matrices this small lose to BLAS threads that wait for each other, and one thread sums in one order.
        with threadpool_limits(1):
            summary = {"file": str(options.embeddings), **measure(data, options.shots, options.seeds)}
            summary["three_way"] = three_way(data, options.shots, options.seeds)
    except HybridError as error:
        sys.exit(str(error))
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    show(summary)


def three_way(data: Data, shots: Sequence[int], seeds: Sequence[int]) -> dict[str, Any] | None:
    """Run benchmarks/few_shot_three_way.py; None, with a word, on a file that it cannot be run on."""
    try:
        return few_shot_three_way.measure(data, shots, seeds)
    except (DataError, GateError, HeadError) as error:
        Console(stderr=True).print(f"three ways not measured: {error}", markup=False)
        return None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--shots", type=parse_shots, default=[1, 2, 4, 8, 16], metavar="1,2,4,8,16")
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2], metavar="0,1,2")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    return options


def parse_shots(text: str) -> list[int]:
    shots = [int(part) for part in text.split(",")]
    if len(set(shots)) < len(shots) or min(shots) < 1:
        raise argparse.ArgumentTypeError(f"photos a class, each number once and above 0, not {text}")
    return shots


def cut(data: Data) -> Scene:
    """Keep the classes with a text vector."""
    classes = data.named
    position = np.full(len(data.names), -1, np.intp)
    position[classes] = np.arange(len(classes))

    def keep(split: str) -> LabeledEmbeddings:
        images = data.images[split]
        rows = position[images.target] >= 0
        return LabeledEmbeddings(images.embeddings[rows], position[images.target[rows]])

    train, test = keep("train"), keep("test")
    if not len(train) or not len(test):
        raise DataError("too few photos of classes with a text vector", got=f"{len(train)} train, {len(test)} test")
    if lacking := sorted(set(range(len(classes))) - set(train.target.tolist())):
        names = listing([data.names[classes[index]] for index in lacking])
        Console(stderr=True).print(f"no train photo, known by text alone: {names}", markup=False)
    return Scene(tuple(classes), data.texts[classes], train, test, data.logit_scale)


def run_seed(scene: Scene, shots: Sequence[int], seed: int) -> Scores:
    """Fit and score every method at every K, all on the same images."""
    scores: Scores = {method: {} for method in METHODS}
    for count in shots:
        rows = draw(scene.train.target, len(scene.classes), count, seed)
        embeddings, labels = scene.train.embeddings[rows], scene.train.target[rows]
        for method, name in METHODS.items():
            expert = make_expert(name, scene.logit_scale).fit(embeddings, labels, scene.texts)
            predicted = expert.logits(scene.test.embeddings).argmax(axis=1)
            accuracy = mean_per_class_accuracy(predicted, scene.test.target, range(len(scene.classes)))
            # Not None: `cut` saw to it that there are test images.
            scores[method][str(count)] = cast(float, accuracy)
    return scores


def measure(data: Data, shots: Sequence[int], seeds: Sequence[int]) -> dict[str, Any]:
    """Run every seed; what is written beside the file's name."""
    scene = cut(data)
    results = {seed: run_seed(scene, shots, seed) for seed in seeds}
    return {
        "model": data.model,
        "shots": list(shots),
        "seeds": list(seeds),
        "classes": {"in_file": len(data.names), "with_text": len(scene.classes)},
        "photos": {"train": len(scene.train), "test": len(scene.test)},
        "methods": {
            method: {k: statistics.fmean(scores[method][k] for scores in results.values()) for k in map(str, shots)}
            for method in METHODS
        },
        "per_seed": {str(seed): scores for seed, scores in results.items()},
    }


def show(summary: dict[str, Any]) -> None:
    """One row a method, one column a K, the best of each marked."""
    seeds = ", ".join(map(str, summary["seeds"]))
    title = f"{escape(summary['file'])}: {summary['classes']['with_text']} classes; mean of seeds {seeds}"
    table = Table("method", caption="mean per-class accuracy by photos a class; * best in its column")
    best = {}
    for count in summary["shots"]:
        table.add_column(str(count), justify="right")
        best[str(count)] = max(row[str(count)] for row in summary["methods"].values())
    for method, row in summary["methods"].items():
        cells = (f"[bold]{v:.4f}*[/bold]" if v == best[count] else f"{v:.4f} " for count, v in row.items())
        table.add_row(method, *cells)
    console = Console(width=150)
    console.print(title, soft_wrap=True)
    console.print(table)
    if summary["three_way"] is not None:
        console.print(_three_way_table(summary["three_way"]))


def _three_way_table(found: dict[str, Any]) -> Table:
    table = Table("unseen classes", title="trained, named, shown: harmonic mean (seen / unseen) by photos a class")
    first = next(iter(found["ways"].values()))
    for count in first["harmonic_mean"]:
        table.add_column("names" if count == "0" else count, justify="right")
    for way, row in found["ways"].items():
        cells = []
        for count in first["harmonic_mean"]:
            value, seen, unseen = (row[figure].get(count) for figure in ("harmonic_mean", "seen", "unseen"))
            cells.append("" if value is None else f"{value:.4f} ({seen:.3f} / {unseen:.3f})")
        table.add_row(way, *cells)
    return table


if __name__ == "__main__":
    main()
