"""Write results as a table, JSON lines or CSV, to stdout or to a file that appears when it is whole."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.table import Table

from hybrid.cli import show
from hybrid.errors import ConfigError, listing
from hybrid.files import atomic_write
from hybrid.prediction import Neighbor, Prediction

Writer = Callable[[Sequence[Prediction]], None]
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "table"}


@contextmanager
def opened(out: Path | None, name: str | None) -> Iterator[tuple[TextIO, str]]:
    """Open the output and yield it with its format: ``table``, ``jsonl`` or ``csv``.

    Parameters
    ----------
    out : Path, optional
        Appears when it is whole; default: stdout.
    name : str, optional
        The format; default: by the ending of `out`, ``table`` for stdout.

    Raises
    ------
    ConfigError
        If the ending does not say which.
    """
    chosen = name or (ENDINGS.get(out.suffix.lower()) if out else "table")
    if chosen is None:
        raise ConfigError(
            "the format of --out is not clear from its ending",
            got=str(out),
            fix="add --format table|jsonl|csv",
        )
    if out is None:
        yield sys.stdout, chosen
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as part, part.open("w", newline="", encoding="utf-8") as stream:
        yield stream, chosen


def console_of(stream: TextIO) -> Console:
    """A console that prints a table to an output of `opened`."""
    return show.stdout() if stream is sys.stdout else Console(file=stream, width=160)


def plain_table(*headings: str, numeric: Collection[str] = (), whole: Collection[str] = ()) -> Table:
    """A table without lines: numeric columns stand right, those that are kept whole are never broken."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading in numeric else "left"
        table.add_column(heading, justify=justify, no_wrap=heading in whole, overflow="fold")
    return table


def write_jsonl(rows: Iterable[Mapping[str, Any]], stream: TextIO) -> None:
    """Write one JSON object per line."""
    stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_writer(columns: Sequence[str], stream: TextIO) -> csv.DictWriter[str]:
    """Write the header of a CSV; what comes back writes the rows."""
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    return writer


def check_sheet(sheet: Path | None) -> None:
    """Refuse a contact sheet that is not a PNG."""
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise ConfigError("--sheet is a PNG", expected="a name that ends in .png", got=str(sheet))


def note_sheet(what: str, sheet: Path, unreadable: list[str]) -> None:
    """Say on stderr which contact sheet was drawn, and which of its images could not be read."""
    show.note(f"picture of the {what}: {sheet}")
    if unreadable:
        show.note(f"WARNING: {len(unreadable)} of them cannot be read any more and are gray: {listing(unreadable, 3)}")


@contextmanager
def writer_of(out: Path | None, name: str | None) -> Iterator[Writer]:
    """Open the output and yield a function that writes a batch of predictions."""
    with opened(out, name) as (stream, chosen), _formatted(stream, chosen) as write:
        yield write


@contextmanager
def _formatted(stream: TextIO, name: str) -> Iterator[Writer]:
    if name == "jsonl":

        def write_lines(predictions: Sequence[Prediction]) -> None:
            write_jsonl((p.to_dict() for p in predictions), stream)

        yield write_lines
    elif name == "csv":
        rows = csv_writer([field.name for field in fields(Prediction)], stream)

        def write_rows(predictions: Sequence[Prediction]) -> None:
            for prediction in predictions:
                opinions = {"top": prediction.top, "head": (prediction.head,), "zero_shot": (prediction.zero_shot,)}
                joined = {
                    name: "; ".join(f"{pair[0]}={pair[1]:.4f}" for pair in pairs if pair)
                    for name, pairs in opinions.items()
                }
                members = None if prediction.set is None else "; ".join(prediction.set)
                near = "; ".join(f"{n.label}={n.similarity:.4f} {n.path}" for n in prediction.neighbors or ())
                rows.writerow(prediction.to_dict() | joined | {"set": members, "neighbors": near})

        yield write_rows
    else:
        predictions: list[Prediction] = []
        yield predictions.extend
        _print_table(predictions, stream)


def _print_table(predictions: Sequence[Prediction], stream: TextIO) -> None:
    from rich.text import Text

    last = "set" if any(p.set is not None for p in predictions) else "then"
    nearest = ("nearest",) if any(p.neighbors is not None for p in predictions) else ()
    headings = ("photo", "label", "probability", "p(unseen)", "decided by", last, *nearest)
    table = plain_table(*headings, numeric=("probability", "p(unseen)"), whole=("photo",))
    for p in predictions:
        runners_up = ", ".join(f"{label} {q:.2f}" for label, q in p.top[:1] if label != p.label) or ", ".join(
            f"{label} {q:.2f}" for label, q in p.top[1:2]
        )
        p_unseen = "-" if p.p_unseen is None else f"{p.p_unseen:.2f}"
        label = Text(p.label, style="bold" if p.seen else "bold cyan")
        table.add_row(
            Text(short_path(p.path)),
            label,
            f"{p.probability:.2f}",
            p_unseen,
            p.expert,
            Text(runners_up if p.set is None else ", ".join(p.set), style="dim"),
            *(Text(_nearest(p.neighbors or ())) for _ in nearest),
        )
    console_of(stream).print(table)


def _nearest(neighbors: Sequence[Neighbor]) -> str:
    """Each label once, with the similarity of its photos: ``zebra 0.91, 0.90; horse 0.71``."""
    by_label: dict[str, list[str]] = {}
    for neighbor in neighbors:
        by_label.setdefault(neighbor.label, []).append(f"{neighbor.similarity:.2f}")
    return "; ".join(f"{label} {', '.join(similarity)}" for label, similarity in by_label.items())


def short_path(path: str) -> str:
    """A path as seen from here, where it lies below."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
