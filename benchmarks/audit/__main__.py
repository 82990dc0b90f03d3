"""How many changed labels `hybrid audit` finds: its precision and recall beside those of simpler lists.

Caltech-101, 3,249 images of 100 classes, real CLIP vectors, of which 70 have a text; 5 % of the labels changed:

    python -m benchmarks.audit DATA/caltech101/train DATA/caltech101/val \
        --encoder precomputed:DATA/caltech101/embeddings.npz --seeds 0,1,2 --json audit.json

The same with labels changed to one of the three most similar classes: `--kind similar`. The bundled synthetic dataset:

    hybrid demo --dir demo && python -m benchmarks.audit demo/data/train demo/data/val --encoder tiny

Every image whose label was changed is one to find; what else is listed counts as a false alarm, though a few of the
labels were wrong before. The lists:

    audit             what `hybrid audit` lists
    cleanlab_default  the same probabilities, chosen from by cleanlab's default, prune_by_noise_rate
    photos            `audit` without zero-shot
    neighbours        the label differs from the most frequent one among the 5 nearest images
    zero_shot         the label differs from the most probable name (an image whose label has no text is not found)

`average_precision` is of each method's ranking of all images, and needs no threshold. Figures it gave:
docs/results/audit.md.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import mean, write_json
from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.encoders.base import Encoder
from hybrid.gate.calibration import log_softmax
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.contents import by_content
from hybrid.index.store import EmbeddingStore
from hybrid.labels.prompts import load_templates
from hybrid.run.files import Layout, write_run
from hybrid.run.neighbors import NEIGHBORS
from hybrid.tools.audit.audit import LabelCheck, ask_zero_shot, audit_run
from hybrid.tools.audit.labels import LabeledContents, confident_learning, judge
from hybrid.tools.audit.probabilities import ZeroShot

METHODS = ("audit", "cleanlab_default", "photos", "neighbours", "zero_shot")
SIMILAR = 3
Figures = dict[str, float]


@dataclass(frozen=True, eq=False)
class Answer:
    """One method's list and ranking of n images: (n,) bool, and (n,) float of which more is more suspicious."""

    listed: NDArray[np.bool_]
    suspicion: NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    settings = EncoderSettings(model=options.encoder, pretrained=None)
    encoder = load_encoder(settings, "cpu")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        images = index(options.sources, settings, encoder, Layout(Path(folder) / "clean"))
        for seed in options.seeds:
            changed = change_labels(images, options.share, options.kind, seed)
            results.append(run_seed(images, changed, settings, encoder, Path(folder) / str(seed)))
    summary = {
        "photos": len(images.hashes),
        "labels": len(set(images.labels)),
        "changed": results[0]["changed"],
        "kind": options.kind,
        "encoder": encoder.name,
        "seeds": options.seeds,
        "seconds": statistics.mean(result["seconds"] for result in results),
        "mean": {name: mean([result["methods"][name] for result in results]) for name in METHODS},
        "per_seed": {str(seed): result for seed, result in zip(options.seeds, results, strict=True)},
    }
    write_json(options.json, summary)
    show(summary)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = shared.parser(__doc__, "benchmarks.audit")
    parser.add_argument("sources", nargs="+", help="class folders, manifests or shards")
    parser.add_argument("--encoder", required=True, help="tiny, precomputed:FILE.npz or a model folder")
    parser.add_argument("--share", type=shared.share, default=0.05, help="of the labels that change (default 0.05)")
    parser.add_argument("--kind", choices=("any", "similar"), default="any", help="which label a changed one becomes")
    shared.add_seeds(parser, [0])
    shared.add_json(parser)
    return parser.parse_args(arguments)


def index(sources: Sequence[str], settings: EncoderSettings, encoder: Encoder, layout: Layout) -> LabeledContents:
    """Build an index and read it back: its labeled images, each content once."""
    write_run(layout, settings, encoder)
    with EmbeddingStore(layout.store) as store:
        build_index(scan(sources), encoder, store)
        contents = by_content(image for image in store.images() if image.record.label is not None)
        return LabeledContents(
            list(contents.values()), list(contents), store.embeddings(list(contents), encoder.fingerprint)
        )


def change_labels(images: LabeledContents, share: float, kind: str, seed: int) -> list[str]:
    """The labels (n,) with `share` of them changed, to any other or to one of the most similar classes."""
    rng = random.Random(seed)
    labels = images.labels
    names = sorted(set(labels))
    near = similar_classes(images, names)
    changed = list(labels)
    for row in rng.sample(range(len(labels)), round(share * len(labels))):
        true = labels[row]
        changed[row] = rng.choice(near[true] if kind == "similar" else [name for name in names if name != true])
    return changed


def similar_classes(images: LabeledContents, names: Sequence[str]) -> dict[str, list[str]]:
    """The classes whose mean images are the most similar to each class's."""
    truth = np.array(images.labels)
    means = np.stack([images.embeddings[truth == name].mean(axis=0) for name in names])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosine = means @ means.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1)[:, : min(SIMILAR, len(names) - 1)]
    return {name: [names[other] for other in row] for name, row in zip(names, order.tolist(), strict=True)}


