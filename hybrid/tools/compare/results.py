"""What is known of one recipe after its test: the file that keeps it, and tables of several."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct, field
from rich.text import Text

from hybrid import __version__
from hybrid.config import HeadSettings, encode_settings
from hybrid.encoders.base import expand_user
from hybrid.errors import ArtifactError
from hybrid.evaluation.report import MISSING, marked_figures
from hybrid.files import file_sha256, safe_cell
from hybrid.heads.base import LabeledImages
from hybrid.run.files import FORMAT, read_json
from hybrid.terminal import Column, FittedTable

RESULT = "result.json"
# What changes no figure here: the recipe's words, how many processes load images, and what only a gate asks.
FREE = ("description", "workers", "gate_folds")
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


class ClassFigures(Struct, frozen=True, kw_only=True):
    """One class of the test: shares from 0 to 1 (0 where there is nothing to share), and its test images."""

    name: str
    precision: float
    recall: float
    support: int


class Result(Struct, frozen=True, kw_only=True):
    """``result.json``: one trained and tested recipe.

    Attributes
    ----------
    key : str
        Hash of the settings, of the images and labels of the three splits, and of the encoder.
    dataset_key : str
        Hash of the test images and of all others, whoever of them validates: rows with one key share a table.
    accuracy, macro_precision, macro_recall : float
        On the test images; the macro figures are means over the classes that have test images.
    val_accuracy : float
        Share of the validation images that are classified right.
    parameters : int
        Of all that classifies an image: for a linear head the encoder of the images too.
    trainable : int
    gflops : float or None
        10^9 operations for one image, a multiply-add counted as two; None where they cannot be counted.
    epochs, best_epoch : int or None
        Run, and kept; None for a head that is not trained in epochs.
    seconds : float
        Wall clock of the training, with loading and validation; after a break, only since it went on.
    resumed : bool
        Whether it went on from a checkpoint.
    images_per_second : float
        From prepared images in memory to logits, in batches.
    """

    format: int = FORMAT
    hybrid_version: str = __version__
    name: str
    settings: HeadSettings
    key: str
    dataset_key: str
    encoder: str | None
    device: str
    images: dict[str, int] = field(name="photos")
    accuracy: float
    macro_precision: float
    macro_recall: float
    val_accuracy: float
    parameters: int | None
    trainable: int
    gflops: float | None
    epochs: int | None
    best_epoch: int | None
    seconds: float
    resumed: bool
    images_per_second: float
    classes: tuple[ClassFigures, ...]
    notes: tuple[str, ...] = ()


class Failure(Struct, frozen=True, kw_only=True):
    """A recipe that could not be trained or tested, and why."""

    name: str
    reason: str


Rows = Sequence[Result | Failure]


def result_key(settings: HeadSettings, classes: Iterable[str], parts: Mapping[str, LabeledImages], encoder: str) -> str:
    """Hash all that a result depends on, the settings but for `FREE`.

    Local weights of the backbone count by their content where the file can be read.
    """
    values = {name: value for name, value in settings.flat().items() if name not in FREE}
    weights = expand_user(settings.model.backbone_weights) if settings.model.backbone_weights else None
    if weights is not None and weights.is_file():
        values["backbone_weights"] = file_sha256(weights)
    split = {name: _contents(part) for name, part in parts.items()}
    return _digest([values, list(classes), split, encoder])


def dataset_key(classes: Iterable[str], test: LabeledImages, *others: LabeledImages) -> str:
    """Hash the test images and all others, with their classes."""
    rest = sorted(pair for part in others for pair in _contents(part))
    return _digest([list(classes), _contents(test), rest])


def read_result(file: Path) -> Result | None:
    """Read a result; None where there is none, or none that this version understands."""
    try:
        return read_json(file, Result)
    except ArtifactError:
        return None


def as_csv(rows: Rows) -> str:
    """One line per recipe, figures in full; `failed` holds the reason of a recipe without figures."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        failed = {"failed": safe_cell(row.reason)} if isinstance(row, Failure) else {}
        figures = {name: getattr(row, name, "") for name in CSV_FIELDS}
        writer.writerow(figures | {"name": safe_cell(row.name)} | failed)
    return out.getvalue()


def as_json(rows: Rows, notes: Sequence[str]) -> str:
    """All results with their settings and classes, the failures, and the notes."""
    value = {
        "results": [row for row in rows if isinstance(row, Result)],
        "failed": [row for row in rows if isinstance(row, Failure)],
        "notes": list(notes),
    }
    plain = msgspec.to_builtins(value, enc_hook=encode_settings)
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def as_markdown(rows: Rows, notes: Sequence[str]) -> str:
    """A Markdown table with the best of each share in bold, failures and notes beneath."""
    headings = ["recipe", *(" ".join(heading.split()) for heading in HEADINGS.values())]
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * len(HEADINGS)]
    for name, cells in _cells(rows):
        texts = [_escape(name), *(f"**{text}**" if best else text for text, best in cells)]
        lines.append(f"| {' | '.join(texts)} |")
    failed = [f"{row.name} failed: {row.reason}" for row in rows if isinstance(row, Failure)]
    return "\n".join([*lines, "", *(f"- {_escape(line)}" for line in (*failed, *notes))]) + "\n"


def as_table(rows: Rows) -> FittedTable:
    """A terminal table: where it is too narrow, names are folded, then the last figures stand beneath."""
    headings = [Column(heading, "number") for heading in HEADINGS.values()]
    table = FittedTable([Column("recipe"), *headings], ruled=True, below=True)
    for name, cells in _cells(rows):
        table.add_row(name, *(Text(text, style="bold" if best else "") for text, best in cells))
    return table


def large(number: float) -> str:
    """Write a count of parameters in three digits: ``850``, ``12.3 k``, ``4.01 M``."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        # 999,999 must not become 1000 k.
        if number >= 0.9995 * size:
            return _three(number / size) + unit
    return str(int(number))


def _cells(rows: Rows) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Each row's name and, by heading, its figure in words and whether it is the best share of all rows."""
    columns = [
        marked_figures(name, [getattr(row, name, None) for row in rows])
        if name in SHARES
        else [(_cell(row, name), False) for row in rows]
        for name in HEADINGS
    ]
    for row, *cells in zip(rows, *columns, strict=True):
        if isinstance(row, Failure):
            cells[0] = "failed", False
        yield row.name, cells


def _cell(row: Result | Failure, name: str) -> str:
    value = getattr(row, name, None)
    if isinstance(row, Failure) or value is None:
        return MISSING
    if name == "epochs":
        return f"{value} ({row.best_epoch})"
    return large(value) if name in ("parameters", "trainable") else _three(value)


def _contents(part: LabeledImages) -> list[tuple[str, int]]:
    return sorted(zip(part.hashes, part.target.tolist(), strict=True))


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16]


def _three(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:#.3g}" if value >= 1e-3 else np.format_float_positional(value, 2, fractional=False, trim="-")


def _escape(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").split())
