"""The figures of benchmarks/gzsl.py: their names, their mean over seeds, their table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Figures = dict[str, dict[str, float | None]]
# Column titles and, of each figure, whether more is better.
FIGURES = {
    "harmonic_mean": True,
    "ausuc": True,
    "ece": False,
    "ece_seen": False,
    "ece_unseen": False,
    "nll": False,
    "brier": False,
    "gate_auroc": True,
    "seen": True,
    "unseen": True,
}


def average(found: Sequence[Figures]) -> Figures:
    """Mean of each figure over the seeds; None where a seed lacks it."""
    means: Figures = {}
    for name in found[0]:
        columns = {figure: [figures[name][figure] for figures in found] for figure in FIGURES}
        means[name] = {
            n: None if None in c else statistics.fmean(v for v in c if v is not None) for n, c in columns.items()
        }
    return means


def show(summary: dict[str, Any], gate_seconds: float) -> None:
    """One row a method, the best of each column marked; the product's further operating points stand apart."""
    classes = summary["classes"]
    seeds = ", ".join(map(str, summary["seeds"]))
    title = (
        f"{escape(summary['file'])}: {classes['seen']} seen, {classes['unseen']} unseen classes; mean of seeds {seeds}"
    )
    table = Table("method", title=title, caption="* best method in its column")
    best = {}
    for figure, more in FIGURES.items():
        table.add_column(figure.replace("_", " "), justify="right")
        known = [row[figure] for row in summary["methods"].values() if row[figure] is not None]
        best[figure] = (max if more else min)(known, default=None)
    for name, row in summary["methods"].items():
        marks = [row[f] is not None and row[f] == best[f] for f in FIGURES]
        cells = [_cell(row[f]) for f in FIGURES]
        table.add_row(name, *(f"[bold]{c}*[/bold]" if m else f"{c} " for c, m in zip(cells, marks, strict=True)))
    table.add_section()
    table.add_row("[italic]hybrid, same fit, asked for[/italic]")
    for name, row in summary["operating_points"].items():
        table.add_row(f"  balance {name}", *(f"{_cell(row[f])} " for f in FIGURES))
    console = Console(width=150)
    console.print(table)
    console.print(f"hybrid's gating (Scorer and fuse): {gate_seconds * 1e6:.1f} microseconds a photo, one thread")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
