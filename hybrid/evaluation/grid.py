"""A picture of predictions: each photo with its answer, its probability and who decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from hybrid.answers import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

SEEN, UNSEEN = "#1b6e3c", "#1f5fa8"
COLUMNS = 5
PIXELS = 224


def draw_grid(predictions: Sequence[Prediction], images: Sequence[Image], file: Path) -> None:
    """Draw photos in a grid and write a PNG.

    Parameters
    ----------
    predictions, images : sequences of the same length
        Green marks a class the head was trained on, blue one that only a prompt names.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from PIL import ImageOps

    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.3 * columns, 3.15 * rows + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.12))
    figure.suptitle("green: a trained class     blue: a class known only by its name", fontsize=10, color="0.3")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for panel, prediction, image in zip(panels, predictions, images, strict=False):
        panel.imshow(ImageOps.pad(image, (PIXELS, PIXELS), color="white"))
        colour = SEEN if prediction.seen else UNSEEN
        title = f"{fill(prediction.label, 22)}\n{prediction.probability:.0%}, {prediction.expert}"
        panel.set_title(title, fontsize=8.5, color=colour, fontweight="bold")
        if prediction.head is not None and prediction.head[0] != prediction.label:
            other = fill(f"head alone: {prediction.head[0]} {prediction.head[1]:.0%}", 30)
            panel.set_xlabel(other, fontsize=7, color="0.4")
    figure.savefig(file, dpi=100)
