"""How far "none of these" and prediction sets can be trusted: the product's beside the published methods.

Real CLIP vectors of Caltech-101; the images of its 30 classes without a text vector are the unknown ones:

    HYBRID_DATA=DATA python -m benchmarks.open_set --unseen-fraction 0.25 --seeds 0,1,2 --json open_set.json

The format of the file and the rule of the splits: benchmarks/kit/vectors.py. Known images are the test images of the
seen and unseen classes; unknown ones those of classes without a text vector, which no head, prompt or labeled image
met. Where every class has one, `--unknown-share 0.33` takes it from a third of the classes, another third for each
seed.

NegLabel needs texts of things that are no class. `--negatives NAMES.npz` gives them (arrays text (m,) and
text_embedding (m, d); name_vectors.py writes them with any encoder). Without it a second table compares all scores once
more where `--negative-share` of the named classes lend their texts as negatives: they leave the label space, and their
images are in no group.

The bundled synthetic dataset:

    python -m benchmarks.kit.world_vectors --out world.npz
    python -m benchmarks.open_set.name_vectors drawable-animals --out animals.npz
    python -m benchmarks.open_set --embeddings world.npz --unknown-share 0.33 --negatives animals.npz

Classes that are hard to tell apart: `--nearest 40` keeps the 40 whose text vectors lie nearest to another one's, and no
image of any other class.

Figures it gave: docs/results/open-set.md.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from threadpoolctl import threadpool_limits

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import Rows, mean, table, write_json
from benchmarks.kit.vectors import Data, cut, read
from benchmarks.open_set.measure import Fitted, detection, fit, prediction_sets, promises
from benchmarks.open_set.name_vectors import Names, read_names
from hybrid.errors import DataError, HybridError
from hybrid.gate.gaussians import LabeledEmbeddings
from hybrid.labels.names import class_key

NOTES = (
    "Sets are guaranteed for photos exchangeable with the validation photos of seen classes; nothing is guaranteed for "
    "photos of unseen classes.",
    "The validation photos that calibrate sets and thresholds also fitted the gate's and the rejector's about fifteen "
    "weights and chose the head's C, so the guarantee of split conformal prediction holds only nearly.",
    "max_false_accept is calibrated on held-out seen classes that play unknown ones: it holds as far as the real "
    "unknown photos resemble them.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, run every seed, print the tables, write the JSON."""
    options = parse(arguments)
    try:
        data = read(options.embeddings)
        data = nearest(data, options.nearest) if options.nearest else data
        negatives = read_names(options.negatives, data.texts.shape[1]) if options.negatives else None
        with threadpool_limits(1):
            results = [run_seed(data, options, negatives, seed) for seed in options.seeds]
    except HybridError as error:
        sys.exit(str(error))
    summary = summarize(options, data, results)
    write_json(options.json, summary)
    show(summary)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = shared.parser(__doc__, "benchmarks.open_set")
    shared.add_vectors(options)
    options.add_argument("--unseen-fraction", type=shared.share, default=0.25, metavar="SHARE")
    options.add_argument("--unknown-share", type=shared.share_or_none, default=0.0, metavar="SHARE")
    shared.add_seeds(options, [0, 1, 2])
    options.add_argument("--nearest", type=int, default=0, metavar="CLASSES", help="the most similar classes alone")
    options.add_argument("--negatives", type=Path, metavar="NAMES.npz")
    options.add_argument(
        "--negative-share", type=shared.share_or_none, default=0.4, metavar="SHARE", help="0: no second table"
    )
    shared.add_json(options)
    return options.parse_args(arguments)


def without_text(data: Data, classes: Sequence[int]) -> Data:
    """Take the text vectors from some classes."""
    texts = data.texts.copy()
    texts[list(classes)] = np.nan
    return replace(data, texts=texts)


def nearest(data: Data, count: int) -> Data:
    """Keep the classes of the most similar pairs of texts, `count` in all, and no image of another one."""
    texts = data.texts[data.named]
    cosines = np.where(np.triu(np.ones((len(texts), len(texts)), np.bool_), 1), texts @ texts.T, -np.inf)
    pairs = np.stack(np.unravel_index(np.argsort(-cosines, axis=None, kind="stable"), cosines.shape), axis=1)
    kept = sorted(data.named[c] for c in list(dict.fromkeys(pairs.ravel().tolist()))[:count])

    def of_kept(part: LabeledEmbeddings) -> LabeledEmbeddings:
        part = part[np.isin(part.target, kept)]
        return replace(part, target=np.searchsorted(kept, part.target))

    names = tuple(data.names[c] for c in kept)
    images = {name: of_kept(part) for name, part in data.images.items()}
    return replace(data, names=names, texts=data.texts[kept], images=images)


def choose(classes: Sequence[int], share: float, seed: str) -> list[int]:
    """Choose int(n * share) classes at random."""
    shuffled = list(classes)
    random.Random(seed).shuffle(shuffled)
    return sorted(shuffled[: int(len(shuffled) * share)])


