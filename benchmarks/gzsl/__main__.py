"""Generalized zero-shot classification on cached vectors: the published methods and the product's gate side by side.

Real CLIP vectors of Caltech-101, three splits of 53 seen and 17 unseen classes; then animals of ImageNet:

    HYBRID_DATA=DATA python -m benchmarks.gzsl --unseen-fraction 0.25 --seeds 0,1,2 --json gzsl.json
    python -m benchmarks.gzsl --embeddings DATA/animals/gzsl.npz --json gzsl-animals.json

The format of the file and the rule of the splits: benchmarks/kit/vectors.py. A linear probe learns from the train
images of the seen classes; what it says of their val images calibrates; then it learns these too, and the test images
of all classes are scored. No image of an unseen class is used before that. In the JSON, "methods" holds the peers and
the product at its default operating point, "operating_points" the same fit of the product at others; `--transductive`
adds answers to all test images together.

Figures it gave: docs/results/gate.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from threadpoolctl import threadpool_limits

from benchmarks.gzsl.peers import PEERS, Answer, Opinions, Task, hubness
from benchmarks.kit import arguments as shared
from benchmarks.kit.output import Rows, cell, mean, table, write_json
from benchmarks.kit.product import calibrated, train_fold, train_probe
from benchmarks.kit.vectors import SPLITS, Data, Split, cut, read
from hybrid.errors import DataError, GateError, HybridError
from hybrid.evaluation.metrics import score_system
from hybrid.gate.episodes import check_enough, class_folds
from hybrid.gate.evidence import Scorer, zero_shot_logits
from hybrid.gate.fit import fit_gate
from hybrid.gate.gate import Gate
from hybrid.gate.gaussians import ClassGaussians, LabeledEmbeddings
from hybrid.gate.policy import Policy, choose_point
from hybrid.gate.transduction import transduce
from hybrid.heads.base import Head
from hybrid.heads.linear import LinearHead, without_validation

# How the product can be asked; the first is its default.
POINTS = {"equal": Policy(), "half": Policy(balance="half"), "natural": Policy(balance="natural")}
# Asked for with --transductive; the first as the product does it by default.
TOGETHER = {
    "transductive": Policy(transductive=True),
    "transductive, equal": Policy(transductive=True, balance="equal"),
}
LOWER = ("ece", "ece_seen", "ece_unseen", "ece_debiased", "nll", "brier")
FIGURES = ("harmonic_mean", "ausuc", *LOWER, "gate_auroc", "seen", "unseen")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, run every seed, print the table, write the JSON."""
    options = parse(arguments)
    try:
        data = read(options.embeddings)
        # Matrices this small lose to BLAS threads that wait for each other, and one thread sums in one order.
        with threadpool_limits(1):
            results = [run_seed(data, options.unseen_fraction, seed, points_of(options)) for seed in options.seeds]
    except HybridError as error:
        sys.exit(str(error))
    summary = summarize(options, data, results)
    write_json(options.json, summary)
    show(summary, statistics.fmean(result.gate_seconds for result in results))


def points_of(options: argparse.Namespace) -> dict[str, Policy]:
    """The operating points to measure."""
    return POINTS | TOGETHER if options.transductive else POINTS


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = shared.parser(__doc__, "benchmarks.gzsl")
    shared.add_vectors(options)
    options.add_argument("--unseen-fraction", type=shared.share, default=0.25, metavar="SHARE")
    shared.add_seeds(options, [0, 1, 2])
    options.add_argument("--transductive", action="store_true", help="classify the test photos together, too")
    shared.add_json(options)
    return options.parse_args(arguments)


def build_task(split: Split, head: LinearHead) -> Task:
    """Gather both experts' opinions of the validation images, of every episode, and of the test images."""

    def opinions(images: LabeledEmbeddings, probe: Head, order: Sequence[int]) -> Opinions:
        seen = len(probe.classes)
        position = np.argsort(order)
        store = split.train.embeddings[position[split.train.target] < seen]
        texts = split.texts[order]
        return Opinions(
            probe.logits([], images.embeddings).astype(np.float64),
            zero_shot_logits(images.embeddings, texts, split.logit_scale).astype(np.float64),
            hubness(texts, store, split.logit_scale),
            position[images.target],
        )

    seen = list(range(len(split.seen)))
    episodes = []
    for held in class_folds(len(seen)):
        kept = [c for c in seen if c not in held]
        played = np.isin(split.val.target, held)
        if played.any() and not played.all():
            episodes.append(opinions(split.val, train_fold(split, kept, head.c), [*kept, *held]))
    if not episodes:
        raise DataError("val photos of too few classes", expected="some in two folds", got=f"{len(split.val)} photos")
    test = opinions(split.test, head, list(range(len(split.texts))))
    return Task(opinions(split.val, without_validation(head), seen), tuple(episodes), test)


