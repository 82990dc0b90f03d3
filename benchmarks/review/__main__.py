"""What 30 labels from the queue of a review change, beside 30 of photos drawn at random.

Drawn animals as the bundled encoder sees them; 40 trained classes of 16 photos, a tenth of which carry the label of
another class, and 10 classes that are only named. A person looks at 30 photos and says what they show; head and gate
are made anew by the product's defaults (a linear head), and asked about 1,000 other photos of all 50 classes:

    python -m benchmarks.review --seeds 0,1,2,3,4 --json review.json

Two questions:

    labels to check    every photo of the index has a label: the queue `suspect` against photos drawn from all of them
    photos to label    600 more photos of all 50 classes lie in the index without a label: each strategy, as it comes
                       with every fifth photo drawn at random, against photos that are all drawn

`nothing` is where it starts, `all wrong` what correcting every wrong label would give. Figures it gave:
docs/results/review.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import mean, table, write_json
from benchmarks.kit.world_vectors import world
from benchmarks.review.world import Scene, World, lay_out
from hybrid import Run
from hybrid.evaluation.metrics import score_system
from hybrid.run.labels import LabelRequest
from hybrid.tools.review.pool import Pool
from hybrid.tools.review.queue import make_queue

CHECK, LABEL = "labels to check", "photos to label"
WAYS = {CHECK: ("random", "suspect"), LABEL: ("random", "margin", "unseen", "diverse", "suspect")}
NOTHING, CEILING = "nothing", "all wrong"
FIGURES = ("accuracy", "harmonic_mean", "seen", "unseen", "ece")
Figures = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    known = World.of(dict(np.load(options.embeddings)) if options.embeddings else world(), options.seen)
    found: dict[str, dict[str, dict[str, Figures]]] = {CHECK: {}, LABEL: {}}
    for seed in options.seeds:
        for question, seeds in found.items():
            seeds[str(seed)] = ask(known, question, options, seed)
            print(f"seed {seed}, {question}: done", file=sys.stderr)
    summary = {
        "count": options.count,
        "share": options.share,
        "seeds": options.seeds,
        "mean": {question: mean(list(seeds.values())) for question, seeds in found.items()},
        "per_seed": found,
    }
    write_json(options.json, summary)
    show(summary)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = shared.parser(__doc__, "benchmarks.review")
    parser.add_argument(
        "--embeddings", type=Path, metavar="FILE.npz", help="of benchmarks.kit.world_vectors; default: drawn"
    )
    parser.add_argument("--seen", type=int, default=40, help="the first classes that are trained (default 40)")
    parser.add_argument("--share", type=shared.share, default=0.1, help="of the labels that are wrong (default 0.1)")
    parser.add_argument("--count", type=int, default=30, help="photos that the person looks at (default 30)")
    shared.add_seeds(parser, [0, 1, 2, 3, 4])
    shared.add_json(parser)
    return parser.parse_args(arguments)


def ask(known: World, question: str, options: argparse.Namespace, seed: int) -> dict[str, Figures]:
    """Each way's figures after its labels, from the same start."""
    with tempfile.TemporaryDirectory() as folder:
        scene = lay_out(known, Path(folder), options.share, seed, unlabeled=question == LABEL)
        run = Run(scene.layout.root)
        learn(run, known, seed)
        pool = Pool.of(run.classifier(known.names).fitted, scene.layout)
        pool.update()
        figures = {NOTHING: measure(run, known) | changes(scene, [])}
        looks = {way: choose(pool, scene, question, way, options.count, seed) for way in WAYS[question]}
        for way, why in {**looks, CEILING: dict.fromkeys(scene.wrong, "person")}.items():
            given = run.give_labels([LabelRequest(name, scene.truth[name], drawn) for name, drawn in why.items()])
            learn(run, known, seed)
            figures[way] = measure(run, known) | changes(scene, list(why))
            run.undo_labels(given.ids)
    return figures


def learn(run: Run, known: World, seed: int) -> None:
    """Train head and gate on the trained classes; labels of others join by their photos."""
    run.train(head="linear", classes=known.names[: known.seen], seed=seed)


def choose(pool: Pool, scene: Scene, question: str, way: str, count: int, seed: int) -> dict[str, str]:
    """The contents that a person looks at, and how each was found."""
    if way == "random":
        every = sorted(scene.labeled if question == CHECK else scene.unlabeled)
        return dict.fromkeys(random.Random(seed).sample(every, count), way)
    return {item.sha256: item.drawn for item in make_queue(pool, way, limit=count, seed=seed).items}


def measure(run: Run, known: World) -> Figures:
    """Answer the test photos."""
    classifier = run.classifier(known.names).fitted
    embeddings = np.asarray(known.arrays["test_embedding"], np.float32)
    head_logits = classifier.head.logits([], embeddings) if classifier.head is not None else None
    answers = classifier.answer(embeddings, head_logits)
    columns = [classifier.space.names.index(name) for name in known.names]
    scores = score_system(
        answers.hybrid[:, columns],
        np.asarray(known.arrays["test_label"], np.intp),
        known.unseen,
        p_unseen=answers.p_unseen,
        images_per_second=None,
    )
    return {name: float(getattr(scores, name)) for name in FIGURES}


def changes(scene: Scene, hashes: Sequence[str]) -> Figures:
    """What the person changed."""
    gone = {*hashes}
    return {
        "corrected": float(len(gone & {*scene.wrong})),
        "new": float(len(gone & {*scene.unlabeled})),
    }


def show(summary: dict[str, Any]) -> None:
    console = Console(width=None if Console().is_terminal else 120)
    for question, rows in summary["mean"].items():
        title = f"{question}: {summary['count']} photos, {summary['share']:.0%} of labels wrong"
        console.print(table(rows, lower=("ece",), first="looked at", title=title))


if __name__ == "__main__":
    main()