def run_seed(
    images: LabeledContents, changed: Sequence[str], settings: EncoderSettings, encoder: Encoder, folder: Path
) -> dict[str, Any]:
    """Write the changed labels as a manifest, index it, audit it, and compare."""
    manifest = folder.with_suffix(".csv")
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(("path", "label"))
        rows.writerows((found[0].path, label) for found, label in zip(images.records, changed, strict=True))
    given = index([str(manifest)], settings, encoder, Layout(folder))
    began = time.perf_counter()
    found = audit_run(folder, labels=LabelCheck(device="cpu"))
    seconds = time.perf_counter() - began
    truth = dict(zip(images.hashes, images.labels, strict=True))
    wrong = np.array([truth[sha256] != label for sha256, label in zip(given.hashes, given.labels, strict=True)])
    answers = ask_all(given, encoder)
    listed = {suspect.record.path for suspect in found.suspects or ()}
    product = np.array([records[0].path in listed for records in given.records])
    if (product != answers["audit"].listed).any():
        raise SystemExit("the audit's list is not the one that its parts give")
    true = {records[0].path: truth[sha256] for records, sha256 in zip(given.records, given.hashes, strict=True)}
    right = sum(suspect.suggested == true[suspect.record.path] != suspect.label for suspect in found.suspects or ())
    return {
        "changed": int(wrong.sum()),
        "seconds": seconds,
        "suggested_right": right / max(int((product & wrong).sum()), 1),
        "duplicate_groups": len(found.duplicates),
        "methods": {name: score(answer, wrong) for name, answer in answers.items()},
    }


def ask_all(given: LabeledContents, encoder: Encoder) -> dict[str, Answer]:
    names, target = np.unique(np.array(given.labels), return_inverse=True)
    zero_shot, _ = ask_zero_shot(encoder, given, load_templates("simple"), None)
    joined, images = judge(given.embeddings, target, zero_shot), judge(given.embeddings, target)
    default = confident_learning()[0](target, joined.probabilities, n_jobs=1)
    return {
        "audit": Answer(joined.wrong, -joined.quality),
        "cleanlab_default": Answer(default, -joined.quality),
        "photos": Answer(images.wrong, -images.quality),
        "neighbours": by_neighbors(given.embeddings, target, len(names)),
        "zero_shot": by_names(zero_shot, target),
    }


def by_neighbors(embeddings: NDArray[np.float32], target: NDArray[np.intp], classes: int) -> Answer:
    """List an image whose label is not the most frequent among its nearest; rank by its label's share of them."""
    cosine = embeddings @ embeddings.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = target[np.argsort(-cosine, axis=1, kind="stable")[:, :NEIGHBORS]]
    votes = np.stack([np.bincount(row, minlength=classes) for row in nearest])
    own = votes[np.arange(len(target)), target]
    return Answer(own < votes.max(axis=1), -own / NEIGHBORS)


def by_names(zero_shot: ZeroShot | None, target: NDArray[np.intp]) -> Answer:
    """List an image whose label is not the most probable name; rank by its label's probability."""
    listed, suspicion = np.zeros(len(target), np.bool_), np.full(len(target), -1.0)
    if zero_shot is not None:
        rows = np.flatnonzero(zero_shot.named[target])
        own = (np.cumsum(zero_shot.named) - 1)[target[rows]]
        logits = zero_shot.logits[rows]
        listed[rows] = logits.argmax(axis=1) != own
        suspicion[rows] = -np.exp(log_softmax(logits))[np.arange(len(rows)), own]
    return Answer(listed, suspicion)


def score(answer: Answer, wrong: NDArray[np.bool_]) -> Figures:
    hits = int((answer.listed & wrong).sum())
    return {
        "listed": int(answer.listed.sum()),
        "precision": hits / max(int(answer.listed.sum()), 1),
        "recall": hits / max(int(wrong.sum()), 1),
        "average_precision": float(average_precision_score(wrong, answer.suspicion)),
    }


def show(summary: dict[str, Any]) -> None:
    console = Console(width=None if Console().is_terminal else 120)
    title = (
        f"{summary['changed']} of {summary['photos']} labels changed ({summary['kind']}), {summary['labels']} labels"
    )
    table = Table(title=title)
    columns = ("listed", "precision", "recall", "average_precision")
    table.add_column("method")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, row in summary["mean"].items():
        table.add_row(name, f"{row['listed']:.0f}", *(f"{row[column]:.3f}" for column in columns[1:]))
    console.print(table)
    right = statistics.mean(result["suggested_right"] for result in summary["per_seed"].values())
    console.print(f"of the changed labels that the audit lists, it suggests the right one for {right:.3f}")
    console.print(f"one audit: {summary['seconds']:.1f} s")


if __name__ == "__main__":
    main()
