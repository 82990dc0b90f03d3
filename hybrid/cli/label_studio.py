"""`predict --format label-studio`: tasks with pre-annotations, which Label Studio imports.

The format: https://labelstud.io/guide/predictions
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from hybrid import __version__
from hybrid.errors import ConfigError
from hybrid.images.boxes import parted
from hybrid.images.remote import is_remote
from hybrid.prediction import Prediction

# Below which Label Studio serves files of its machine, by its own setting.
ROOT = "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"
# Names of the tags in the labeling interface (docs/review.md).
IMAGE, CHOICE, BOX = "image", "choice", "label"


@contextmanager
def label_studio_writer(stream: TextIO, name: str) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    """Yield a function that writes predictions as tasks of a JSON array; the boxes of a photo are one task.

    Parameters
    ----------
    stream : TextIO
    name : str
        Of the classifier.
    """
    waiting: list[Prediction] = []
    before = "["

    def flush() -> None:
        nonlocal before
        if waiting:
            stream.write(f"{before}\n{json.dumps(task(waiting, name))}")
            before = ","
            waiting.clear()

    def write(predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            if waiting and _photo(waiting[0]) != _photo(prediction):
                flush()
            waiting.append(prediction)

    yield write
    flush()
    stream.write("\n]\n" if before == "," else "[]\n")


def task(predictions: Sequence[Prediction], name: str) -> dict[str, Any]:
    """Write what is said of one photo: of all of it as a choice, of its boxes as labeled rectangles."""
    boxes = [one for one in predictions if parted(one.path)[1] is not None]
    results = [_rectangle(one, place) for place, one in enumerate(boxes)] or [_choice(predictions[0])]
    said = {
        "model_version": f"hybrid {__version__}: {name}",
        # The least sure of its boxes: by it Label Studio puts tasks in order.
        "score": min(result["score"] for result in results),
        "result": results,
    }
    return {"data": {IMAGE: address(_photo(predictions[0]))}, "predictions": [said]}


def address(path: str) -> str:
    """Where Label Studio finds a photo: a URL as it is, a file by its local storage.

    Raises
    ------
    ConfigError
        If the file does not lie below the folder that Label Studio serves.
    """
    if is_remote(path):
        return path
    file, root = Path(path).absolute(), Path(os.environ.get(ROOT) or "/")
    if not file.is_relative_to(root):
        raise ConfigError(
            "Label Studio does not serve a photo",
            expected=f"files below {root} (the variable {ROOT})",
            got=path,
            fix=f"set {ROOT} to a folder above the photos, for Label Studio too",
        )
    return f"/data/local-files/?d={quote(os.fsencode(file.relative_to(root)))}"


def _photo(prediction: Prediction) -> str:
    return parted(prediction.path)[0]


def _choice(one: Prediction) -> dict[str, Any]:
    value = {"choices": [one.label]}
    return _result(one, 0, CHOICE, "choices", value)


def _rectangle(one: Prediction, place: int) -> dict[str, Any]:
    box = parted(one.path)[1]
    if box is None:
        raise TypeError("a rectangle is of a box")
    sides = {side: round(100 * getattr(box, side), 4) for side in ("x", "y", "width", "height")}
    return _result(one, place, BOX, "rectanglelabels", {**sides, "rotation": 0, "rectanglelabels": [one.label]})


def _result(one: Prediction, place: int, tag: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"hybrid-{place}",
        "from_name": tag,
        "to_name": IMAGE,
        "type": kind,
        "value": value,
        "score": round(one.probability, 6),
    }
