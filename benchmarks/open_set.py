"""How far "none of these" and prediction sets can be trusted: the product's beside the published methods.

Real CLIP vectors of Caltech-101; the images of its 30 classes without a text vector are the unknown ones:

    python benchmarks/open_set.py --embeddings ../shared/data/caltech101/gzsl.npz --unseen-fraction 0.25 \
        --seeds 0,1,2 --json open_set.json

The format of FILE.npz and the rule of the splits: benchmarks/gzsl.py. Known images are the test images of the seen and
unseen classes; unknown ones those of classes without a text vector, which no head, prompt or labeled image met. Where
every class has one, `--unknown-share 0.33` takes it from a third of the classes, another third a seed.

NegLabel needs texts of things that are no class. `--negatives NAMES.npz` gives them (arrays text (m,) and
text_embedding (m, d); benchmarks/name_vectors.py writes them with any encoder). Without it a second table compares all
scores once more where `--negative-share` of the named classes lend their texts as negatives: they leave the label
space, and their images are in no group.

The bundled synthetic dataset:

    python benchmarks/world_vectors.py --out world.npz
    python benchmarks/name_vectors.py drawable-animals --out animals.npz
    python benchmarks/open_set.py --embeddings world.npz --unknown-share 0.33 --negatives animals.npz

Figures it gave: benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_set_scores as oss
from gzsl import Data, Split, cut, parse_seeds, parse_share, read, train_probe
from name_vectors import Names, read_names
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from threadpoolctl import threadpool_limits

from hybrid.errors import DataError, HybridError
from hybrid.gate.conformal import set_threshold
from hybrid.gate.decide import Decided, Decider, FittedGate
from hybrid.gate.episodes import calibrate, check_enough, class_folds
from hybrid.gate.evidence import Scorer
from hybrid.gate.fit import fit_gate
from hybrid.gate.gate import Gate
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet, Policy, uniform_from_hash
from hybrid.gate.rejection import Rejector, fit_rejector
from hybrid.heads.linear import LinearHead
from hybrid.labels.prompts import class_key

COVERAGES = (0.9, 0.95)
PROMISES = {"reject 0.95": Policy(reject=0.95), "max_false_accept 0.1": Policy(max_false_accept=0.1)}
NOTES = (
    "Sets are guaranteed for photos exchangeable with the validation photos of seen classes; nothing is guaranteed for "
    "photos of unseen classes.",
    "The validation photos that calibrate sets and thresholds also fitted the gate's and the rejector's about fifteen "
    "weights and chose the head's C, so the guarantee of split conformal prediction holds only nearly.",
    "max_false_accept is calibrated on held-out seen classes that play unknown ones: it holds as far as the real "
    "unknown photos resemble them.",
)
Figures = dict[str, dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, run every seed, print the tables, write the JSON."""
    options = parse(arguments)
    try:
        data = read(options.embeddings)
        negatives = read_names(options.negatives, data.texts.shape[1]) if options.negatives else None
        with threadpool_limits(1):
            results = [run_seed(data, options, negatives, seed) for seed in options.seeds]
    except HybridError as error:
        sys.exit(str(error))
    summary = summarize(options, data, results)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    show(summary)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--unseen-fraction", type=parse_share, default=0.25, metavar="SHARE")
    parser.add_argument("--unknown-share", type=_share_or_none, default=0.0, metavar="SHARE")
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2], metavar="0,1,2")
    parser.add_argument("--negatives", type=Path, metavar="NAMES.npz")
    parser.add_argument(
        "--negative-share", type=_share_or_none, default=0.4, metavar="SHARE", help="0: no second table"
    )
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    return options


def _share_or_none(text: str) -> float:
    return 0.0 if text == "0" else parse_share(text)


def without_text(data: Data, classes: Sequence[int]) -> Data:
    """Take the text vectors from some classes."""
    texts = data.texts.copy()
    texts[list(classes)] = np.nan
    return replace(data, texts=texts)


