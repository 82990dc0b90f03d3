"""What class priors by region and sequences of photos are worth, and what a wrong prior costs, on drawn worlds.

Animals as the bundled encoder sees them: 40 trained classes, 10 that are only named. Each seed draws two regions with
known shares of the 50 classes, and bursts of five photos from each, as `hybrid demo` does: of one animal in one place,
a moment apart. A linear head is trained on single photos. The gate, with the dependence of the photos of a sequence, is
fitted on other bursts; all by the product's defaults:

    python -m benchmarks.context --seeds 0,1,2 --json context.json

    single photos      each by itself, at even odds of trained and named classes
    right priors       the shares that the regions were drawn with
    wrong priors       those of the other region
    even priors        the same weight for every class: a file that says nothing of the region
    sequences          five photos answer together, with the dependence that was fitted
    ... at the default with the documented default
    ... plain product  as if each photo told something new
    priors, sequences  right priors and sequences together

Every photo counts, with its sequence's answer where it has one. Figures it gave: docs/results/context.md.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import mean, table, write_json
from hybrid import Policy, Run
from hybrid.config import EncoderSettings
from hybrid.demo.animals import demo_classes
from hybrid.demo.field import REGIONS, region_counts
from hybrid.demo.painting import draw
from hybrid.encoders import load_encoder
from hybrid.evaluation.metrics import score_system
from hybrid.gate.context import DEPENDENCE
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.index.texts import embed_classes
from hybrid.labels.priors import ClassPriors, PriorRow
from hybrid.labels.prompts import PromptClass, load_templates
from hybrid.run.context import ContextStream
from hybrid.run.files import Layout, write_run
from hybrid.run.fitted import Batch, FittedClassifier

FIGURES = ("accuracy", "ece", "nll")
Figures = dict[str, float]


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos with their classes and what is known of their captures."""

    records: tuple[ImageRecord, ...]
    embeddings: NDArray[np.float32]
    target: NDArray[np.intp]

    @property
    def hashes(self) -> tuple[str, ...]:
        """A content hash for each, of its name."""
        return tuple(hashlib.sha256(record.path.encode()).hexdigest() for record in self.records)

    def alone(self) -> Photos:
        """The same, of no sequences."""
        return replace(self, records=tuple(replace(record, sequence=None) for record in self.records))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    found: dict[str, Any] = {}
    for seed in options.seeds:
        found[str(seed)] = ask(options, seed)
        print(f"seed {seed}: done", file=sys.stderr)
    summary = {
        "size": options.size,
        "bursts": options.bursts,
        "seeds": options.seeds,
        "dependence": mean([one["dependence"] for one in found.values()]),
        "mean": mean([one["ways"] for one in found.values()]),
        "per_seed": found,
    }
    write_json(options.json, summary)
    title = f"{2 * options.bursts} bursts of {options.size}, dependence {summary['dependence']:.2f} fitted"
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table(summary["mean"], lower=("ece", "nll"), title=title))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = shared.parser(__doc__, "benchmarks.context")
    parser.add_argument("--train", type=int, default=16, help="photos of each trained class (default 16)")
    parser.add_argument("--val", type=int, default=2, help="bursts of each trained class to fit on (default 2)")
    parser.add_argument("--bursts", type=int, default=150, help="bursts of each region to answer (default 150)")
    parser.add_argument("--size", type=int, default=5, help="photos of a burst (default 5)")
    shared.add_seeds(parser, [0, 1, 2])
    shared.add_json(parser)
    return parser.parse_args(arguments)


