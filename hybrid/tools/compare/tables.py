"""A comparison as CSV, Markdown, JSON and a table in the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import msgspec
import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from hybrid.config import encode_settings
from hybrid.evaluation.report import MISSING, marked_figures
from hybrid.tools.compare.results import Failure, Result

Rows = Sequence[Result | Failure]
LEGEND = (
    "macro figures: means over the classes",
    "GFLOPs: 10^9 operations for one photo, a multiply-add counts as two",
    "seconds: wall clock of the training, with loading and validation",
    "images/s: from prepared photos in memory to logits, batches of 32",
)
# field of Result -> heading, broken in two where one line would make the table too wide
HEADINGS = {
    "accuracy": "accuracy",
    "macro_precision": "macro\nprecision",
    "macro_recall": "macro\nrecall",
    "parameters": "parameters,\ntotal",
    "trainable": "\ntrainable",
    "gflops": "GFLOPs",
    "epochs": "epochs\n(best)",
    "seconds": "seconds",
    "images_per_second": "images/s",
}
SHARES = ("accuracy", "macro_precision", "macro_recall")
CSV_FIELDS = (
    *("name", *SHARES, "val_accuracy", "parameters", "trainable", "gflops", "epochs", "best_epoch", "seconds"),
    *("resumed", "images_per_second", "device", "failed"),
)


def as_csv(rows: Rows, notes: Sequence[str] = ()) -> str:
    """One line per recipe, figures in full; `failed` holds the reason of a recipe without figures."""
    del notes
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if isinstance(row, Failure):
            writer.writerow({"name": row.name, "failed": row.reason})
        else:
            writer.writerow({field: getattr(row, field) for field in CSV_FIELDS if field != "failed"})
    return out.getvalue()


def as_json(rows: Rows, notes: Sequence[str] = ()) -> str:
    """All results with their settings and classes, the failures, and the notes."""
    value = {
        "results": [row for row in rows if isinstance(row, Result)],
        "failed": [row for row in rows if isinstance(row, Failure)],
        "notes": list(notes),
    }
    plain = msgspec.to_builtins(value, enc_hook=encode_settings)
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def as_markdown(rows: Rows, notes: Sequence[str] = ()) -> str:
    """A Markdown table with the best of each share in bold, failures and notes beneath."""
    columns = _columns(rows)
    lines = [
        "| recipe | " + " | ".join(" ".join(h.split()) for h in HEADINGS.values()) + " |",
        "|---|" + "---:|" * len(HEADINGS),
    ]
    for place, row in enumerate(rows):
        cells = [f"**{text}**" if best else text for text, best in (column[place] for column in columns)]
        lines.append(f"| {_escape(row.name)} | " + " | ".join(cells) + " |")
    failed = [f"- {_escape(row.name)} failed: {_escape(row.reason)}" for row in rows if isinstance(row, Failure)]
    said = [f"- {_escape(note)}" for note in notes]
    return "\n".join([*lines, "", *failed, *said]) + "\n"


def as_table(rows: Rows) -> Table:
    """A terminal table, at most 120 columns wide: long names are folded."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="", pad_edge=False)
    table.add_column("recipe", vertical="bottom", overflow="fold")
    columns = _columns(rows)
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    for place, row in enumerate(rows):
        cells = [Text(text, style="bold" if best else "") for text, best in (column[place] for column in columns)]
        table.add_row(Text(row.name), *cells)
    return table


def large(number: float) -> str:
    """Write a count of parameters in three digits: ``850``, ``12.3 k``, ``4.01 M``."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        # 999,999 must not become 1000 k.
        if number >= 0.9995 * size:
            return _three(number / size) + unit
    return str(int(number))


def _columns(rows: Rows) -> list[list[tuple[str, bool]]]:
    """Write each column's figures, and mark the best shares."""
    results = [row if isinstance(row, Result) else None for row in rows]
    columns = []
    for field in HEADINGS:
        if field in SHARES:
            columns.append(marked_figures(field, [None if row is None else getattr(row, field) for row in results]))
        else:
            columns.append([(_cell(row, field), False) for row in results])
    if columns:
        failed = [isinstance(row, Failure) for row in rows]
        columns[0] = [("failed", False) if bad else cell for bad, cell in zip(failed, columns[0], strict=True)]
    return columns


def _cell(row: Result | None, field: str) -> str:
    value = None if row is None else getattr(row, field)
    if row is None or value is None:
        return MISSING
    if field == "epochs":
        return f"{value} ({row.best_epoch})"
    if field in ("parameters", "trainable"):
        return large(value)
    return _three(value)


def _three(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:#.3g}" if value >= 1e-3 else np.format_float_positional(value, 2, fractional=False, trim="-")


def _escape(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").split())