def product(split: Split, head: LinearHead, points: dict[str, Policy]) -> tuple[dict[str, Answer], float]:
    """Fit and ask the product's gate as `hybrid` does; an answer by operating point, and seconds an image of gating."""
    seen, gate = len(split.seen), Gate()
    try:
        check_enough(seen, len(split.val))
    except GateError as error:
        Console(stderr=True).print(f"hybrid falls back to its prior: {error.what}, {error.got}")
        both = np.concatenate([split.train.embeddings, split.val.embeddings])
        gaussians = ClassGaussians.fit(both, np.concatenate([split.train.target, split.val.target]), seen)
    else:
        found = calibrated(split, head)
        gate, gaussians = fit_gate(found.validation, found.episodes), found.gaussians
    scorer = Scorer(gaussians, split.texts, split.logit_scale)
    logits = head.logits([], split.test.embeddings)
    answers, seconds = {}, []
    for name, policy in points.items():
        point = choose_point(policy, gate, scorer)
        start = time.perf_counter()
        fused = gate.fuse(scorer(split.test.embeddings, logits), point.log_odds)
        seconds.append(time.perf_counter() - start)
        if policy.transductive:
            together = transduce(fused.log_probabilities, split.test.embeddings, scorer.class_sums())
            fused = fused.moved(together, seen)
        answers[name] = (fused.log_probabilities, fused.p_unseen)
    return answers, min(seconds) / len(split.test)


@dataclass(frozen=True)
class Result:
    """One seed's figures by method and by further operating point, and what stands beside them in the JSON."""

    seed: int
    methods: Rows
    operating_points: Rows
    facts: dict[str, Any]
    gate_seconds: float


def run_seed(data: Data, fraction: float, seed: int, points: dict[str, Policy]) -> Result:
    split = cut(data, fraction, seed)
    head = train_probe(split)
    task = build_task(split, head)
    answers = {name: method(task) for name, method in PEERS.items()}
    asked, seconds = product(split, head, points)
    answers["hybrid"] = asked.pop("equal")
    unseen = np.arange(len(split.texts)) >= len(split.seen)

    def score(found: dict[str, Answer]) -> Rows:
        figures = {}
        for name, (log_p, p_unseen) in found.items():
            scores = score_system(np.exp(log_p), split.test.target, unseen, p_unseen=p_unseen, images_per_second=None)
            figures[name] = {figure: getattr(scores, figure) for figure in FIGURES}
        return figures

    facts = {
        "classes": {"seen": len(split.seen), "unseen": len(split.unseen)},
        "photos": {name: len(getattr(split, name)) for name in SPLITS},
        "unseen_classes": [data.names[c] for c in split.unseen],
        "head_c": head.c,
    }
    return Result(seed, score(answers), score(asked), facts, seconds)


def summarize(options: argparse.Namespace, data: Data, results: Sequence[Result]) -> dict[str, Any]:
    """What is written."""
    return {
        "file": str(options.embeddings),
        "model": data.model,
        "unseen_fraction": options.unseen_fraction,
        "seeds": options.seeds,
        "classes": {"in_file": len(data.names), "with_text": len(data.named), **results[0].facts["classes"]},
        "photos": {name: int(np.isin(images.target, data.named).sum()) for name, images in data.images.items()},
        "methods": mean([result.methods for result in results]),
        "operating_points": mean([result.operating_points for result in results]),
        "per_seed": {
            str(r.seed): {**r.facts, "methods": r.methods, "operating_points": r.operating_points} for r in results
        },
    }


def show(summary: dict[str, Any], gate_seconds: float) -> None:
    """One row a method; the product's further operating points stand apart."""
    classes, seeds = summary["classes"], ", ".join(map(str, summary["seeds"]))
    where = f"{escape(summary['file'])}: {classes['seen']} seen, {classes['unseen']} unseen classes"
    title, caption = f"{where}; mean of seeds {seeds}", "* best method in its column"
    made = table(summary["methods"], LOWER, first="method", title=title, caption=caption)
    made.add_section()
    made.add_row("[italic]hybrid, same fit, asked for[/italic]")
    for name, row in summary["operating_points"].items():
        made.add_row(f"  {name if name in TOGETHER else f'balance {name}'}", *(cell(row[figure]) for figure in FIGURES))
    console = Console(width=165)
    console.print(made)
    console.print(f"hybrid's gating (Scorer and fuse): {gate_seconds * 1e6:.1f} microseconds a photo, one thread")


if __name__ == "__main__":
    main()
