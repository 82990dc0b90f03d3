"""Few-shot classification on cached vectors: the published methods and the product's default expert side by side.

Real CLIP vectors of Caltech-101, the 70 classes with a text vector:

    HYBRID_DATA=DATA python -m benchmarks.few_shot --shots 1,2,4,8,16 --seeds 0,1,2 --json few_shot.json

The format of the file: benchmarks/kit/vectors.py. Classes without a text vector are left out. For each seed and each K,
K train images of each class (all it has where it has fewer) are drawn by numpy's default_rng(seed) without replacement;
the images of a smaller K are among those of a larger one. Every method learns from the same images and the classes'
texts, at fixed hyper-parameters; the score is mean per-class accuracy on the test images. The val images are not used.
Then the whole product: a head that was trained on three quarters of the classes, the others named or shown by K images
(three_way.py). In the JSON, "methods" holds the mean over seeds by K, "per_seed" each seed's, "hybrid" is the product's
default expert; "three_way" holds the product's figures by K, "0" being names alone.

Figures it gave: docs/results/few-shot.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.few_shot import three_way as three_ways
from benchmarks.few_shot.peers import EXPERTS, make_expert
from benchmarks.few_shot.scene import Scene, cut, draw
from benchmarks.kit import arguments as shared
from benchmarks.kit.output import mean, table, write_json
from benchmarks.kit.vectors import Data, read
from hybrid.errors import DataError, GateError, HeadError, HybridError
from hybrid.evaluation.metrics import mean_per_class_accuracy

# Name in the table: name of the expert. The product's default expert stands last, as "hybrid".
DEFAULT = "posterior"
# mean-cache is for label spaces in which some classes have no image; here all have.
METHODS = {name: name for name in EXPERTS if name not in (DEFAULT, "mean-cache")} | {"hybrid": DEFAULT}

# Accuracy by method, then by K as text.
Scores = dict[str, dict[str, float]]


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
    write_json(options.json, summary)
    show(summary)


def three_way(data: Data, shots: Sequence[int], seeds: Sequence[int]) -> dict[str, Any] | None:
    """Run the three ways; None, with a word, on a file that they cannot be run on."""
    try:
        return three_ways.measure(data, shots, seeds)
    except (DataError, GateError, HeadError) as error:
        Console(stderr=True).print(f"three ways not measured: {error}", markup=False)
        return None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = shared.parser(__doc__, "benchmarks.few_shot")
    shared.add_vectors(options)
    options.add_argument("--shots", type=_shots, default=[1, 2, 4, 8, 16], metavar="1,2,4,8,16")
    shared.add_seeds(options, [0, 1, 2])
    shared.add_json(options)
    return options.parse_args(arguments)


def _shots(text: str) -> list[int]:
    return shared.distinct(text, "photos per class, each number once and above 0", 1)


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
        "methods": mean(list(results.values())),
        "per_seed": {str(seed): scores for seed, scores in results.items()},
    }


def show(summary: dict[str, Any]) -> None:
    """One row a method, one column a K; then the three ways."""
    seeds = ", ".join(map(str, summary["seeds"]))
    console = Console(width=150)
    where = f"{escape(summary['file'])}: {summary['classes']['with_text']} classes; mean of seeds {seeds}"
    console.print(where, soft_wrap=True)
    caption = "mean per-class accuracy by photos per class; * best in its column"
    console.print(table(summary["methods"], first="method", caption=caption))
    if summary["three_way"] is not None:
        console.print(_three_way_table(summary["three_way"]))


def _three_way_table(found: dict[str, Any]) -> Table:
    made = Table("unseen classes", title="trained, named, shown: harmonic mean (seen / unseen) by photos per class")
    first = next(iter(found["ways"].values()))
    for count in first["harmonic_mean"]:
        made.add_column("names" if count == "0" else count, justify="right")
    for way, row in found["ways"].items():
        cells = []
        for count in first["harmonic_mean"]:
            value, seen, unseen = (row[figure].get(count) for figure in ("harmonic_mean", "seen", "unseen"))
            cells.append("" if value is None else f"{value:.4f} ({seen:.3f} / {unseen:.3f})")
        made.add_row(way, *cells)
    return made


if __name__ == "__main__":
    main()
