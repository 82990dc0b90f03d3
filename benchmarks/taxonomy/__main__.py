"""Whether answers by a taxonomy keep what `--confident` promises, and how deep they are, beside class or nothing.

Drawn animals as the bundled encoder sees them, in two trees: as the demo has it (phylum, body kind, color and kind),
and by color and pattern, which parts what looks alike. Each seed deals the 50 classes anew into seen and unseen ones:

    python -m benchmarks.taxonomy --seeds 0,1,2,3,4 --json taxonomy.json

With real CLIP vectors of Caltech-101 and of 199 animals of ImageNet too, in trees made by hand that lie beside this
file:

    HYBRID_DATA=DATA python -m benchmarks.taxonomy --seeds 0,1,2,3,4 --json taxonomy.json

`below root`: share of the test photos answered with another node than the root; `right`: share of these whose node
holds the true class. `flat` is the same classifier without the tree: its class where that is probable enough, else
nothing, at the lowest threshold where as many of its answers are right; nothing counts as depth 0. Head and zero-shot
alone answer by the tree, too. `ece of nodes` is of the nodes on each photo's likeliest path. Figures it gave:
docs/results/taxonomy.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import mean, table, write_json
from benchmarks.kit.vectors import Data, cut, read
from benchmarks.kit.world_vectors import world
from benchmarks.open_set.measure import fit
from hybrid.demo.animals import RANKS, Animal, demo_classes
from hybrid.evaluation.calibration import equal_width_bins
from hybrid.evaluation.hierarchy import hierarchical_distance, node_answers, specificity
from hybrid.gate.policy import Policy
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import join
from hybrid.labels.taxonomy import Statement, Taxonomy, build_taxonomy
from hybrid.labels.taxonomy_files import load_taxonomy
from hybrid.labels.tree import ClassTree, plant

HERE = Path(__file__).parent
# Trees of real vectors: a file below HYBRID_DATA, and the tree beside this one.
REAL = {
    "Caltech-101": ("caltech101/gzsl.npz", "caltech101.txt"),
    "ImageNet animals": ("animals/gzsl.npz", "animals.txt"),
}
SYSTEMS = ("hybrid", "zero-shot", "head")
Floats = NDArray[np.float64]
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Set:
    """Vectors of classes, and a tree of these."""

    name: str
    data: Data
    taxonomy: Taxonomy


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    found: dict[str, Any] = {}
    for one in sets(options):
        seeds = {}
        for seed in options.seeds:
            with threadpool_limits(1):
                seeds[str(seed)] = measure(one, options.unseen_fraction, options.confident, seed)
            print(f"{one.name}, seed {seed}: done", file=sys.stderr)
        found[one.name] = {"mean": mean(list(seeds.values())), "per_seed": seeds}
    summary = {
        "confident": options.confident,
        "unseen_fraction": options.unseen_fraction,
        "seeds": options.seeds,
        "sets": found,
    }
    write_json(options.json, summary)
    show(summary)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = shared.parser(__doc__, "benchmarks.taxonomy")
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npz", help="of classes that --taxonomy places")
    parser.add_argument("--taxonomy", type=Path, metavar="FILE", help="as hybrid predict takes it")
    parser.add_argument("--confident", type=shared.share, default=0.9)
    parser.add_argument("--unseen-fraction", type=shared.share, default=0.2, metavar="SHARE")
    shared.add_seeds(parser, [0, 1, 2, 3, 4])
    shared.add_json(parser)
    return parser.parse_args(arguments)


def sets(options: argparse.Namespace) -> list[Set]:
    """What to measure: the file that is given, else the drawn world and what HYBRID_DATA holds."""
    if options.embeddings:
        taxonomy = load_taxonomy(options.taxonomy)
        if taxonomy is None:
            sys.exit("--embeddings needs --taxonomy")
        return [Set(options.embeddings.stem, read(options.embeddings), taxonomy)]
    animals = [*demo_classes().seen, *demo_classes().unseen]
    drawn = read_arrays(world())
    made = [Set(f"drawn, by {name}", drawn, tree) for name, tree in drawn_trees(animals).items()]
    folder = shared.data_folder()
    for name, (file, tree) in REAL.items() if folder is not None else ():
        taxonomy = load_taxonomy(HERE / tree)
        if folder is not None and taxonomy is not None and (folder / file).is_file():
            made.append(Set(name, read(folder / file), taxonomy))
    return made


def read_arrays(arrays: dict[str, Any]) -> Data:
    """Check arrays as those of a file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "world.npz"
        np.savez(file, **arrays)
        return read(file)


