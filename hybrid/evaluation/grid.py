"""A picture of predictions: each image with its answer, its probability and who decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from hybrid.prediction import Prediction
from hybrid.tools.search.sheet import panels_for, show_image

if TYPE_CHECKING:
    from PIL.Image import Image

SEEN, UNSEEN = "#1b6e3c", "#1f5fa8"


def draw_grid(predictions: Sequence[Prediction], images: Sequence[Image], file: Path) -> None:
    """Draw images in a grid and write a PNG.

    Parameters
    ----------
    predictions, images : sequences of the same length
        Green marks a class the head was trained on, blue one that a prompt names or a few images show.
    """
    figure, panels = panels_for(len(images))
    figure.suptitle("green: a trained class     blue: known by its name or a few photos", fontsize=10, color="0.3")
    for panel, prediction, image in zip(panels, predictions, images, strict=True):
        show_image(panel, image)
        color = SEEN if prediction.seen else UNSEEN
        title = f"{fill(prediction.label, 22)}\n{prediction.probability:.0%}, {prediction.expert}"
        panel.set_title(title, fontsize=8.5, color=color, fontweight="bold", parse_math=False)
        if prediction.head is not None and prediction.head[0] != prediction.label:
            other = fill(f"head alone: {prediction.head[0]} {prediction.head[1]:.0%}", 30)
            panel.set_xlabel(other, fontsize=7, color="0.4", parse_math=False)
    figure.savefig(file, dpi=100)
