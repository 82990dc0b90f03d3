"""The store and the index of a run as they grow: insert, build, open, update, search, memory.

    python -m benchmarks.scale --json scale.json
    python -m benchmarks.scale --rows 10000,100000 --json scale.json      (a minute or two; 1,000,000: see below)

Vectors are drawn (`measure.draw`: classes around a common direction, of low intrinsic dimension, harder for an
approximate index than CLIP's of Caltech-101) with a fixed seed, and go through `EmbeddingStore` and `open_index` as
those of images do. Peers: FAISS's own `read_index` of our file and `search`, and an exact `IndexFlatIP` over the same
vectors; each repeat asks all of them in turn, medians are told. "Fresh process" figures exclude imports. 1,000,000
rows of 512 floats need 8 GB of disk for the time of the run and 7 GB of memory (the peers hold all vectors, hybrid
does not).

Figures it gave: docs/results/scale.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.kit import arguments as shared
from benchmarks.kit.machine import cores, processor
from benchmarks.kit.output import write_json
from benchmarks.scale.measure import Run, check_disk, measure

MILLION = 1_000_000

TABLE = (
    ("insert, batches of 1000", "insert_rows_per_s", "rows/s"),
    ("insert, batches of 32", "insert_rows_per_s_batch_32", "rows/s"),
    ("first build of the index", "first_build_s", "s"),
    ("open, fresh process", "open_s", "s"),
    ("open, files not in the page cache", "open_cold_s", "s"),
    ("open after 1000 were added", "open_1000_added_s", "s"),
    ("open after 1000 were removed", "open_1000_removed_s", "s"),
    ("open after 1000 were relabeled", "open_1000_relabelled_s", "s"),
    ("store: relabel 1000", "relabel_1000_s", "s"),
    ("store: remove 1000", "remove_1000_s", "s"),
    ("store: remove nothing", "remove_nothing_s", "s"),
    ("one query", "search_one_hybrid_s", "s"),
    ("  plain FAISS, our file", "search_one_plain_faiss_s", "s"),
    ("  exact IndexFlatIP", "search_one_exact_s", "s"),
    ("100 queries", "search_100_hybrid_s", "s"),
    ("  plain FAISS, our file", "search_100_plain_faiss_s", "s"),
    ("  exact IndexFlatIP", "search_100_exact_s", "s"),
    ("100 queries, hybrid / plain FAISS", "search_vs_plain_faiss", ""),
    ("recall@10 of 300 new queries", "recall_at_10", ""),
    ("kind of index", "kind", ""),
    ("cells, probed", "cells", ""),
    ("peak memory, open", "open_peak_mib", "MiB"),
    ("peak memory, open and search 100", "open_and_search_100_peak_mib", "MiB"),
    ("  of which imports", "imports_mib", "MiB"),
    ("store", "store_mib", "MiB"),
    ("index", "index_mib", "MiB"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each size in a folder of its own, print, write."""
    parser = shared.parser(__doc__, "benchmarks.scale")
    parser.add_argument("--rows", type=_numbers, default=[10_000, 100_000, MILLION], metavar="N,N,...")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where the stores are made and removed (default: a temporary one)")
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    if options.dim < 2:
        parser.error("--dim is at least 2")
    console = Console(stderr=True)
    found: dict[int, dict[str, Any]] = {}
    for rows in options.rows:
        check_disk(rows, options.dim, options.folder)
        with tempfile.TemporaryDirectory(prefix="hybrid-scale-", dir=options.folder) as folder:
            run = Run(Path(folder), rows, options.dim)
            found[rows] = measure(run, lambda line, rows=rows: console.print(f"{rows:,} rows: {line}"))  # type: ignore[misc]
    result = {
        "ratios": {"search_1m_vs_plain_faiss": found.get(MILLION, {}).get("search_vs_plain_faiss")},
        "device": device(),
        "dim": options.dim,
        "rows": {str(rows): values for rows, values in found.items()},
    }
    write_json(options.json, result)
    Console().print(table(found))


def device() -> str:
    """Name the processor and the versions that the figures depend on."""
    import sqlite3

    import faiss

    return (
        f"{processor()}, {cores()} cores, {faiss.omp_get_max_threads()} threads, faiss {faiss.__version__}, "
        f"SQLite {sqlite3.sqlite_version}"
    )


def table(found: dict[int, dict[str, Any]]) -> Table:
    """Lay out one column a size."""
    made = Table("", *(f"{rows:,}" for rows in found), box=None, header_style="bold", pad_edge=False)
    for column in made.columns[1:]:
        column.justify = "right"
    for title, key, unit in TABLE:
        made.add_row(title, *(cell(values, key, unit) for values in found.values()))
    return made


def cell(values: dict[str, Any], key: str, unit: str) -> str:
    """One value for people: seconds as ms where they are few."""
    value = values[key]
    if key == "cells":
        return f"{value}, {values['probed']}" if value else "-"
    if isinstance(value, str):
        return value
    if unit == "s":
        return f"{value * 1000:.2f} ms" if value < 1 else f"{value:.2f} s"
    return f"{value:,.0f} {unit}" if unit else f"{value:.3f}"


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1000:
        raise argparse.ArgumentTypeError("at least 1000 rows")
    return numbers


if __name__ == "__main__":
    main()
