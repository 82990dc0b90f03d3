"""A contact sheet: the images that a search found, best first, on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from hybrid.errors import UnreadableImageError
from hybrid.images.pipeline import read_and_decode
from hybrid.tools.search.search import Hit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

COLUMNS = 5
PIXELS = 224
# A sheet is for looking at; far above this, matplotlib cannot draw it at all (65,536 pixels a side).
MOST = 100
FRAME, GRAY = "#1f5fa8", "0.4"


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
    shown, unreadable = hits[:MOST], []
    figure, panels = panels_for(len(shown) + (query is not None))
    figure.suptitle(fill(title, 24 * min(len(panels), COLUMNS)), fontsize=11, parse_math=False)
    if query is not None:
        _draw_query(panels[0], query)
    for rank, (panel, hit) in enumerate(zip(panels[query is not None :], shown, strict=True), 1):
        try:
            show_image(panel, read_and_decode(hit.record))
        except UnreadableImageError:
            show_image(panel, None)
            unreadable.append(hit.record.path)
        label = fill(hit.label or "no label", 22, max_lines=3, placeholder="…")
        panel.set_title(f"{rank}:  {hit.score:.3f}\n{label}", fontsize=8.5, parse_math=False)
        panel.set_xlabel(_name(hit), fontsize=7, color=GRAY, parse_math=False)
    part = file.with_name(file.name + ".part")
    figure.savefig(part, format="png", dpi=100)
    part.replace(file)
    return unreadable


def panels_for(count: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with a panel for each of `count` images, row by row; at least one."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.3 * columns, 3.15 * rows + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.12))
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for panel in panels:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    return figure, panels[:count]


def show_image(panel: Axes, image: Image | None) -> None:
    """Draw an image whole in a square panel; a gray one says that it cannot be read."""
    import numpy as np
    from PIL import Image as Pillow
    from PIL import ImageOps

    if image is None:
        panel.imshow(np.asarray(Pillow.new("RGB", (PIXELS, PIXELS), "#dddddd")))
        panel.text(PIXELS / 2, PIXELS / 2, "cannot be read", ha="center", va="center", color=GRAY, fontsize=9)
    else:
        panel.imshow(np.asarray(ImageOps.pad(image, (PIXELS, PIXELS), color="white")))


def _draw_query(panel: Axes, image: Image) -> None:
    show_image(panel, image)
    panel.spines[:].set(visible=True, color=FRAME, linewidth=3)
    panel.set_title("searched with\n", fontsize=8.5, color=FRAME, fontweight="bold")


def _name(hit: Hit) -> str:
    """The end of the path, with its folder where that says more than the label above the image."""
    path = Path(hit.record.path)
    name = path.name if path.parent.name == hit.label else f"{path.parent.name}/{path.name}"
    copies = f" (+{len(hit.copies)} copies)" if hit.copies else ""
    itself = " (the photo itself)" if hit.itself else ""
    return fill(f"{name}{copies}{itself}", 34)
