"""The findings of an audit as rows for JSON lines and for CSV, and as a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

from hybrid.images.pipeline import read_and_decode
from hybrid.plotting import Tile, draw_contact_sheet
from hybrid.tools.audit.audit import Audit
from hybrid.tools.audit.duplicates import DuplicateGroup
from hybrid.tools.audit.labels import Suspect
from hybrid.tools.audit.leakage import SplitSequence
from hybrid.tools.audit.quality import SIDE, PoorImage

CSV_COLUMNS = (
    *("finding", "group", "path", "label", "split", "similarity", "faults"),
    *("suggested", "score", "probability", "zero_shot", "nearest"),
    *("sharpness", "brightest", "darkest", "shorter_side", "sequence"),
)
DIGITS = 6
MOST_DRAWN = 25
GIVEN, SUGGESTED = "#a8321f", "#1b6e3c"


def as_json(audit: Audit) -> list[dict[str, Any]]:
    """One object per group of duplicates, per suspicious label, per poor image, and per sequence in several splits."""
    return [
        *map(group_json, audit.duplicates),
        *map(suspect_json, audit.suspects or ()),
        *map(poor_json, poor(audit)),
        *map(sequence_json, audit.leakage.split),
    ]


def as_csv(audit: Audit) -> Iterator[dict[str, Any]]:
    """One row per image and finding; one that is in a group and has a suspicious label has two."""
    for number, group in enumerate(audit.duplicates, 1):
        values = group_json(group)
        for image in values["photos"]:
            row = {key: image[key] for key in ("path", "label", "split", "similarity")}
            yield row | {"finding": values["finding"], "group": number, "faults": "; ".join(group.faults)}
    for suspect in audit.suspects or ():
        row = suspect_json(suspect)
        yield {key: row[key] for key in CSV_COLUMNS if key in row} | {"nearest": nearest_labels(suspect)}
    for values in map(poor_json, poor(audit)):
        yield {key: values[key] for key in CSV_COLUMNS if key in values} | {"faults": "; ".join(values["faults"])}
    for number, sequence in enumerate(audit.leakage.split, 1):
        shared = {"finding": "leakage", "group": number, "faults": "crosses splits", "sequence": sequence.sequence}
        for photo in sequence_json(sequence)["photos"]:
            yield shared | photo


def poor(audit: Audit) -> tuple[PoorImage, ...]:
    """The poor images; none where they were not asked for."""
    return audit.quality.poor if audit.quality else ()


def group_json(group: DuplicateGroup) -> dict[str, Any]:
    """A group of duplicates as plain JSON values."""
    return {
        "finding": "duplicates",
        "exact": group.exact,
        "similarity": round(group.similarity, DIGITS),
        "faults": list(group.faults),
        "burst": group.burst,
        "labels": list(group.labels),
        "splits": list(group.splits),
        "photos": [
            {
                "path": image.record.path,
                "label": image.record.label,
                "split": image.record.split,
                "sha256": image.sha256,
                "similarity": round(image.similarity, DIGITS),
            }
            for image in group.images
        ],
    }


def poor_json(image: PoorImage) -> dict[str, Any]:
    """A poor image as plain JSON values."""
    measures = image.measures
    return {
        "finding": "quality",
        "path": image.record.path,
        "copies": list(image.copies),
        "label": image.record.label,
        "split": image.record.split,
        "faults": list(image.faults),
        "sharpness": round(measures.sharpness, DIGITS),
        "brightest": round(measures.brightest, DIGITS),
        "darkest": round(measures.darkest, DIGITS),
        "shorter_side": measures.side if measures.side < SIDE else None,
    }


def suspect_json(suspect: Suspect) -> dict[str, Any]:
    """An image with a suspicious label as plain JSON values."""
    return {
        "finding": "label",
        "path": suspect.record.path,
        "copies": list(suspect.copies),
        "label": suspect.label,
        "split": suspect.record.split,
        "suggested": suspect.suggested,
        "score": round(suspect.score, DIGITS),
        "probability": round(suspect.probability, DIGITS),
        "zero_shot": suspect.zero_shot,
        "nearest": [
            {"path": near.path, "label": near.label, "similarity": round(near.similarity, DIGITS)}
            for near in suspect.nearest
        ],
    }


def sequence_json(sequence: SplitSequence) -> dict[str, Any]:
    """A sequence in several splits as plain JSON values."""
    return {
        "finding": "leakage",
        "sequence": sequence.sequence,
        "splits": sequence.splits,
        "photos": [{"path": r.path, "label": r.label, "split": r.split} for r in sequence.images],
    }


def nearest_labels(suspect: Suspect) -> str:
    """Count the labels of the nearest images: ``cup 4, mug 1``."""
    counts = Counter(near.label for near in suspect.nearest)
    return ", ".join(f"{label} {count}" for label, count in counts.most_common())


def draw_suspects(suspects: Sequence[Suspect], file: Path) -> list[str]:
    """Draw the first `MOST_DRAWN` images as a PNG: the label in red above each, what it probably is in green below.

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

    def words(label: str, probability: float) -> str:
        # A no-break space keeps the number beside the last word.
        return fill(f"{shorten(label, 44, placeholder='…')}\u00a0{probability:.0%}", 24)

    tiles = [
        Tile(
            suspect.record.path,
            partial(read_and_decode, suspect.record),
            above=words(suspect.label, suspect.score),
            below=words(suspect.suggested, suspect.probability),
            color=GIVEN,
            below_color=SUGGESTED,
            below_size=8.5,
        )
        for suspect in suspects[:MOST_DRAWN]
    ]
    return draw_contact_sheet(tiles, "red: the label\ngreen: what it probably is", file)


def draw_poor(images: Sequence[PoorImage], file: Path) -> list[str]:
    """Draw the first `MOST_DRAWN` poor images as a PNG, with their faults above and what was measured below each.

    Parameters
    ----------
    images : sequence of PoorImage
        At least one.
    file : Path

    Returns
    -------
    list of str
        As those of `draw_suspects`.
    """
    tiles = [
        Tile(
            image.record.path,
            partial(read_and_decode, image.record),
            above=fill(", ".join(image.faults), 24),
            below=fill(measured(image), 36),
            color=GIVEN,
        )
        for image in images[:MOST_DRAWN]
    ]
    return draw_contact_sheet(tiles, "poor photos, the worst first", file)


def measured(image: PoorImage) -> str:
    """Say what was measured of an image's faults: ``sharpness 0.04, brightest 0.21``."""
    values = image.measures
    texts = {
        "blurred": f"sharpness {values.sharpness:.3f}",
        "dark": f"brightest {values.brightest:.2f}",
        "overexposed": f"darkest {values.darkest:.2f}",
        "tiny": f"{values.side} pixels",
    }
    return ", ".join(texts[fault] for fault in image.faults)
