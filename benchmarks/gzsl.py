"""Generalised zero-shot classification on cached vectors: the published methods and the product's gate side by side.

Real CLIP vectors of Caltech-101, three splits of 53 seen and 17 unseen classes:

    python benchmarks/gzsl.py --embeddings ../shared/data/caltech101/gzsl.npz --unseen-fraction 0.25 \
        --seeds 0,1,2 --json gzsl.json

FILE.npz holds class_names (C,), class_text (C, d) with NaN rows where a class has no text vector, logit_scale, and
{train,val,test}_embedding (n, d) and {train,val,test}_label (n,). Split of a seed: the indices of the classes with a
text vector, in order, shuffled by random.Random(seed); the first int(n * fraction) are unseen, the others seen.
Classes without a text vector are left out. A linear probe learns from the train images of the seen classes; their
val images calibrate; the test images of all classes are scored. No image of an unseen class is used before that.
In the JSON, "methods" holds the peers and the product at its default operating point, "operating_points" the same fit
of the product at others.

Figures it gave: benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gzsl_peers import PEERS, Answer, Opinions, Task, hubness
from gzsl_table import FIGURES, Figures, average, show
from numpy.typing import NDArray
from rich.console import Console
from threadpoolctl import threadpool_limits

from hybrid.config import HeadSettings
from hybrid.errors import DataError, GateError, HeadError, HybridError, listing
from hybrid.evaluation.metrics import score_system
from hybrid.gate.episodes import calibrate, check_enough, class_folds
from hybrid.gate.evidence import Scorer, zero_shot_logits
from hybrid.gate.fit import fit_gate
from hybrid.gate.gate import Gate
from hybrid.gate.gaussians import ClassGaussians, LabeledEmbeddings
from hybrid.gate.policy import Policy, choose_point
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.linear import C_GRID, LinearHead, train_linear_head

SPLITS = ("train", "val", "test")
# How the product can be asked; the first is its default.
POINTS = {"equal": Policy(), "natural": Policy(balance="natural")}
# Two folds of two classes are the least that leaves something to choose between on both sides of an episode.
MIN_SEEN = 4


@dataclass(frozen=True)
class Data:
    """A file's content: unit-norm float32 vectors; `texts` has NaN rows where a class has none."""

    names: tuple[str, ...]
    texts: NDArray[np.float32]
    images: dict[str, LabeledEmbeddings]
    logit_scale: float
    model: str

    @property
    def named(self) -> list[int]:
        """Classes with a text vector."""
        return [int(i) for i in np.flatnonzero(~np.isnan(self.texts).any(axis=1))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, run every seed, print the table, write the JSON."""
    options = parse(arguments)
    try:
        data = read(options.embeddings)
        # Matrices this small lose to BLAS threads that wait for each other, and one thread sums in one order.
        with threadpool_limits(1):
            results = [run_seed(data, options.unseen_fraction, seed) for seed in options.seeds]
    except HybridError as error:
        sys.exit(str(error))
    summary = summarize(options, data, results)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    show(summary, statistics.fmean(result.gate_seconds for result in results))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--unseen-fraction", type=parse_share, default=0.25, metavar="SHARE")
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2], metavar="0,1,2")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    return options


def parse_share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"a share between 0 and 1, not {text}")
    return value


def parse_seeds(text: str) -> list[int]:
    seeds = [int(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"each seed once, not {text}")
    return seeds


def read(file: Path) -> Data:
    """Read and check a file; DataError says what is wrong with it."""
    arrays = _load(file)
    needed = ["class_names", "class_text", "logit_scale"]
    needed += [f"{split}_{part}" for split in SPLITS for part in ("embedding", "label")]
    if missing := [name for name in needed if name not in arrays]:
        raise DataError(f"{file} lacks arrays", expected=", ".join(needed), got=f"no {', '.join(missing)}")
    names, texts, scale = arrays["class_names"], arrays["class_text"], arrays["logit_scale"]
    if names.ndim != 1 or texts.ndim != 2 or len(texts) != len(names) or texts.dtype.kind != "f":
        got = f"{names.shape} and {texts.dtype} {texts.shape}"
        raise DataError(f"{file}: class_text does not fit class_names", expected="(C,) and (C, d) floats", got=got)
    if scale.size != 1 or scale.dtype.kind not in "fiu" or not 0 < scale.item() < np.inf:
        raise DataError(f"{file}: logit_scale is wrong", expected="one number above 0", got=f"{scale!r:.80}")
    without = np.isnan(texts).all(axis=1)
    vectors = np.full(texts.shape, np.nan, np.float32)
    vectors[~without] = unit(texts[~without], f"{file}: class_text")
    images = {split: _images(arrays, split, texts.shape, file) for split in SPLITS}
    model = str(arrays["model"]) if "model" in arrays else "not named in the file"
    return Data(tuple(map(str, names.tolist())), vectors, images, float(scale.item()), model)


def _load(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read {file}", expected="an npz of plain arrays, in the format of gzsl.npz", got=str(error)
        ) from error


def _images(arrays: dict[str, NDArray[Any]], split: str, texts: tuple[int, ...], file: Path) -> LabeledEmbeddings:
    embeddings, labels = arrays[f"{split}_embedding"], arrays[f"{split}_label"]
    fits = embeddings.ndim == 2 and embeddings.shape[1] == texts[1] and embeddings.dtype.kind == "f"
    if not fits or labels.shape != embeddings.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{file}: the {split} arrays do not fit",
            expected=f"(n, {texts[1]}) floats and (n,) integers",
            got=f"{embeddings.dtype} {embeddings.shape} and {labels.dtype} {labels.shape}",
        )
    low, high = labels.min(initial=0), labels.max(initial=0)
    if low < 0 or high >= texts[0]:
        raise DataError(
            f"{file}: a {split}_label is not a class", expected=f"0 to {texts[0] - 1}", got=f"{low} to {high}"
        )
    return LabeledEmbeddings(unit(embeddings, f"{file}: {split}_embedding"), labels.astype(np.intp))


def unit(vectors: NDArray[Any], what: str) -> NDArray[np.float32]:
    """Renormalize rows, computed in float64."""
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    if bad := np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0))).tolist():
        raise DataError(
            f"{what} holds vectors without a direction",
            expected="finite rows of length about 1",
            got=f"nan, inf or only zeros in {len(bad)} rows: {listing([str(row) for row in bad], 5)}",
        )
    return np.asarray(exact / lengths, np.float32)


def split_classes(named: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Deal the classes with a text vector into seen and unseen ones, each sorted."""
    shuffled = list(named)
    random.Random(seed).shuffle(shuffled)  # noqa: S311
    count = int(len(shuffled) * fraction)
    if count < 1 or len(shuffled) - count < MIN_SEEN:
        raise DataError(
            "too few classes",
            expected=f"at least {MIN_SEEN} seen classes and an unseen one",
            got=f"{len(named)} classes with a text vector, {count} of them unseen",
        )
    return sorted(shuffled[count:]), sorted(shuffled[:count])


@dataclass(frozen=True)
class Split:
    """One seed's label space, seen classes first, and its images with indices in it."""

    seen: tuple[int, ...]
    unseen: tuple[int, ...]
    texts: NDArray[np.float32]
    train: LabeledEmbeddings
    val: LabeledEmbeddings
    test: LabeledEmbeddings
    logit_scale: float


def cut(data: Data, fraction: float, seed: int) -> Split:
    """Take a seed's classes; train and val keep images of seen classes only."""
    seen, unseen = split_classes(data.named, fraction, seed)
    position = np.full(len(data.names), len(data.names), np.intp)
    position[[*seen, *unseen]] = np.arange(len(seen) + len(unseen))

    def keep(name: str, classes: int) -> LabeledEmbeddings:
        images = data.images[name]
        rows = position[images.target] < classes
        return LabeledEmbeddings(images.embeddings[rows], position[images.target[rows]])

    train, val = keep("train", len(seen)), keep("val", len(seen))
    test = keep("test", len(seen) + len(unseen))
    if lacking := sorted(set(range(len(seen))) - set(train.target.tolist())):
        raise DataError(
            f"seed {seed}: seen classes without train photos",
            expected="at least one of each",
            got=listing([data.names[seen[c]] for c in lacking]),
        )
    if not len(val) or not len(test):
        raise DataError(f"seed {seed}: too few photos", got=f"{len(val)} to calibrate on, {len(test)} to test on")
    return Split(tuple(seen), tuple(unseen), data.texts[[*seen, *unseen]], train, val, test, data.logit_scale)


def train_probe(split: Split) -> LinearHead:
    """Train the product's linear head on the seen classes; C by validation NLL."""
    return _probe(split.train, split.val, range(len(split.seen)), HeadSettings(kind="linear"))


def train_fold(split: Split, kept: Sequence[int], strength: float | None) -> LinearHead:
    """Train a head with C = `strength` without the held-out classes; a weaker C where this one does not converge."""
    weaker = [c for c in C_GRID if strength is not None and c < strength]
    try:
        return _probe(split.train, split.val, kept, HeadSettings(kind="linear", l2_c=strength))
    except HeadError:
        if not weaker:
            raise
        return train_fold(split, kept, weaker[-1])


def _probe(train: LabeledEmbeddings, val: LabeledEmbeddings, kept: Sequence[int], settings: HeadSettings) -> LinearHead:
    def labeled(images: LabeledEmbeddings) -> LabeledImages:
        rows = np.isin(images.target, kept)
        return LabeledImages((), (), np.searchsorted(kept, images.target[rows]), images.embeddings[rows])

    chosen = TrainingSet(tuple(map(str, kept)), labeled(train), labeled(val), ())
    return train_linear_head(chosen, settings, "file", lambda line: None)


def build_task(split: Split, head: LinearHead) -> Task:
    """Gather both experts' opinions of the validation images, of every episode, and of the test images."""

    def opinions(images: LabeledEmbeddings, probe: LinearHead, order: Sequence[int]) -> Opinions:
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
    return Task(opinions(split.val, head, seen), tuple(episodes), test)


def product(split: Split, head: LinearHead) -> tuple[dict[str, Answer], float]:
    """Fit and ask the product's gate as `hybrid` does; an answer by operating point, and seconds an image of gating."""
    seen, gate = len(split.seen), Gate()
    try:
        check_enough(seen, len(split.val))
    except GateError as error:
        Console(stderr=True).print(f"hybrid falls back to its prior: {error.what}, {error.got}")
        both = np.concatenate([split.train.embeddings, split.val.embeddings])
        gaussians = ClassGaussians.fit(both, np.concatenate([split.train.target, split.val.target]), seen)
    else:
        logits = head.logits([], split.val.embeddings)
        found = calibrate(split.train, split.val, split.texts[:seen], split.logit_scale, logits, class_folds(seen))
        gate, gaussians = fit_gate(found.validation, found.episodes), found.gaussians
    scorer = Scorer(gaussians, split.texts, split.logit_scale)
    logits = head.logits([], split.test.embeddings)
    answers, seconds = {}, []
    for name, policy in POINTS.items():
        point = choose_point(policy, gate, scorer)
        start = time.perf_counter()
        fused = gate.fuse(scorer(split.test.embeddings, logits), point.log_odds)
        seconds.append(time.perf_counter() - start)
        answers[name] = (fused.log_probabilities, fused.p_unseen)
    return answers, min(seconds) / len(split.test)


@dataclass(frozen=True)
class Result:
    """One seed's figures by method and by further operating point, and what stands beside them in the JSON."""

    seed: int
    methods: Figures
    operating_points: Figures
    facts: dict[str, Any]
    gate_seconds: float


def run_seed(data: Data, fraction: float, seed: int) -> Result:
    split = cut(data, fraction, seed)
    head = train_probe(split)
    task = build_task(split, head)
    answers = {name: method(task) for name, method in PEERS.items()}
    points, seconds = product(split, head)
    answers["hybrid"] = points.pop("equal")
    unseen = np.arange(len(split.texts)) >= len(split.seen)

    def score(found: dict[str, Answer]) -> Figures:
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
    return Result(seed, score(answers), score(points), facts, seconds)


def summarize(options: argparse.Namespace, data: Data, results: Sequence[Result]) -> dict[str, Any]:
    """What is written."""
    return {
        "file": str(options.embeddings),
        "model": data.model,
        "unseen_fraction": options.unseen_fraction,
        "seeds": options.seeds,
        "classes": {"in_file": len(data.names), "with_text": len(data.named), **results[0].facts["classes"]},
        "photos": {name: int(np.isin(images.target, data.named).sum()) for name, images in data.images.items()},
        "methods": average([result.methods for result in results]),
        "operating_points": average([result.operating_points for result in results]),
        "per_seed": {
            str(r.seed): {**r.facts, "methods": r.methods, "operating_points": r.operating_points} for r in results
        },
    }


if __name__ == "__main__":
    main()