def run_seed(data: Data, options: argparse.Namespace, negatives: Names | None, seed: int) -> dict[str, Any]:
    """Fit once in the whole label space, and once more in one that lends a part of its texts as negatives."""
    data = without_text(data, choose(data.named, options.unknown_share, f"unknown {seed}"))
    test = data.images["test"]
    unknown = test.embeddings[~np.isin(test.target, data.named)]
    if not len(unknown):
        raise DataError(
            "no photo is unknown",
            expected="test photos of classes without a text vector",
            got="a text vector for each",
            fix="--unknown-share 0.33",
        )
    fitted = fit(cut(data, options.unseen_fraction, seed))
    named = [data.names[c] for c in (*fitted.split.seen, *fitted.split.unseen)]
    others = None if negatives is None else negatives.without(named)
    result: dict[str, Any] = {
        "classes": _classes(fitted, data),
        "photos": {
            "calibration": len(fitted.calibration_set.target),
            "known": len(fitted.split.test),
            "unknown": len(unknown),
        },
        "detection": detection(fitted, unknown, others),
        "promises": promises(fitted, unknown),
        "sets": prediction_sets(fitted),
    }
    if others is not None:
        keys = {class_key(name) for name in others.names}
        unnamed = [name for i, name in enumerate(data.names) if i not in data.named]
        result["negatives"] = {
            "texts": len(others.names),
            "same_name_as_a_class_left_out": len(negatives.names) - len(others.names) if negatives else 0,
            "unknown_classes_named": sum(class_key(name) in keys for name in unnamed),
        }
    elif options.negative_share:
        result["held_out_names"] = with_held_out_names(data, options, unknown, seed)
    return result


def with_held_out_names(
    data: Data, options: argparse.Namespace, unknown: NDArray[np.float32], seed: int
) -> dict[str, Any]:
    """Compare all scores where a share of the named classes is left out and lends its texts as negatives."""
    lent = choose(data.named, options.negative_share, f"negatives {seed}")
    if not lent:
        raise DataError("no class lends its text as a negative", fix="a larger --negative-share, or 0 to go without")
    fitted = fit(cut(without_text(data, lent), options.unseen_fraction, seed))
    negatives = Names(tuple(data.names[c] for c in lent), data.texts[lent])
    return {
        "classes": {**_classes(fitted, data), "lent": len(lent)},
        "detection": detection(fitted, unknown, negatives),
    }


def _classes(fitted: Fitted, data: Data) -> dict[str, int]:
    unknown = len(data.names) - len(data.named)
    return {"seen": len(fitted.split.seen), "unseen": len(fitted.split.unseen), "unknown": unknown}


def summarize(options: argparse.Namespace, data: Data, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and every seed."""
    return {
        "file": str(options.embeddings),
        "model": data.model,
        "unseen_fraction": options.unseen_fraction,
        "unknown_share": options.unknown_share,
        "nearest": options.nearest,
        "negatives": None if options.negatives is None else str(options.negatives),
        "seeds": options.seeds,
        "notes": list(NOTES),
        "mean": mean(results),
        "per_seed": {str(seed): result for seed, result in zip(options.seeds, results, strict=True)},
    }


def show(summary: dict[str, Any]) -> None:
    """Print the tables, the best of each column marked."""
    console = Console(width=130)
    found = summary["mean"]
    classes = ", ".join(f"{count:g} {group}" for group, count in found["classes"].items())
    where = f"{escape(summary['file'])}: {classes} classes; mean of seeds {', '.join(map(str, summary['seeds']))}"
    _print(console, found["detection"], f"Known or unknown. {where}", marked=True)
    if given := found.get("negatives"):
        console.print(
            f"Negatives: {given['texts']:g} texts of {escape(summary['negatives'])}, "
            f"{given['same_name_as_a_class_left_out']:g} left out as names of classes; "
            f"{given['unknown_classes_named']:g} unknown classes are among them."
        )
    if given := found.get("held_out_names"):
        count = given["classes"]
        title = f"The same in a smaller label space: {count['seen']:g} seen, {count['unseen']:g} unseen classes"
        lent = f"{count['lent']:g} named classes are no classes here and lend their texts as negatives"
        _print(console, given["detection"], f"{title}; {lent}", marked=True)
    _print(console, found["promises"], "Share of photos that are not answered with none of these")
    for coverage, rows in found["sets"].items():
        _print(console, rows, f"Prediction sets, coverage {coverage} asked for")
    for note in summary["notes"]:
        console.print(f"- {note}")


def _print(console: Console, rows: Rows, title: str, *, marked: bool = False) -> None:
    console.print(f"\n{title}")
    console.print(table(rows, ("fpr95",), 3, marked=marked))


if __name__ == "__main__":
    main()
