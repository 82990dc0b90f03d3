"""A contact sheet of the images that a search found, best first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from hybrid.images.pipeline import read_and_decode
from hybrid.plotting import COLUMNS, UNSEEN, Tile, draw_contact_sheet
from hybrid.tools.search.search import Hit

if TYPE_CHECKING:
    from PIL.Image import Image

# A sheet is for looking at; far above this, matplotlib cannot draw it at all (65,536 pixels a side).
MOST = 100


def draw_sheet(hits: Sequence[Hit], file: Path, *, title: str, query: Image | None = None) -> list[str]:
    """Draw the found images in their order and write a PNG.

    Parameters
    ----------
    hits : sequence of Hit
        At least one; the first `MOST` are drawn.
    file : Path
    title : str
        What was searched for.
    query : PIL RGB, optional
        The image that was searched with: drawn first, in a blue frame.

    Returns
    -------
    list of str
        Paths of images that cannot be read any more: their panels are gray.
    """
    tiles = [_tile(rank, hit) for rank, hit in enumerate(hits[:MOST], 1)]
    if query is not None:
        tiles.insert(0, Tile("query", lambda: query, "searched with\n", color=UNSEEN, bold=True, framed=True))
    return draw_contact_sheet(tiles, fill(title, 24 * min(len(tiles), COLUMNS)), file)


def _tile(rank: int, hit: Hit) -> Tile:
    label = fill(hit.label or "no label", 22, max_lines=3, placeholder="…")
    read = partial(read_and_decode, hit.record)
    return Tile(hit.record.path, read, f"{rank}:  {hit.score:.3f}\n{label}", _name(hit))


def _name(hit: Hit) -> str:
    """The end of the path, with its folder where that says more than the label above the image."""
    path = Path(hit.record.path)
    name = path.name if path.parent.name == hit.label else f"{path.parent.name}/{path.name}"
    copies = f" (+{len(hit.copies)} copies)" if hit.copies else ""
    itself = " (the photo itself)" if hit.itself else ""
    return fill(f"{name}{copies}{itself}", 34)
