"""What figures share: how they are saved, the colors of the answers, and the contact sheet.

Figures are made of `matplotlib.figure.Figure`, which pyplot does not know: nothing has to be closed, and no window
system or backend is asked for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.errors import UnreadableImageError
from hybrid.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

SEEN, UNSEEN = "#1b6e3c", "#1f5fa8"
"""Green and blue: a class the head was trained on, and any other."""
GRAY = "0.4"
COLUMNS, PIXELS = 5, 224


@dataclass(frozen=True)
class Tile:
    """One image of a contact sheet.

    Attributes
    ----------
    name : str
        Such as its path: what is returned where the image cannot be read.
    read : callable
        Gives the image as PIL RGB, or raises `UnreadableImageError`; called once, when the tile is drawn.
    above, below : str
        What is written there, with its line breaks.
    color, below_color : matplotlib colors
    below_size : float
        Points.
    bold : bool
        Of the text above.
    framed : bool
        Whether a frame in `color` sets it apart.
    """

    name: str
    read: Callable[[], Image]
    above: str
    below: str = ""
    color: str = "black"
    below_color: str = GRAY
    below_size: float = 7
    bold: bool = False
    framed: bool = False


def draw_contact_sheet(tiles: Sequence[Tile], title: str, file: Path) -> list[str]:
    """Draw images row by row with their texts, and write a PNG.

    Parameters
    ----------
    tiles : sequence of Tile
        At least one.
    title : str
        With its line breaks.

    Returns
    -------
    list of str
        Names of the tiles whose image cannot be read: they are gray and say so.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(2.3 * columns, 3.15 * rows + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.12))
    figure.suptitle(title, fontsize=10, color="0.3", parse_math=False)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        hide_axes(panel)
    unreadable = [tile.name for tile, panel in zip(tiles, panels, strict=False) if not _draw_tile(panel, tile)]
    save_png(figure, file)
    return unreadable


def save_png(figure: Figure, file: Path, dpi: int = 100) -> None:
    """Write a figure as a PNG that says who drew it, whole or not at all, whatever the ending of its name."""
    drawn = io.BytesIO()  # a pipe cannot be written to by a library that goes back in its file
    figure.savefig(drawn, format="png", dpi=dpi, metadata={"Software": "hybrid"})
    with atomic_write(file) as part:
        part.write_bytes(drawn.getvalue())


def hide_axes(panel: Axes) -> None:
    """Leave out ticks and frame, as for an image."""
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def _draw_tile(panel: Axes, tile: Tile) -> bool:
    """Draw an image whole in a square panel; whether it could be read."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        image = tile.read()
    except UnreadableImageError:
        image = None
        panel.text(PIXELS / 2, PIXELS / 2, "cannot be read", ha="center", va="center", color=GRAY, fontsize=9)
    square = (PIXELS, PIXELS)
    shown = Image.new("RGB", square, "#dddddd") if image is None else ImageOps.pad(image, square, color="white")
    panel.imshow(np.asarray(shown))
    weight = "bold" if tile.bold else "normal"
    panel.set_title(tile.above, fontsize=8.5, color=tile.color, fontweight=weight, parse_math=False)
    panel.set_xlabel(tile.below, fontsize=tile.below_size, color=tile.below_color, parse_math=False)
    if tile.framed:
        panel.spines[:].set(visible=True, color=tile.color, linewidth=3)
    return image is not None
