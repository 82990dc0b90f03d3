"""Answers in MegaDetector's format, which Timelapse and other tools for camera traps open.

The format: https://lila.science/megadetector-output-format
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from hybrid import __version__
from hybrid.images.detections import Crops
from hybrid.prediction import Prediction
from hybrid.run.photo_answers import DETECTOR

# Of files that say none, or an older one: the first with failures as they are written today.
_VERSION, _OLDEST = "1.4", 1.3
_UNNAMED = "not in the file of detections"


class MegaDetectorResults:
    """Collects answers for boxes, and joins them with everything else that the file of detections says.

    Parameters
    ----------
    crops : Crops
    """

    def __init__(self, crops: Crops) -> None:
        self._crops = crops
        self._answers: dict[str, list[tuple[str, float]]] = {}

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Take answers for boxes; what the detector says itself stands in its file already."""
        for one in predictions:
            if one.expert != DETECTOR:
                # Of an answer that is none of the classes, or a group of them, no other class is to stand beside it.
                ranked = one.top if one.top and one.top[0][0] == one.label else ((one.label, one.probability),)
                self._answers[one.path] = [(label, round(probability, 4)) for label, probability in ranked]

    def document(self, name: str, made: datetime) -> dict[str, Any]:
        """Write the file: every photo and detection of the other, with ``classifications`` where there are answers.

        Parameters
        ----------
        name : str
            Of the classifier.
        made : datetime
        """
        before = self._crops.file.document
        categories = _Categories(before)
        by_entry = defaultdict[int, dict[int, list[tuple[str, float]]]](dict)
        for photo in self._crops.photos:
            for path, places in photo.places.items():
                if path in self._answers:
                    by_entry[photo.entry] |= dict.fromkeys(places, self._answers[path])
        detected = {str(key): value for key, value in self._crops.file.categories.items()}
        images = [_entry(entry, by_entry[n], categories, detected) for n, entry in enumerate(self._crops.file.entries)]
        images += [{"file": file, "failure": _UNNAMED, "detections": None} for file in self._crops.unnamed]
        info = {key: value for key, value in _info(before).items() if key != "classifier_metadata"}
        info |= {
            "classifier": f"hybrid {__version__}: {name}",
            "classification_completion_time": made.strftime("%Y-%m-%d %H:%M:%S"),
        }
        rest = {key: value for key, value in before.items() if key not in ("info", "images")}
        return {"info": info} | rest | {"detection_categories": detected} | categories.as_keys() | {"images": images}


class _Categories:
    """Numbers of classes: those of an earlier classifier, whose answers for other boxes stay, and new ones."""

    def __init__(self, before: Mapping[str, Any]) -> None:
        names = before.get("classification_categories")
        self._names: dict[str, str] = dict(names) if isinstance(names, dict) else {}
        described = before.get("classification_category_descriptions")
        self._described: dict[str, str] | None = dict(described) if isinstance(described, dict) else None
        self._numbers = {name: number for number, name in self._names.items()}

    def number(self, label: str) -> str:
        """The number of a class."""
        if label not in self._numbers:
            taken = [int(number) for number in self._names if number.isdecimal()]
            number = str(max(taken, default=-1) + 1)
            self._numbers[label] = number
            self._names[number] = label
            if self._described is not None:
                self._described[number] = label
        return self._numbers[label]

    def as_keys(self) -> dict[str, Any]:
        described = self._described
        return {"classification_categories": self._names} | (
            {} if described is None else {"classification_category_descriptions": described}
        )


def _info(before: Mapping[str, Any]) -> dict[str, Any]:
    """What the other file says of itself, with the version of the format."""
    info = before.get("info")
    info = dict(info) if isinstance(info, dict) else {}
    try:
        is_recent = float(info.get("format_version", 0)) >= _OLDEST
    except (TypeError, ValueError):
        is_recent = False
    return {"format_version": str(info["format_version"]) if is_recent else _VERSION} | {
        key: value for key, value in info.items() if key != "format_version"
    }


def _entry(
    entry: Mapping[str, Any],
    answers: Mapping[int, Sequence[tuple[str, float]]],
    categories: _Categories,
    detected: dict[str, str],
) -> dict[str, Any]:
    """Write the entry of a photo."""
    if entry.get("failure") is not None:
        return {**entry, "detections": None}
    written = []
    for place, one in enumerate(entry.get("detections") or ()):
        if not _can_be_written(one):
            continue
        category = str(one["category"])
        detected.setdefault(category, f"category {category}")
        made = {**one, "category": category, "conf": float(one["conf"])}
        if place in answers:
            likely = [pair for pair in answers[place] if pair[1] > 0] or answers[place][:1]
            made["classifications"] = [[categories.number(label), probability] for label, probability in likely]
        written.append(made)
    return {**entry, "detections": written}


def _can_be_written(one: Any) -> bool:
    """Whether JSON and the format have room for a detection; others were named when the file was read."""
    if not isinstance(one, Mapping) or not str(one.get("category")).isdecimal():
        return False
    box = one.get("bbox")
    numbers = [one.get("conf"), *(box if isinstance(box, list) and len(box) == 4 else [None])]
    return all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
