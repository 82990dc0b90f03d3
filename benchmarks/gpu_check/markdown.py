"""The tables of a results page, from the JSON of the check: python -m benchmarks.gpu_check.markdown gpu.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.report import say, shown
from benchmarks.kit.arguments import parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Print them."""
    options: argparse.ArgumentParser = parser(__doc__, "benchmarks.gpu_check.markdown")
    options.add_argument("json", type=Path)
    document = json.loads(options.parse_args(arguments).json.read_text(encoding="utf-8"))
    say("\n".join(tables(document)))


def tables(document: Mapping[str, Any]) -> Iterator[str]:
    """Bars with what was measured, then every figure with its lowest and highest pass, then what was not done."""
    yield from ("| bar | wanted | measured | met |", "|---|---|---:|---|")
    for bar in document["bars"]:
        wanted = f"{'at most' if bar['at_most'] else 'at least'} {shown(bar['target'], '')}"
        value = "not run" if bar["value"] is None else shown(bar["value"], "")
        yield f"| {bar['name']} | {wanted} | {value} | {({True: 'yes', False: '**no**', None: ''})[bar['met']]} |"
    yield from ("", "| measured | median | | lowest | highest |", "|---|---:|---|---:|---:|")
    for name, figure in document["figures"].items():
        unit, passes = figure["unit"], figure["passes"]
        spread = [shown(end(passes), unit) for end in (min, max)] if len(passes) > 1 else ["", ""]
        yield f"| {name} | {shown(figure['value'], unit)} | {unit} | {' | '.join(spread)} |"
    missing = {part: one["outcome"] for part, one in document["outcomes"].items() if one["outcome"] != "done"}
    if missing:
        yield ""
        yield f"Not done: {', '.join(f'{part} ({outcome})' for part, outcome in missing.items())}."


if __name__ == "__main__":
    main()
