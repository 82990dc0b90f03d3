"""Show scores and answers to people: marked figures, a terminal table of systems, a contact sheet of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill

from rich.text import Text

from hybrid.evaluation.metrics import SystemScores
from hybrid.images.pipeline import read_and_decode
from hybrid.images.records import ImageRecord
from hybrid.plotting import SEEN, UNSEEN, Tile, draw_contact_sheet
from hybrid.prediction import Prediction
from hybrid.terminal import Column, FittedTable

MISSING = "\N{EN DASH}"

# field of SystemScores -> column heading, broken in two where one line would make the table too wide
HEADINGS = {
    "accuracy": "accu-\nracy",
    "seen": "seen",
    "unseen": "unseen",
    "harmonic_mean": "harmonic\nmean",
    "ausuc": "AUSUC",
    "gate_auroc": "gate\nAUROC",
    "ece": "ECE",
    "ece_debiased": "debiased\nECE",
    "nll": "NLL",
    "images_per_second": "images\nper s",
}
LOWER_IS_BETTER = {"ece", "ece_seen", "ece_unseen", "ece_debiased", "adaptive_ece", "nll", "brier", "aurc"}


def scores_table(systems: Mapping[str, SystemScores | None]) -> FittedTable:
    """Lay out the main figures of each system, the best of each column in bold.

    Parameters
    ----------
    systems : mapping of str to SystemScores or None
        By name, in the order of the rows; None for a system that the run cannot offer: a row of dashes.

    Returns
    -------
    FittedTable
        At most 80 columns wide; on a narrower console the last figures stand in a table beneath. Figures that look
        alike at three digits are equally bold; a column with a single figure has no best one.
    """
    headings = [Column(heading, "number") for heading in HEADINGS.values()]
    table = FittedTable([Column("system"), *headings], ruled=True, below=True)
    columns = []
    for field in HEADINGS:
        values = [None if scores is None else getattr(scores, field) for scores in systems.values()]
        columns.append([Text(text, style="bold" if best else "") for text, best in marked_figures(field, values)])
    for name, *cells in zip(systems, *columns, strict=True):
        table.add_row(name.replace("_", "-"), *cells)
    return table


def marked_figures(field: str, values: Sequence[float | None]) -> list[tuple[str, bool]]:
    """Write the figures that several systems have of one kind, and mark the best.

    Parameters
    ----------
    field : str
        Name of the figure in `SystemScores`.
    values : sequence of float or None
        One per system.

    Returns
    -------
    list of (text, best)
        None is a dash. Figures that look alike at three digits are equally the best; a single figure is not.
    """
    texts = [MISSING if value is None else _figure(field, value) for value in values]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return [(text, False) for text in texts]
    if field not in LOWER_IS_BETTER:
        best = _figure(field, max(known))
        return [(text, text == best) for text in texts]
    # A debiased error below 0 is by chance: it is none, and no better than any other that is none.
    least = _figure(field, max(min(known), 0.0))
    return [
        (text, value is not None and _figure(field, max(value, 0.0)) == least)
        for text, value in zip(texts, values, strict=True)
    ]


def _figure(field: str, value: float) -> str:
    if field != "images_per_second":
        return f"{value:.3f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # never 1.23e+03


def draw_grid(answered: Sequence[tuple[ImageRecord, Prediction]], file: Path) -> list[str]:
    """Draw images in a grid and write a PNG; the paths of those that cannot be read any more come back.

    Green marks a class the head was trained on, blue one that a prompt names or a few images show.
    """
    tiles = [
        Tile(
            record.path,
            partial(read_and_decode, record),
            f"{fill(answer.label, 22)}\n{answer.probability:.0%}, {answer.expert}",
            fill(f"head alone: {answer.head[0]} {answer.head[1]:.0%}", 30)
            if answer.head and answer.head[0] != answer.label
            else "",
            color=SEEN if answer.seen else UNSEEN,
            bold=True,
        )
        for record, answer in answered
    ]
    return draw_contact_sheet(tiles, "green: a trained class     blue: known by its name or a few photos", file)