def drawn_trees(animals: Sequence[Animal]) -> dict[str, Taxonomy]:
    """The demo's tree, and one that parts what looks alike."""
    kind = [((a.name, None), *zip(reversed(a.lineage), reversed(RANKS), strict=True)) for a in animals]
    color = [
        ((a.name, None), (f"{a.pattern} and {a.color}", "pattern"), (a.color, "color"), ("animal", "kingdom"))
        for a in animals
    ]
    return {
        name: build_taxonomy([Statement(chain, (chain[0][0],), chain[0][0]) for chain in chains], name)
        for name, chains in (("kind", kind), ("color", color))
    }


def measure(one: Set, fraction: float, confident: float, seed: int) -> dict[str, Figures]:
    """Figures of each system for all photos, and for those of seen and of unseen classes."""
    split = cut(one.data, fraction, seed)
    fitted = fit(split)
    seen, target = len(split.seen), split.test.target
    # A class of ImageNet has its other names behind commas.
    names = [one.data.names[c].partition(",")[0] for c in (*split.seen, *split.unseen)]
    tree = plant(one.taxonomy, join(names[:seen], PromptSet.from_names(names[seen:])))
    decided = fitted.ask(fitted.decider(Policy()), split.test.embeddings)
    head = softmax(fitted.head.logits([], split.test.embeddings).astype(np.float64), axis=1)
    texts = split.logit_scale * split.test.embeddings.astype(np.float64) @ split.texts.astype(np.float64).T
    answers = {
        "hybrid": np.exp(decided.fused.log_probabilities),
        "zero-shot": softmax(texts, axis=1),
        "head": np.pad(head, ((0, 0), (0, len(names) - seen))),
    }
    groups = {"all": target >= 0, "seen": target < seen, "unseen": target >= seen}
    return {
        f"{system}, {group}": figures(tree, answers[system][rows], target[rows], confident)
        for system in SYSTEMS
        for group, rows in groups.items()
    }


def figures(tree: ClassTree, probabilities: Floats, target: NDArray[np.intp], confident: float) -> Figures:
    """Of photos of one group by one system."""
    asked = node_answers(tree, probabilities, target, confident)
    flat = flat_at(tree, probabilities, target, asked.right)
    predicted = probabilities.argmax(axis=1)
    wrong = predicted != target
    nodes, found = tree.paths(probabilities)
    steps = [nodes[:, depth] >= 0 for depth in range(1, nodes.shape[1])]
    sure = np.concatenate([found[rows, depth + 1] for depth, rows in enumerate(steps)])
    right = np.concatenate([tree.holds(nodes[rows, d + 1], target[rows]) for d, rows in enumerate(steps)])
    return {
        "right": asked.right,
        "below_root": asked.below_root,
        "depth": asked.depth,
        "depth_flat": flat[0],
        "specificity": asked.specificity,
        "specificity_flat": flat[1],
        "exact": asked.exact,
        "accuracy": float(1 - wrong.mean()),
        "ece_of_nodes": equal_width_bins(np.minimum(sure, 1.0), right).error,
        "severity": float(hierarchical_distance(tree, predicted, target)[wrong].mean()) if wrong.any() else None,
    }


def flat_at(
    tree: ClassTree, probabilities: Floats, target: NDArray[np.intp], right: float | None
) -> tuple[float, float]:
    """Depth and specificity of class or nothing, at the lowest threshold with so large a share of right answers."""
    best = probabilities.argmax(axis=1)
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    share = np.cumsum(best[order] == target[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(share >= (right or 0.0))
    answered = order[: enough[-1] + 1] if len(enough) else order[:0]
    information, nodes = specificity(tree), tree.node[best[answered]]
    return float(tree.depth[nodes].sum() / len(best)), float(information[nodes].sum() / len(best))


def show(summary: dict[str, Any]) -> None:
    console = Console(width=None if Console().is_terminal else 150)
    for name, found in summary["sets"].items():
        title = f"{name}: at least {summary['confident']:g} sure; mean of seeds {', '.join(map(str, summary['seeds']))}"
        console.print(table(found["mean"], digits=3, first="system, photos", marked=False, title=title))


if __name__ == "__main__":
    main()