def choose(classes: Sequence[int], share: float, seed: str) -> list[int]:
    """Choose int(n * share) classes at random."""
    shuffled = list(classes)
    random.Random(seed).shuffle(shuffled)  # noqa: S311
    return sorted(shuffled[: int(len(shuffled) * share)])


@dataclass(frozen=True)
class Fitted:
    """One seed's label space and all that was learnt for it, as `hybrid train-head` would."""

    split: Split
    head: LinearHead
    gate: Gate
    gaussians: ClassGaussians
    rejector: Rejector
    calibration_set: CalibrationSet

    def decider(self, policy: Policy) -> Decider:
        """Give the product at an operating point."""
        fitted = FittedGate(self.gate, self.gaussians, self.rejector, self.calibration_set)
        return Decider(fitted, self.split.texts, self.split.logit_scale, policy)

    def ask(self, decider: Decider, images: NDArray[np.float32]) -> Decided:
        """Ask the product."""
        return decider(images, self.head.logits([], images), uniforms(images))


def uniforms(images: NDArray[Any]) -> NDArray[np.float64]:
    """Number in [0, 1) from each vector's bytes; `hybrid` takes the image's, which are not in the file."""
    return np.array([uniform_from_hash(hashlib.sha256(row.tobytes()).hexdigest()) for row in images])


def fit(split: Split) -> Fitted:
    """Train the head and fit gate and rejector, the calls of `hybrid.run.gate.fit_run_gate`."""
    seen = len(split.seen)
    check_enough(seen, len(split.val))
    head = train_probe(split)
    logits = head.logits([], split.val.embeddings)
    found = calibrate(split.train, split.val, split.texts[:seen], split.logit_scale, logits, class_folds(seen))
    gate = fit_gate(found.validation, found.episodes)
    evidence = found.validation.evidence
    kept = CalibrationSet(
        split.val.embeddings,
        logits,
        evidence.gda,
        evidence.ood_score,
        evidence.baseline,
        split.val.target,
        uniforms(split.val.embeddings),
    )
    return Fitted(split, head, gate, found.gaussians, fit_rejector(gate, found.episodes), kept)


def score(fitted: Fitted, images: NDArray[np.float32], negatives: Names | None) -> dict[str, NDArray[np.float64]]:
    """Every score of every image."""
    split = fitted.split
    head = fitted.head.logits([], images)
    cosines = images.astype(np.float64) @ split.texts.astype(np.float64).T
    zero_shot = split.logit_scale * cosines
    evidence = Scorer(fitted.gaussians, split.texts, split.logit_scale)(images, head)
    log_p = fitted.gate.fuse(evidence).log_probabilities
    bank = np.concatenate([split.train.embeddings, split.val.embeddings])
    scores = {
        "head_maximum": oss.maximum_probability(head),
        "zero_shot_maximum": oss.maximum_probability(zero_shot),
        "hybrid_maximum": np.exp(log_p).max(axis=1),
        "hybrid_entropy": oss.negative_entropy(log_p),
        "mcm": oss.mcm(cosines),
        "energy_zero_shot": oss.energy(zero_shot),
        "energy_head": oss.energy(head),
        "knn": oss.neighbor_distance(images, bank),
        "relative_mahalanobis": oss.relative_mahalanobis(images, fitted.gaussians),
    }
    if negatives is not None:
        others = split.logit_scale * images.astype(np.float64) @ negatives.vectors.astype(np.float64).T
        scores["neglabel"] = oss.neglabel(zero_shot, others)
        scores["neglabel_mined"] = oss.neglabel(
            zero_shot, others[:, oss.mine_negatives(negatives.vectors, split.texts)]
        )
    return scores | {"rejector": fitted.rejector.p_known(fitted.gate, evidence)}


def detection(fitted: Fitted, unknown: NDArray[np.float32], negatives: Names | None) -> Figures:
    """AUROC and FPR95 of every score, known images against unknown ones."""
    known, foreign = (score(fitted, x, negatives) for x in (fitted.split.test.embeddings, unknown))
    is_seen = fitted.split.test.target < len(fitted.split.seen)
    return {
        name: {
            "auroc": oss.auroc(known[name], foreign[name]),
            "fpr95": oss.fpr95(known[name], foreign[name]),
            "auroc_seen": oss.auroc(known[name][is_seen], foreign[name]),
            "auroc_unseen": oss.auroc(known[name][~is_seen], foreign[name]),
        }
        for name in known
    }


