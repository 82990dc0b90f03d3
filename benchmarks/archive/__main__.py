"""Archives of millions of vectors beside plain FAISS: build, open, search, classify, memory, bytes.

    python -m benchmarks.archive --json archive.json
    python -m benchmarks.archive --rows 10000000 --kinds pq

Vectors are drawn as those of `benchmarks.scale` and written as the parts of a plan. For each kind of index an archive
is built in a process of its own, whose peak memory is told, imports included. The peer is the same FAISS index, read by
`faiss.read_index` and searched without the digests that an archive holds its lists against; for pq it ranks by codes
alone. Each repeat asks both in turn, medians are told. "Fresh" is a process that opens the archive and answers one
query, the files in the page cache, imports excluded. Recall at 10 is that of new queries, which are not in the archive,
against all vectors in half precision.

Figures it gave: docs/results/archive.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.archive import measure
from benchmarks.kit import arguments as shared
from benchmarks.kit.output import table, write_json
from benchmarks.scale.__main__ import device

KINDS = ("exact", "ivf", "pq")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write parts, then measure each kind; print, write."""
    parser = shared.parser(__doc__, "benchmarks.archive")
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kinds", type=_kinds, default=["ivf", "pq"], metavar="KIND,...", help=", ".join(KINDS))
    parser.add_argument("--folder", type=Path, help="where all is written and removed (default: a temporary one)")
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="hybrid-archive-", dir=options.folder) as name:
        folder = Path(name)
        console.print("writing parts")
        parts = measure.write_parts(folder / "plan", options.rows, options.dim)
        for kind in options.kinds:
            console.print(f"{kind}: building")
            made = _apart(folder, kind, "build")
            console.print(f"{kind}: searching")
            found[kind] = made | _apart(folder, kind, "search") | _apart(folder, kind, "open")
        classified = _apart(folder, options.kinds[-1], "classify")
    values = {"rows": options.rows, "dim": options.dim, "device": device(), "parts_mib": parts, **classified}
    write_json(options.json, values | {"kinds": found})
    rows = {name: {kind: found[kind][name] for kind in found} for name in next(iter(found.values()))}
    Console().print(table(rows, digits=4, marked=False))
    Console().print(values)


def _apart(folder: Path, kind: str, job: str) -> dict[str, float]:
    """Do one job of `measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.archive.measure", str(folder), kind, job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"of {', '.join(KINDS)}")
    return kinds


if __name__ == "__main__":
    main()
