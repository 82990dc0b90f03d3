"""Write results as a table, JSON lines or CSV, to stdout or to a file that appears when it is whole."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hybrid.cli import show
from hybrid.cli.failures import BROKEN_PIPE, Stopped
from hybrid.cli.options import OutputOptions, PredictionOutputOptions
from hybrid.errors import ConfigError, listing, visible
from hybrid.files import atomic_write, is_stdout, json_line, safe_cell
from hybrid.images.remote import is_remote
from hybrid.prediction import DetectedBox, Neighbor, Prediction
from hybrid.terminal import Column, FittedTable, SafeConsole

if TYPE_CHECKING:
    from hybrid.run.megadetector import MegaDetectorResults

Writer = Callable[[Sequence[Prediction]], None]
AnyOutput = OutputOptions | PredictionOutputOptions
MEGADETECTOR, PARQUET, LABEL_STUDIO = "megadetector", "parquet", "label-studio"
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "table"}


@contextmanager
def opened(output: AnyOutput) -> Iterator[tuple[TextIO, str]]:
    """Open the output and yield it with its format: ``table``, ``jsonl`` or ``csv``.

    A file appears when it is whole. ``-``, ``/dev/stdout`` and the like are stdout.

    Raises
    ------
    ConfigError
        If its ending does not say which format.
    """
    chosen, out = format_of(output), output.out
    if out is None or is_stdout(out):
        try:
            yield sys.stdout, chosen
        except BrokenPipeError as error:  # its reader has had enough
            raise Stopped("", BROKEN_PIPE) from error
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    # A path that is not UTF-8 holds halves of characters, which no encoding takes.
    with atomic_write(out) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        yield stream, chosen


def format_of(output: AnyOutput) -> str:
    """The format that was asked for, else the one of the file's ending, else ``table`` for stdout.

    Raises
    ------
    ConfigError
        If the ending does not say which.
    """
    out = output.out
    endings = ENDINGS | ({".parquet": PARQUET} if isinstance(output, PredictionOutputOptions) else {})
    if output.format_ is not None:
        chosen: str | None = output.format_.value
        if chosen == PARQUET and (out is None or is_stdout(out)):
            raise ConfigError("Parquet goes to a file", got="stdout", fix="add --out predictions.parquet")
        return str(chosen)
    if out is None or ((chosen := endings.get(out.suffix.lower())) is None and is_stdout(out)):
        return "table"
    if chosen is None:
        raise ConfigError(
            "the format of --out is not clear from its ending", got=str(out), fix="add --format table|jsonl|csv"
        )
    return chosen


def console_of(stream: TextIO) -> SafeConsole:
    """A console that prints a table to an output of `opened`."""
    return show.stdout() if stream is sys.stdout else SafeConsole(file=stream, width=show.ANY_WIDTH)


def write_jsonl(rows: Iterable[Mapping[str, Any]], stream: TextIO) -> None:
    """Write one JSON object per line; what a terminal would obey or the stream cannot hold is escaped, as JSON may."""
    for row in rows:
        stream.write(json_line(row, stream))


class CsvWriter:
    """Writes rows of a CSV, and its header at once.

    Parameters
    ----------
    safe : bool
        Put an apostrophe before texts that a spreadsheet would take for a formula (`safe_cell`).
    """

    def __init__(self, columns: Sequence[str], stream: TextIO, *, safe: bool = True) -> None:
        self._writer = csv.DictWriter(stream, columns, lineterminator="\n")
        self._safe, self._terminal = safe, stream.isatty()
        self._writer.writeheader()

    def writerow(self, row: Mapping[str, Any]) -> None:
        """Write a row; cells that are missing or None stay empty."""
        self._writer.writerow({name: self._cell(value) for name, value in row.items()})

    def writerows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write several rows."""
        for row in rows:
            self.writerow(row)

    def _cell(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = safe_cell(value) if self._safe else value
        return visible(text) if self._terminal else text


def note_sheet(what: str, sheet: Path, unreadable: list[str]) -> None:
    """Say on stderr which contact sheet was drawn, and which of its images could not be read."""
    show.note(f"picture of the {what}: {sheet}")
    if unreadable:
        show.note(f"WARNING: {len(unreadable)} of them cannot be read any more and are gray: {listing(unreadable, 3)}")


@contextmanager
def writer_of(output: AnyOutput, results: MegaDetectorResults | None = None, name: str = "") -> Iterator[Writer]:
    """Open the output and yield a function that writes a batch of predictions.

    Parameters
    ----------
    results : MegaDetectorResults, optional
        For the format of this name, which is written at the end.
    name : str
        Of the classifier, there and for Label Studio.
    """
    if format_of(output) == PARQUET and output.out is not None:
        from hybrid.cli.parquet import parquet_writer

        output.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(output.out) as part, parquet_writer(part) as write:
            yield write
        return
    with opened(output) as (stream, chosen):
        if chosen == MEGADETECTOR and results is not None:
            yield results.add
            json.dump(results.document(name, datetime.now().astimezone()), stream, indent=1, allow_nan=False)
            stream.write("\n")
            return
        if chosen == LABEL_STUDIO:
            from hybrid.cli.label_studio import label_studio_writer

            with label_studio_writer(stream, name) as write:
                yield write
            return
        with _formatted(stream, chosen, output.safe_csv) as write:
            yield write


@contextmanager
def _formatted(stream: TextIO, name: str, safe: bool) -> Iterator[Writer]:
    if name == "jsonl":

        def write_lines(predictions: Sequence[Prediction]) -> None:
            write_jsonl((p.to_dict() for p in predictions), stream)

        yield write_lines
    elif name == "csv":
        rows = CsvWriter([field.name for field in fields(Prediction)], stream, safe=safe)

        def write_rows(predictions: Sequence[Prediction]) -> None:
            for prediction in predictions:
                opinions = {
                    "top": prediction.top,
                    "head": (prediction.head,),
                    "zero_shot": (prediction.zero_shot,),
                    "own": (prediction.own,),
                }
                joined = {
                    name: "; ".join(f"{pair[0]}={pair[1]:.4f}" for pair in pairs if pair)
                    for name, pairs in opinions.items()
                }
                members = None if prediction.set is None else "; ".join(prediction.set)
                near = "; ".join(f"{n.label}={n.similarity:.4f} {n.path}" for n in prediction.neighbors or ())
                texts = {"set": members, "neighbors": near, "box": _box(prediction.box)}
                rows.writerow(prediction.to_dict() | joined | texts)

        yield write_rows
    else:
        predictions: list[Prediction] = []
        yield predictions.extend
        _print_table(predictions, stream)


def _print_table(predictions: Sequence[Prediction], stream: TextIO) -> None:
    from rich.text import Text

    sets = any(p.set is not None for p in predictions)
    nearest = [Column("nearest", rank=2)] if any(p.neighbors is not None for p in predictions) else []
    leaves = [Column("likeliest", rank=2)] if any(p.leaf is not None for p in predictions) else []
    columns = [Column("photo", "path"), Column("label"), Column("prob.", "number"), *leaves]
    columns += [Column("p(unseen)", "number", rank=4), Column("decided by", rank=3)]
    # What was asked for by a flag stays the longest.
    columns += [Column("set", rank=1) if sets else Column("then", rank=5, lines=2), *nearest]
    table = FittedTable(columns)
    for p in predictions:
        runners_up = ", ".join(f"{label} {q:.2f}" for label, q in p.top[:1] if label != p.label) or ", ".join(
            f"{label} {q:.2f}" for label, q in p.top[1:2]
        )
        p_unseen = "-" if p.p_unseen is None else f"{p.p_unseen:.2f}"
        label = Text(p.label, style="bold" if p.seen else "bold cyan")
        table.add_row(
            short_path(p.path),
            label,
            f"{p.probability:.2f}",
            *(_leaf(p) for _ in leaves),
            p_unseen,
            p.expert,
            Text(runners_up if p.set is None else ", ".join(p.set), style="dim"),
            *(_nearest(p.neighbors or ()) for _ in nearest),
        )
    console_of(stream).print(table)


def _leaf(prediction: Prediction) -> str:
    """The likeliest class, where the answer is another one."""
    return "" if prediction.leaf in (None, prediction.label) else str(prediction.leaf)


def _box(box: DetectedBox | None) -> str | None:
    """A box as a text: ``x=0.125; y=0.4; width=0.2; height=0.15; animal=0.93``."""
    if box is None:
        return None
    numbers = [(name, getattr(box, name)) for name in ("x", "y", "width", "height")]
    numbers += [] if box.detection is None else [(box.detection, box.confidence)]
    return "; ".join(f"{name}={number:.6g}" for name, number in numbers)


def _nearest(neighbors: Sequence[Neighbor]) -> str:
    """Each label once, with the similarity of its photos: ``zebra 0.91, 0.90; horse 0.71``."""
    by_label: dict[str, list[str]] = {}
    for neighbor in neighbors:
        by_label.setdefault(neighbor.label, []).append(f"{neighbor.similarity:.2f}")
    return "; ".join(f"{label} {', '.join(similarity)}" for label, similarity in by_label.items())


def short_path(path: str) -> str:
    """A path as seen from here, where it lies below; URLs stay."""
    if is_remote(path):
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
