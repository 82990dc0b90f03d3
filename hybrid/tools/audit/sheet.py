"""A contact sheet of the most suspicious labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill, shorten

from hybrid.errors import UnreadableImageError
from hybrid.images.pipeline import read_and_decode
from hybrid.tools.audit.labels import Suspect
from hybrid.tools.search.sheet import panels_for, show_image

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
    shown, unreadable = suspects[:MOST], []
    figure, panels = panels_for(len(shown))
    figure.suptitle("red: the label\ngreen: what it probably is", fontsize=9, color="0.3")
    for panel, suspect in zip(panels, shown, strict=True):
        try:
            show_image(panel, read_and_decode(suspect.record))
        except UnreadableImageError:
            show_image(panel, None)
            unreadable.append(suspect.record.path)
        panel.set_title(_lines(suspect.label, suspect.score), fontsize=8.5, color=GIVEN, parse_math=False)
        below = _lines(suspect.suggested, suspect.probability)
        panel.set_xlabel(below, fontsize=8.5, color=SUGGESTED, parse_math=False)
    part = file.with_name(file.name + ".part")
    figure.savefig(part, format="png", dpi=100)
    part.replace(file)
    return unreadable


def _lines(label: str, probability: float) -> str:
    # A space that does not break keeps the number beside the last word.
    return fill(f"{shorten(label, 44, placeholder='…')}\u00a0{probability:.0%}", 24)
