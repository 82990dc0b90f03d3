"""Files of detections: MegaDetector's JSON as it is, and COCO annotations written in its format."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from hybrid.errors import DataError, listing
from hybrid.images.boxes import Box
from hybrid.images.naming import as_label, plural

_EXPECTED = (
    'MegaDetector\'s JSON ({"images": [{"file": ..., "detections": [...]}], "detection_categories": {...}}) or COCO '
    'annotations ({"images": [...], "annotations": [...], "categories": [...]})'
)
_FIX = "give the JSON that MegaDetector wrote (run_detector_batch), or COCO annotations"
# Of files that do not say: those of every MegaDetector.
_CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}
# What a box may reach out of its photo by rounding.
_ROUNDED = 1e-3
# A box whose numbers are larger is not in parts of a photo.
_PIXELS = 2


class Detected(NamedTuple):
    """A box of a photo.

    Attributes
    ----------
    category : str
        Its name.
    confidence : float
    box : Box or None
        Within the photo; None where it is not usable.
    reason : str
        Why it is not.
    clipped : bool
        Whether it reached out of the photo.
    """

    category: str
    confidence: float
    box: Box | None
    reason: str = ""
    clipped: bool = False


@dataclass(frozen=True)
class DetectionFile:
    """What a file of detections says, each photo once.

    Attributes
    ----------
    path : str
    document : dict
        In MegaDetector's format, as it came, or as COCO annotations are written in it.
    is_coco : bool
    categories : dict of str to str
        Names by id.
    notes : tuple of str
        What is odd about it, for people.
    """

    path: str
    document: dict[str, Any]
    is_coco: bool
    categories: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The photos, each with ``file``, and ``detections`` or ``failure``."""
        found: list[dict[str, Any]] = self.document["images"]
        return found

    def detected(self, entry: Mapping[str, Any], margin: float) -> list[Detected]:
        """Give the boxes of a photo, in their order in the file."""
        return [self._detected(one, margin) for one in entry.get("detections") or ()]

    def _detected(self, one: object, margin: float) -> Detected:
        if not isinstance(one, Mapping):
            return Detected("", math.nan, None, f"not a detection: {one!r:.60}")
        category = self.categories.get(str(one.get("category")), "")
        conf, box = one.get("conf"), one.get("bbox")
        if not _is_number(conf) or not 0 <= conf <= 1:
            return Detected(category, math.nan, None, f"its confidence is not a number from 0 to 1: {conf!r:.60}")
        confidence = float(conf)
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            return Detected(category, confidence, None, f"not four numbers: {box!r:.80}")
        left, top, width, height = map(float, box)
        if width <= 0 or height <= 0:
            return Detected(category, confidence, None, f"without area: {box}")
        right, bottom = min(1.0, left + width), min(1.0, top + height)
        x, y = max(0.0, left), max(0.0, top)
        if right <= x or bottom <= y:
            pixels = " (in pixels? expected parts of the photo, 0 to 1)" if max(box) > _PIXELS else ""
            return Detected(category, confidence, None, f"wholly outside of the photo: {box}{pixels}")
        made = Box.of(x, y, right - x, bottom - y, margin)
        if made.width <= 0 or made.height <= 0:
            return Detected(category, confidence, None, f"without area: {box}")
        out = max(-left, -top, left + width - 1, top + height - 1)
        return Detected(category, confidence, made, clipped=out > _ROUNDED)


def read_detection_file(path: str | Path) -> DetectionFile:
    """Read MegaDetector's JSON or COCO annotations, told apart by what they hold.

    Raises
    ------
    DataError
        If it cannot be read, is not JSON, of another format, or names no photo.
    """
    document = _read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise DataError(f"{path} is not a file of detections", expected=_EXPECTED, got=_kind(document), fix=_FIX)
    if not document["images"]:
        raise DataError(f"{path} names no photo: its list of images is empty", expected=_EXPECTED, fix=_FIX)
    is_coco = isinstance(document.get("annotations"), list)
    notes: list[str] = []
    document = _from_coco(document, path, notes) if is_coco else dict(document)
    for place, entry in enumerate(document["images"]):
        _check_entry(entry, place, path)
    document["images"] = _each_once(document["images"], path, notes)
    categories = document.get("detection_categories")
    if categories is None:
        notes.append(f"{path} does not name its categories; taken to be {listing(list(_CATEGORIES.values()))}")
        categories = document["detection_categories"] = dict(_CATEGORIES)
    if not isinstance(categories, dict) or not all(isinstance(name, str) for name in categories.values()):
        raise DataError(
            f"the detection_categories of {path} are not names by id",
            expected='such as {"1": "animal"}',
            got=f"{categories!r:.80}",
            fix=_FIX,
        )
    return DetectionFile(str(path), document, is_coco, categories, tuple(notes))


def _read_json(path: str | Path) -> Any:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", expected="a file of detections", fix="check the path"
        ) from error
    try:
        # Not msgspec: what MegaDetector writes may hold NaN, which is then named box by box.
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON: {error}",
            expected=_EXPECTED,
            got=f"{data[:40]!r}" if data else "an empty file",
            fix="write it again; it may be cut off",
        ) from error


