"""`write_camera_trap`: photos with several animals, one or none, and what a detector and a person say of them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from hybrid.demo.animals import Animal, demo_classes
from hybrid.demo.painting import draw
from hybrid.demo.scene import background
from hybrid.files import atomic_write

_SIZE = _WIDTH, _HEIGHT = 480, 360
_QUALITY = 92
# Of a drawing, the part in its middle that the animal takes; a detector's box with the usual margin shows all of it.
_BODY = 0.8
_CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}
_TURNED = 6  # EXIF orientation: the camera stood on its side


@dataclass
class _Photo:
    name: str
    picture: Image.Image
    boxes: list[tuple[Animal, tuple[float, float, float, float]]] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)
    turned: bool = False


def write_camera_trap(folder: Path, *, photos: int = 24, seed: int = 0) -> None:
    """Write what two cameras took.

    ``camera_1`` and ``camera_2`` hold the photos: most show one to three animals of the demo's fifty classes, every
    sixth one nobody, every eighth one a person beside an animal. ``megadetector.json`` is what a detector says of them,
    in MegaDetector's format, with a few boxes of which it is not sure; ``coco.json`` is what a person says: COCO
    annotations, whose categories are the classes. Running it again writes the same bytes.

    Parameters
    ----------
    folder : Path
        Where to write; created if missing.
    photos : int
        How many.
    seed : int
        Another seed draws other photos.
    """
    demo = demo_classes()
    animals = (*demo.seen, *demo.unseen)
    taken = [_take(number, animals, np.random.default_rng((seed, 5, number))) for number in range(photos)]
    for photo in taken:
        packed = io.BytesIO()
        exif = Image.Exif()
        picture = photo.picture
        if photo.turned:
            # Stored as the sensor has it; whoever shows it turns it upright.
            exif[0x0112], picture = _TURNED, picture.transpose(Image.Transpose.ROTATE_90)
        picture.save(packed, "JPEG", quality=_QUALITY, exif=exif)
        _write(folder / photo.name, packed.getvalue())
    _write(folder / "megadetector.json", _encoded(_detected(taken)))
    _write(folder / "coco.json", _encoded(_annotated(taken)))


def _take(number: int, animals: tuple[Animal, ...], rng: Generator) -> _Photo:
    """Draw a photo."""
    turned = number % 7 == 3
    width, height = _SIZE[::-1] if turned else _SIZE
    ground = background(rng, max(_SIZE))[:height, :width]
    name = f"camera_{1 + number % 2}/IMG_{number:04d}.jpg"
    photo = _Photo(name, Image.fromarray(ground.astype(np.uint8)), turned=turned)
    if number % 6 != 5:
        # Side by side, so that no animal hides another.
        columns = int(rng.integers(1, 4))
        for column in range(columns):
            side = int(rng.integers(80, min(width // columns, 150)))
            left = round(width / columns * column + rng.uniform(0, width / columns - side))
            top = int(rng.integers(0, height - side))
            _stand(photo, animals[int(rng.integers(len(animals)))], (left, top, side), rng)
    if number % 8 == 1:
        box = [round(rng.uniform(0, 0.6), 4), 0.3, 0.1, 0.6]
        photo.detections.append({"category": "2", "conf": round(rng.uniform(0.7, 0.95), 3), "bbox": box})
    # A stone or a bush, of which the detector thinks little.
    x, y = (round(value, 4) for value in rng.uniform(0, 0.8, 2))
    photo.detections.append({"category": "1", "conf": round(rng.uniform(0.01, 0.15), 3), "bbox": [x, y, 0.15, 0.15]})
    return photo


def _stand(photo: _Photo, animal: Animal, place: tuple[int, int, int], rng: Generator) -> None:
    """Let an animal stand in a photo, with what a detector and a person say of it."""
    left, top, side = place
    soft = Image.new("L", (side, side), 0)
    edge = side // 16
    soft.paste(255, (edge, edge, side - edge, side - edge))
    photo.picture.paste(draw(animal, rng, side), (left, top), soft.filter(ImageFilter.GaussianBlur(edge / 2)))
    frame = side * (1 - _BODY) / 2
    box = (left + frame, top + frame, side * _BODY, side * _BODY)
    photo.boxes.append((animal, box))
    width, height = photo.picture.size
    # A detector is off by a little.
    parts = [value / whole + rng.normal(0, 0.003) for value, whole in zip(box, (width, height) * 2, strict=True)]
    bbox = [round(max(0.0, part), 4) for part in parts]
    photo.detections.append({"category": "1", "conf": round(rng.uniform(0.5, 0.98), 3), "bbox": bbox})


def _detected(photos: list[_Photo]) -> dict[str, Any]:
    """What a detector says, surest box first, as MegaDetector has it."""
    return {
        "info": {
            "format_version": "1.4",
            "detector": "drawn",
            "detector_metadata": {"typical_detection_threshold": 0.2, "conservative_detection_threshold": 0.05},
        },
        "detection_categories": _CATEGORIES,
        "images": [
            {"file": photo.name, "detections": sorted(photo.detections, key=lambda one: -float(one["conf"]))}
            for photo in photos
        ],
    }


def _annotated(photos: list[_Photo]) -> dict[str, Any]:
    """What a person says: the class of each animal, in pixels of the upright photo."""
    classes = sorted({animal.name for photo in photos for animal, _ in photo.boxes})
    numbers = {name: number for number, name in enumerate(classes, 1)}
    boxes = [(number, animal, box) for number, photo in enumerate(photos) for animal, box in photo.boxes]
    return {
        "images": [
            {"id": number, "file_name": photo.name, "width": photo.picture.width, "height": photo.picture.height}
            for number, photo in enumerate(photos)
        ],
        "annotations": [
            {"id": place, "image_id": number, "category_id": numbers[animal.name], "bbox": [round(v, 1) for v in box]}
            for place, (number, animal, box) in enumerate(boxes)
        ],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }


def _encoded(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step; one that holds the content already keeps its time stamp."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, sync=False) as part:
        part.write_bytes(content)
