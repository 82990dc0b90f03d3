"""What class priors by region and sequences of photos are worth, and what a wrong prior costs, on drawn worlds.

Animals as the bundled encoder sees them: 40 trained classes, 10 that are only named. Each seed draws two regions with
known shares of the 50 classes, and bursts of five photos from each, as `hybrid demo` does: of one animal in one place,
a moment apart. A linear head is trained on single photos. The gate is fitted on other bursts; all by the product's
defaults:

    python -m benchmarks.context --seeds 0,1,2,3,4,5 --bursts 200 --json context.json

    single photos      each by itself, at even odds of trained and named classes
    right priors       the shares that the regions were drawn with
    wrong priors       those of the other region
    even priors        the same weight for every class: a file that says nothing of the region
    sequences          five photos answer together
    ... plain product  as if each photo told something new
    priors, sequences  right priors and sequences together

Every photo counts, with its sequence's answer where it has one. The photos of a burst are right or wrong together, and
in a region a few classes are most of the photos. So a world's ECE has a part that chance alone makes: `chance` is that
of answers that are calibrated, with the bursts as what is independent. `ece_together` is the ECE of the photos of all
worlds as one set, in which less of it is left.

The same once more where half of the named classes are foreign, in no list and no prior: what `--reject .95`,
`--max-false-accept .1` and `--coverage .9` keep of their promises. `kept`: photos of trained classes that are answered
at `--reject`; `passing`, of foreign ones; `kept_strict` and `passing_strict` the same at `--max-false-accept`;
`covered`: photos of trained classes whose class is in their set, and `set_size`. Figures it gave:
docs/results/context.md.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from hybrid.evaluation.calibration import BINS, equal_width_bins
from hybrid.evaluation.metrics import score_system
from hybrid.gate.context import DEPENDENCE
from hybrid.gate.decide import Decided
from hybrid.gate.policy import uniform_from_hash
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.index.texts import embed_classes
from hybrid.labels.priors import ClassPriors, PriorRow
from hybrid.labels.prompts import PromptClass, load_templates
from hybrid.prediction import Answers
from hybrid.run.context import ContextStream
from hybrid.run.files import Layout, write_run
from hybrid.run.fitted import Batch, FittedClassifier

FIGURES = ("accuracy", "ece", "nll")
# What is asked of the answers where some classes are foreign.
REJECT, MAX_FALSE_ACCEPT, COVERAGE = 0.95, 0.1, 0.9
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
    hits: dict[str, list[Hits]] = {}
    for seed in options.seeds:
        ways, promises = ask(options, seed)
        for way, answered in ways.items():
            hits.setdefault(way, []).append(answered.hits)
        found[str(seed)] = {"ways": {way: one.figures for way, one in ways.items()}, "promises": promises}
        print(f"seed {seed}: done", file=sys.stderr)
    rows = mean([one["ways"] for one in found.values()])
    for way, row in rows.items():
        confidence, correct = (np.concatenate(part) for part in zip(*hits[way], strict=True))
        row["ece_together"] = equal_width_bins(confidence, correct).error
    promises = mean([one["promises"] for one in found.values()])
    asked = {"size": options.size, "bursts": options.bursts, "seeds": options.seeds}
    write_json(options.json, {**asked, "mean": rows, "promises": promises, "per_seed": found})
    console = Console(width=None if Console().is_terminal else 120)
    title = f"{2 * options.bursts} bursts of {options.size}"
    console.print(table(rows, lower=("ece", "chance", "ece_together", "nll"), title=title))
    asked_for = f"--reject {REJECT:g}, --max-false-accept {MAX_FALSE_ACCEPT:g}, --coverage {COVERAGE:g}"
    console.print(table(promises, marked=False, title=asked_for))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = shared.parser(__doc__, "benchmarks.context")
    parser.add_argument("--train", type=int, default=16, help="photos of each trained class (default 16)")
    parser.add_argument("--val", type=int, default=2, help="bursts of each trained class to fit on (default 2)")
    parser.add_argument("--bursts", type=int, default=150, help="bursts of each region to answer (default 150)")
    parser.add_argument("--size", type=int, default=5, help="photos of a burst (default 5)")
    shared.add_seeds(parser, [0, 1, 2])
    shared.add_json(parser)
    return parser.parse_args(arguments)


class Hits(NamedTuple):
    """Of each photo, how sure the answer was, and whether it was right."""

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]


class Answered(NamedTuple):
    """The figures of a way, and what they are made of."""

    figures: Figures
    hits: Hits


def ask(options: argparse.Namespace, seed: int) -> tuple[dict[str, Answered], dict[str, Figures]]:
    """Draw a world, train in it, and answer its bursts in every way; then with some classes foreign."""
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
        ways = {}
        for way, policy, test_of, dependence in ways_of(names, counts):
            ways[way] = score(answer(replace(plain, policy=policy), test_of(test), dependence), plain, test)
        some = np.flatnonzero((np.arange(len(names)) < seen) | (np.arange(len(names)) % 2 == 0))
        known = [names[c] for c in some.tolist()]
        promises = {
            way: keep_promises(run.classifier(known).fitted, policy, test_of(test), seen)
            for way, policy, test_of, dependence in ways_of(known, counts[:, some])
            if dependence
        }
    return ways, promises


def ways_of(names: Sequence[str], counts: NDArray[np.int64]) -> list[tuple[str, Policy, Any, float]]:
    """Each way: its policy, what it does to the photos, and how dependent it takes those of a sequence for."""

    def weights(own: NDArray[Any]) -> Policy:
        rows = [
            PriorRow(name, float(w), region)
            for region, ws in zip(REGIONS, own, strict=True)
            for name, w in zip(names, ws, strict=True)
        ]
        return Policy(class_priors=ClassPriors(tuple(rows)))

    return [
        ("single photos", Policy(), Photos.alone, DEPENDENCE),
        ("right priors", weights(counts), Photos.alone, DEPENDENCE),
        ("wrong priors", weights(counts[::-1]), Photos.alone, DEPENDENCE),
        ("even priors", weights(np.ones_like(counts)), Photos.alone, DEPENDENCE),
        ("sequences", Policy(), lambda test: test, DEPENDENCE),
        ("... plain product", Policy(), lambda test: test, 0.0),
        ("priors, sequences", weights(counts), lambda test: test, DEPENDENCE),
    ]


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


def answer(fitted: FittedClassifier, test: Photos, dependence: float = DEPENDENCE) -> Answers:
    """Answer the photos."""
    logits = fitted.head.logits([], test.embeddings) if fitted.head is not None else None
    uniform = np.array([uniform_from_hash(sha256) for sha256 in test.hashes])
    alone = fitted.answer(test.embeddings, logits, uniform)
    batch = Batch(test.records, test.hashes, alone, test.embeddings, (), logits)
    if fitted.context.changes(test.records):
        context = replace(fitted.context, dependence=dependence)
        (batch,) = ContextStream(context, fitted.decider, fitted.space.seen, test.records)([batch])
    return batch.answers


def columns_of(fitted: FittedClassifier) -> NDArray[np.intp]:
    """Where the classifier has each animal, -1 where it does not know it."""
    demo = demo_classes()
    known = {name: column for column, name in enumerate(fitted.space.names)}
    return np.array([known.get(animal.name, -1) for animal in (*demo.seen, *demo.unseen)], np.intp)


def score(answers: Answers, fitted: FittedClassifier, test: Photos) -> Answered:
    """Score the answers."""
    columns = columns_of(fitted)
    probabilities = answers.hybrid[:, columns]
    scores = score_system(
        probabilities,
        test.target,
        fitted.space.is_unseen[columns],
        p_unseen=answers.p_unseen,
        images_per_second=None,
    )
    hits = Hits(probabilities.max(axis=1), probabilities.argmax(axis=1) == test.target)
    burst = np.unique([record.path.rpartition("-")[0] for record in test.records], return_inverse=True)[1]
    figures = {name: float(getattr(scores, name)) for name in FIGURES}
    return Answered({**figures, "chance": chance(hits, burst)}, hits)


def chance(hits: Hits, burst: NDArray[np.intp]) -> float:
    """ECE to be expected of calibrated answers: each bin's mean error if it is normal, bursts being independent."""
    bins = np.minimum((hits.confidence * BINS).astype(int), BINS - 1)
    error = hits.confidence - hits.correct
    found = 0.0
    for one in np.unique(bins):
        inside = bins == one
        sums = np.bincount(burst[inside], error[inside] - error[inside].mean())
        found += float(np.sqrt(2 / np.pi * np.square(sums).sum()))
    return found / len(burst)


def keep_promises(fitted: FittedClassifier, policy: Policy, test: Photos, seen: int) -> Figures:
    """What is kept of the promises; classes that the classifier does not know are foreign."""
    target = columns_of(fitted)[test.target]
    trained, foreign = test.target < seen, target < 0

    def asked(policy: Policy) -> Decided:
        decided = answer(replace(fitted, policy=policy), test).decided
        assert decided is not None
        return decided

    found: Figures = {}
    strict = replace(policy, max_false_accept=MAX_FALSE_ACCEPT)
    for one, end in ((replace(policy, reject=REJECT), ""), (strict, "_strict")):
        accepted = asked(one).accepted
        assert accepted is not None
        found |= {f"kept{end}": float(accepted[trained].mean()), f"passing{end}": share(accepted[foreign])}
    sets = asked(replace(policy, coverage=COVERAGE)).sets
    assert sets is not None
    covered = sets[np.flatnonzero(trained), target[trained]]
    return {**found, "covered": float(covered.mean()), "set_size": float(sets.sum(axis=1).mean())}


def share(hits: NDArray[np.bool_]) -> float:
    """Of photos, of which there may be none."""
    return float(hits.mean()) if len(hits) else 0.0


if __name__ == "__main__":
    main()
