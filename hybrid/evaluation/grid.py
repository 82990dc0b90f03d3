"""A contact sheet of predictions: each image with its answer, its probability and who decided."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import fill

from hybrid.images.pipeline import read_and_decode
from hybrid.images.records import ImageRecord
from hybrid.plotting import SEEN, UNSEEN, Tile, draw_contact_sheet
from hybrid.prediction import Prediction


def draw_grid(answered: Sequence[tuple[ImageRecord, Prediction]], file: Path) -> list[str]:
    """Draw images in a grid and write a PNG; the paths of those that cannot be read any more come back.

    Green marks a class the head was trained on, blue one that a prompt names or a few images show.
    """
    title = "green: a trained class     blue: known by its name or a few photos"
    return draw_contact_sheet([_tile(record, prediction) for record, prediction in answered], title, file)


def _tile(record: ImageRecord, prediction: Prediction) -> Tile:
    alone = prediction.head
    return Tile(
        record.path,
        partial(read_and_decode, record),
        f"{fill(prediction.label, 22)}\n{prediction.probability:.0%}, {prediction.expert}",
        fill(f"head alone: {alone[0]} {alone[1]:.0%}", 30) if alone and alone[0] != prediction.label else "",
        color=SEEN if prediction.seen else UNSEEN,
        bold=True,
    )
