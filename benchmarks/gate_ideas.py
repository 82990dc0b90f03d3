"""What was tried for the gate: ideas among unseen classes, among seen ones, and for the log-odds between both.

    python benchmarks/world_vectors.py --out world.npz
    python benchmarks/world_vectors.py --out world2.npz --classes trained:80
    python benchmarks/gate_ideas.py --embeddings ../shared/data/caltech101/gzsl.npz world.npz world2.npz \
        --unseen-fraction .25 --seeds 0,1,2,3,4,5 --json ideas.json

Files, splits, heads and episodes are those of benchmarks/gzsl.py, and like there no image of an unseen class is used
before the test. Prints Markdown, one row an idea: accuracy (mean per class) and NLL in the first two tables. What each
idea is stands in gate_ideas_text.py, gate_ideas_seen.py and gate_ideas_gate.py, with its source.

Figures it gave: benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import gate_ideas_gate
import gate_ideas_seen
import gate_ideas_text
from gate_ideas_scenes import build
from gzsl import Data, cut, parse_seeds, parse_share, read
from threadpoolctl import threadpool_limits

from hybrid.errors import HybridError

TITLES = {
    "unseen": "Among the unseen classes",
    "seen": "Among the seen classes",
    "gate": "Log-odds of unseen",
}
# Idea: figure: value.
Table = dict[str, dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, run every seed of every file, print the tables, write the JSON."""
    options = parse(arguments)
    try:
        # Matrices this small lose to BLAS threads that wait for each other, and one thread sums in one order.
        with threadpool_limits(1):
            files = {str(file): run_file(file, options) for file in options.embeddings}
    except HybridError as error:
        sys.exit(str(error))
    if options.json:
        summary = {"unseen_fraction": options.unseen_fraction, "seeds": options.seeds, "files": files}
        options.json.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print("\n\n".join(markdown({name: seeds["mean"] for name, seeds in files.items()})))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, nargs="+", required=True, metavar="FILE.npz")
    parser.add_argument("--unseen-fraction", type=parse_share, default=0.25, metavar="SHARE")
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2, 3, 4, 5], metavar="0,1,2")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    return options


def run_file(file: Path, options: argparse.Namespace) -> dict[str, dict[str, Table]]:
    """Tables by seed, and their mean."""
    data = read(file)
    seeds = {str(seed): run_seed(data, options.unseen_fraction, seed) for seed in options.seeds}
    return {"mean": {name: average([tables[name] for tables in seeds.values()]) for name in TITLES}, **seeds}


def run_seed(data: Data, fraction: float, seed: int) -> dict[str, Table]:
    split = cut(data, fraction, seed)
    scenes = build(split)
    return {
        "unseen": gate_ideas_text.run(scenes),
        "seen": gate_ideas_seen.run(scenes),
        "gate": gate_ideas_gate.run(split, scenes),
    }


def average(tables: Sequence[Table]) -> Table:
    """Mean over the seeds."""
    return {
        idea: {figure: statistics.fmean(table[idea][figure] for table in tables) for figure in row}
        for idea, row in tables[0].items()
    }


def markdown(files: dict[str, dict[str, Table]]) -> list[str]:
    """One table for the unseen and one for the seen classes with all files side by side; one a file for the gate."""
    blocks = [_table(TITLES[name], {file: tables[name] for file, tables in files.items()}) for name in TITLES][:2]
    return blocks + [_table(f"{TITLES['gate']}, {_short(file)}", {file: t["gate"]}) for file, t in files.items()]


def _table(title: str, columns: dict[str, Table]) -> str:
    first = next(iter(columns.values()))
    figures = list(next(iter(first.values())))
    several = len(columns) > 1
    heads = [f"{_short(file)} {figure}" if several else figure for file in columns for figure in figures]
    lines = [f"### {title}", "", "| idea | " + " | ".join(h.replace("_", " ") for h in heads) + " |"]
    lines.append("|---" * (1 + len(heads)) + "|")
    for idea in first:
        cells = [f"{table[idea][figure]:.4f}".lstrip("0") for table in columns.values() for figure in figures]
        lines.append(f"| {_bold(idea)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _bold(idea: str) -> str:
    return f"**{idea}**" if idea.startswith("product: ") else idea


def _short(file: str) -> str:
    return Path(file).stem


if __name__ == "__main__":
    main()
