"""A contact sheet of the most suspicious labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import fill, shorten

from hybrid.images.pipeline import read_and_decode
from hybrid.plotting import Tile, draw_contact_sheet
from hybrid.tools.audit.labels import Suspect

MOST = 25
GIVEN, SUGGESTED = "#a8321f", "#1b6e3c"


def draw_suspects(suspects: Sequence[Suspect], file: Path) -> list[str]:
    """Draw the first `MOST` images and write a PNG: the label in red above each, what it probably is in green below.

    Parameters
    ----------
    suspects : sequence of Suspect
        At least one.
    file : Path

    Returns
    -------
    list of str
        Paths of images that cannot be read any more: their panels are gray.
    """
    return draw_contact_sheet(
        [_tile(suspect) for suspect in suspects[:MOST]], "red: the label\ngreen: what it probably is", file
    )


def _tile(suspect: Suspect) -> Tile:
    above, below = _lines(suspect.label, suspect.score), _lines(suspect.suggested, suspect.probability)
    read = partial(read_and_decode, suspect.record)
    return Tile(suspect.record.path, read, above, below, color=GIVEN, below_color=SUGGESTED, below_size=8.5)


def _lines(label: str, probability: float) -> str:
    # A no-break space keeps the number beside the last word.
    return fill(f"{shorten(label, 44, placeholder='…')}\u00a0{probability:.0%}", 24)
