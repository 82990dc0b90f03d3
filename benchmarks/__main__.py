"""The benchmarks: what each measures, the time it takes, and what it needs.

python -m benchmarks
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import benchmarks
from benchmarks.kit.arguments import parser

# What is shared and measures nothing.
SHARED = "kit"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the list."""
    parser(__doc__, "benchmarks").parse_args(arguments)
    sys.stdout.write(listing())


def topics() -> list[str]:
    """Folders that hold a benchmark, by name."""
    return [found.name for found in pkgutil.iter_modules(benchmarks.__path__) if found.ispkg and found.name != SHARED]


def listing() -> str:
    """Each topic's command with its one line, time and needs; then the commands beside them."""
    lines = ["Times are of two cores without a GPU. --help of each says more.", ""]
    for topic in topics():
        found: Any = import_module(f"benchmarks.{topic}")
        lines.append(f"python -m benchmarks.{topic}")
        lines.append(f"    {summary(found.__doc__)}")
        lines.append(f"    time: {found.ABOUT.time}; needs: {found.ABOUT.needs}")
        lines += [f"    also: python -m benchmarks.{name}: {what}" for name, what in found.ABOUT.also.items()]
        lines.append("")
    lines.append("python -m benchmarks.figures")
    lines.append("    Draws the figures of the docs again, from docs/results/data.")
    lines.append("python -m benchmarks.kit.world_vectors")
    lines.append("    Writes vectors of drawn animals, a file that gzsl, few_shot and open_set can take.")
    return "\n".join(lines) + "\n"


def summary(doc: str | None) -> str:
    """First line of a docstring."""
    return (doc or "").partition("\n")[0]


if __name__ == "__main__":
    main()