def _kind(document: object) -> str:
    """Say what a JSON is that is neither format."""
    first = document[0] if isinstance(document, list) and document else None
    if isinstance(first, dict) and "bbox" in first:
        return "COCO results, a list of boxes that does not name the photos"
    if isinstance(first, dict) and "detections" in first:
        return "a list of photos with boxes in pixels, as other versions of MegaDetector write it"
    if isinstance(document, dict) and isinstance(document.get("predictions"), list):
        return "SpeciesNet's predictions (MegaDetector's package writes them in its format)"
    if isinstance(document, dict):
        return f"an object with {listing(list(map(str, document)), 6)}" if document else "an empty object"
    return f"{'a list' if isinstance(document, list) else type(document).__name__} without photos"


def _check_entry(entry: object, place: int, path: str | Path) -> None:
    """Raise a DataError for what is not a photo's entry."""
    good = (
        isinstance(entry, dict)
        and isinstance(entry.get("file"), str)
        and entry["file"].strip()
        and isinstance(entry.get("detections"), list | None)
        and isinstance(entry.get("failure"), str | None)
    )
    if not good:
        raise DataError(
            f"{path}: image {place} is not an entry of MegaDetector's format",
            expected='{"file": NAME, "detections": [...]}, or "failure": REASON in their place',
            got=f"{entry!r:.120}",
            fix=_FIX,
        )


def _each_once(entries: list[dict[str, Any]], path: str | Path, notes: list[str]) -> list[dict[str, Any]]:
    """Join entries of one name: all of their boxes, equal ones once."""
    by_name: dict[str, dict[str, Any]] = {}
    repeated: Counter[str] = Counter()
    for entry in entries:
        first = by_name.setdefault(entry["file"], entry)
        if first is entry:
            continue
        repeated[entry["file"]] += 1
        boxes = list(first.get("detections") or ())
        boxes += [one for one in entry.get("detections") or () if one not in boxes]
        # What one reading of a photo failed at, another may have done.
        failed = first.get("failure") and entry.get("failure")
        joined = {key: value for key, value in (first | entry).items() if key != "failure"}
        joined |= {"failure": failed, "detections": None} if failed else {"detections": boxes}
        by_name[entry["file"]] = joined
    if repeated:
        notes.append(
            f"WARNING: {path} names {plural(len(repeated), 'photo')} more than once; their boxes are joined, equal "
            f"ones once: {listing(list(repeated), 3)}"
        )
    return list(by_name.values())


def _from_coco(document: Mapping[str, Any], path: str | Path, notes: list[str]) -> dict[str, Any]:
    """Write COCO annotations in MegaDetector's format."""
    categories = _coco_categories(document, path)
    images: dict[Any, dict[str, Any]] = {}
    sizes: dict[Any, tuple[float, float] | None] = {}
    for place, image in enumerate(document["images"]):
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or "id" not in image:
            raise DataError(
                f"{path}: image {place} is not an image of COCO annotations",
                expected='{"id": 1, "file_name": NAME, "width": 640, "height": 480}',
                got=f"{image!r:.120}",
                fix=_FIX,
            )
        key = str(image["id"])
        images[key] = {"file": image["file_name"], "detections": []}
        sides = [float(side) for side in (image.get("width"), image.get("height")) if _is_number(side) and side > 0]
        sizes[key] = (sides[0], sides[1]) if len(sides) == 2 else None
    left_out: Counter[str] = Counter()
    for one in document["annotations"]:
        key = str(one.get("image_id")) if isinstance(one, dict) else ""
        if key not in images:
            left_out["of an image that is not in the list"] += 1
        elif "bbox" not in one:
            left_out["without a box"] += 1
        else:
            images[key]["detections"].append(_coco_box(one, sizes[key]))
    for entry, size in zip(images.values(), sizes.values(), strict=True):
        if size is None and entry["detections"]:
            entry |= {"failure": "the annotations lack its width and height", "detections": None}
    notes += [f"WARNING: {path}: {plural(count, 'annotation')} {why} left out" for why, count in left_out.items()]
    info = {"format_version": "1.4", "detector": f"COCO annotations of {Path(path).name}"}
    return {"info": info, "detection_categories": categories, "images": list(images.values())}


def _coco_box(one: Mapping[str, Any], size: tuple[float, float] | None) -> dict[str, Any]:
    """Write an annotation as a detection: sure, where it has no score, as a person's are."""
    box = one["bbox"]
    if size is not None and isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        box = [round(value / size[place % 2], 6) for place, value in enumerate(box)]
    return {"category": str(one.get("category_id")), "conf": one.get("score", 1.0), "bbox": box}


def _coco_categories(document: Mapping[str, Any], path: str | Path) -> dict[str, str]:
    named: dict[str, str] = {}
    for one in document.get("categories") or ():
        name = as_label(one.get("name"), f"the categories of {path}") if isinstance(one, dict) else None
        # MegaDetector's format knows no others.
        if name is None or not str(one.get("id")).isdecimal():
            raise DataError(
                f"{path} has a category without a name, or whose id is not a number",
                expected='{"id": 1, "name": "zebra"}',
                got=f"{one!r:.80}",
                fix=_FIX,
            )
        named[str(one["id"])] = name
    if not named:
        raise DataError(f"{path} has no categories", expected=_EXPECTED, fix=_FIX)
    return named


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