def promises(fitted: Fitted, unknown: NDArray[np.float32]) -> Figures:
    """Share of the images that are accepted, at the two thresholds that a user may ask for."""
    is_seen = fitted.split.test.target < len(fitted.split.seen)
    rows = {}
    for name, policy in PROMISES.items():
        decider = fitted.decider(policy)
        accept = decider.point.accept_above
        known, foreign = (fitted.ask(decider, x).p_known for x in (fitted.split.test.embeddings, unknown))
        if accept is None or known is None or foreign is None:
            raise AssertionError(f"{policy} gave no threshold")
        passes = known >= accept
        rows[name] = {
            "kept_seen": float(passes[is_seen].mean()),
            "kept_unseen": float(passes[~is_seen].mean()),
            "unknown_accepted": float((foreign >= accept).mean()),
            "threshold": accept,
        }
    return rows


def prediction_sets(fitted: Fitted) -> dict[str, Figures]:
    """Measured coverage and size by coverage asked for and by method, all calibrated on the same images."""
    split, held = fitted.split, fitted.calibration_set
    test, target = split.test.embeddings, split.test.target
    scorer = Scorer(fitted.gaussians, split.texts, split.logit_scale)
    val_p = np.exp(fitted.gate.fuse(held.evidence(scorer)).log_probabilities)
    test_p = np.exp(fitted.gate.fuse(scorer(test, fitted.head.logits([], test))).log_probabilities)
    val_u, test_u = np.asarray(held.uniform, np.float64), uniforms(test)
    found = {}
    for coverage in COVERAGES:
        own = fitted.ask(fitted.decider(Policy(coverage=coverage)), test).sets
        if own is None:
            raise AssertionError("no sets in spite of a coverage")
        rows = {"hybrid": oss.measure_sets(own, target, len(split.seen))}
        for name, method in oss.SETS.items():
            threshold = set_threshold(method(val_p, val_u), held.target, coverage)
            sets = method(test_p, test_u) <= threshold
            rows[name] = oss.measure_sets(sets, target, len(split.seen))
            sets[np.arange(len(sets)), test_p.argmax(axis=1)] = True
            rows[f"{name}_and_likeliest"] = oss.measure_sets(sets, target, len(split.seen))
        found[f"{coverage:g}"] = rows
    return found


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


def mean(values: Sequence[Any]) -> Any:
    """Mean of every number in like dicts."""
    if isinstance(values[0], Mapping):
        return {key: mean([value[key] for value in values]) for key in values[0]}
    return statistics.fmean(values)


def summarize(options: argparse.Namespace, data: Data, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and every seed."""
    return {
        "file": str(options.embeddings),
        "model": data.model,
        "unseen_fraction": options.unseen_fraction,
        "unknown_share": options.unknown_share,
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
    _print(console, found["detection"], f"Known or unknown. {where}", mark_best=True)
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
        _print(console, given["detection"], f"{title}; {lent}", mark_best=True)
    _print(console, found["promises"], "Share of photos that are not answered with none of these")
    for coverage, rows in found["sets"].items():
        _print(console, rows, f"Prediction sets, coverage {coverage} asked for")
    for note in summary["notes"]:
        console.print(f"- {note}")


def _print(console: Console, rows: Figures, title: str, *, mark_best: bool = False) -> None:
    table = Table("")
    columns = list(next(iter(rows.values())))
    best = {}
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
        best[column] = (min if column == "fpr95" else max)(row[column] for row in rows.values())
    for name, row in rows.items():
        stars = ("*" if mark_best and row[column] == best[column] else " " for column in columns)
        table.add_row(name, *(f"{row[c]:.3f}{star}" for c, star in zip(columns, stars, strict=True)))
    console.print(f"\n{title}")
    console.print(table)


if __name__ == "__main__":
    main()