def ask(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Draw a world, train in it, and answer its bursts in every way."""
    encoder: Any = load_encoder(EncoderSettings(model="tiny", precision="fp32"), "cpu")
    demo = demo_classes()
    names, seen = [animal.name for animal in (*demo.seen, *demo.unseen)], len(demo.seen)
    counts, rng = region_counts(len(names), seed), np.random.default_rng((seed, 7))
    train = photos(encoder, "train", np.repeat(np.arange(seen), options.train), 1, seed)
    val = photos(encoder, "val", np.repeat(np.arange(seen), options.val), options.size, seed)
    drawn = [rng.choice(len(names), options.bursts, p=own / own.sum()) for own in counts]
    test = photos(encoder, "test", np.concatenate(drawn), options.size, seed)
    region = np.repeat(REGIONS, options.bursts * options.size).tolist()
    test = replace(
        test, records=tuple(replace(r, region=str(place)) for r, place in zip(test.records, region, strict=True))
    )
    texts = embed_classes(encoder, [PromptClass(name) for name in names], load_templates("simple"), None)
    with tempfile.TemporaryDirectory() as folder:
        run = lay_out(Path(folder), names, texts, encoder.logit_scale, train, val)
        run.train(head="linear", seed=seed)
        plain = run.classifier(names).fitted
        ways = {way: answer(policy_of(plain, policy), test_of(test)) for way, policy, test_of in ways_of(names, counts)}
        for way, dependence in (("... at the default", DEPENDENCE), ("... plain product", 0.0)):
            ways[way] = answer(with_dependence(plain, dependence), test)
    order = [*list(ways)[:5], "... at the default", "... plain product", "priors, sequences"]
    return {"dependence": plain.context.dependence, "ways": {way: ways[way] for way in order}}


def ways_of(names: Sequence[str], counts: NDArray[np.int64]) -> list[tuple[str, Policy, Any]]:
    """Each way: its policy, and what it does to the photos."""

    def weights(own: NDArray[Any]) -> Policy:
        rows = [
            PriorRow(name, float(w), region)
            for region, ws in zip(REGIONS, own, strict=True)
            for name, w in zip(names, ws, strict=True)
        ]
        return Policy(class_priors=ClassPriors(tuple(rows)))

    return [
        ("single photos", Policy(), Photos.alone),
        ("right priors", weights(counts), Photos.alone),
        ("wrong priors", weights(counts[::-1]), Photos.alone),
        ("even priors", weights(np.ones_like(counts)), Photos.alone),
        ("sequences", Policy(), lambda test: test),
        ("priors, sequences", weights(counts), lambda test: test),
    ]


def policy_of(fitted: FittedClassifier, policy: Policy) -> FittedClassifier:
    return replace(fitted, policy=policy)


def with_dependence(fitted: FittedClassifier, dependence: float) -> FittedClassifier:
    return replace(fitted, gate=fitted.gate and replace(fitted.gate, dependence=dependence))


def photos(encoder: Any, split: str, bursts: NDArray[np.intp], size: int, seed: int) -> Photos:
    """Draw bursts of these classes."""
    demo = demo_classes()
    animals = (*demo.seen, *demo.unseen)
    records, prepared = [], []
    for number, c in enumerate(bursts.tolist()):
        own = (seed, ("train", "val", "test").index(split), number)
        for frame in range(size):
            shot = np.random.default_rng((*own, frame)) if size > 1 else None
            prepared.append(encoder.prepare(draw(animals[c], np.random.default_rng(own), frame=shot), None))
            sequence = f"{split} {number}" if size > 1 else None
            path, label = f"/{split}/{number:05d}-{frame}.jpg", animals[c].name
            records.append(ImageRecord(path, "/", label, split, 1, 1, sequence=sequence))
    parts = [encoder.encode_images(prepared[start : start + 64]) for start in range(0, len(prepared), 64)]
    return Photos(tuple(records), np.concatenate(parts), np.repeat(bursts, size))


def lay_out(
    folder: Path, names: Sequence[str], texts: NDArray[np.float32], scale: float, train: Photos, val: Photos
) -> Run:
    """Write a run whose vectors are in a file."""
    file, layout = folder / "vectors.npz", Layout(folder / "run")
    paths = [record.path for record in (*train.records, *val.records)]
    vectors = np.concatenate([train.embeddings, val.embeddings])
    arrays: dict[str, Any] = {"path": np.array(paths), "embedding": vectors, "text": np.array(names)}
    np.savez(file, **arrays, text_embedding=texts, logit_scale=np.float64(scale))
    settings = EncoderSettings(model=f"precomputed:{file}", pretrained=None)
    encoder = load_encoder(settings, "cpu")
    write_run(layout, settings, encoder)
    hashes = (*train.hashes, *val.hashes)
    images = [StoredImage(r, sha256) for r, sha256 in zip((*train.records, *val.records), hashes, strict=True)]
    with EmbeddingStore(layout.store) as store:
        store.write_batch(images, dict(zip(hashes, vectors, strict=True)), encoder.fingerprint)
    return Run(layout.root)


def answer(fitted: FittedClassifier, test: Photos) -> Figures:
    """Answer the photos, and score the answers."""
    logits = fitted.head.logits([], test.embeddings) if fitted.head is not None else None
    batch = Batch(test.records, test.hashes, fitted.answer(test.embeddings, logits), test.embeddings, (), logits)
    if fitted.context.changes(test.records):
        (batch,) = ContextStream(fitted.context, fitted.decider, fitted.space.seen, test.records)([batch])
    demo = demo_classes()
    columns = [fitted.space.names.index(animal.name) for animal in (*demo.seen, *demo.unseen)]
    scores = score_system(
        batch.answers.hybrid[:, columns],
        test.target,
        fitted.space.is_unseen[columns],
        p_unseen=batch.answers.p_unseen,
        images_per_second=None,
    )
    return {name: float(getattr(scores, name)) for name in FIGURES}


if __name__ == "__main__":
    main()
