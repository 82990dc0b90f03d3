"""What benchmarks.crops measures, in a process of its own: ``python -m benchmarks.crops.measure FOLDER ALONE``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hybrid import Detections, Run
from hybrid.demo import write_camera_trap
from hybrid.images.decode import Scaled
from hybrid.images.decoders import LibjpegTurbo
from hybrid.images.pipeline import read_each
from hybrid.images.records import ImageRecord
from hybrid.images.sources import scan

MIB = 2**20
# What the encoder asks of an image: three times its 64 pixels.
MIN_SIDE = 192


def write_photos(folder: Path, photos: int, boxes: int, drawn: int) -> None:
    """Write so many photos, which are copies of a few drawn ones, and a file of boxes at random places."""
    write_camera_trap(folder / "drawn", photos=drawn)
    originals = sorted((folder / "drawn").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    entries = []
    for number in range(photos):
        file = folder / "photos" / f"{number % 100:02d}" / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % len(originals)], file)
        sides = rng.uniform(0.1, 0.4, (boxes, 2))
        corners = rng.uniform(0, 1 - sides)
        found = np.round(np.concatenate([corners, sides], axis=1), 4).tolist()
        detections = [{"category": "1", "conf": 0.9, "bbox": box} for box in found]
        entries.append({"file": f"{file.parent.name}/{file.name}", "detections": detections})
    document = {"info": {"format_version": "1.4"}, "detection_categories": {"1": "animal"}, "images": entries}
    (folder / "megadetector.json").write_text(json.dumps(document))


class Counting(LibjpegTurbo):
    """The default decoder, which counts what it decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def decode(self, data: bytes, min_side: int | None = None) -> Scaled:
        """Count, and decode."""
        self.count += 1
        return super().decode(data, min_side)


def measure(folder: Path, alone: int) -> dict[str, Any]:
    """Index the boxes of all photos; then read those of the first few together and alone."""
    from hybrid.images import decoders

    counting = Counting()
    decoders.DECODERS = {"counting": lambda device: counting}
    run = Run(folder / "run", encoder="tiny")
    detections = Detections.read(folder / "megadetector.json")
    found = scan([folder / "photos"], labeled=False)
    crops = detections.crop(found)
    before, start = _peak(), time.perf_counter()
    summary = run.index(crops.scan)
    seconds = time.perf_counter() - start
    decodes, peak = counting.count, _peak()
    few = [box for photo in crops.photos[:alone] for box in photo.animals]
    apart = sorted(few, key=lambda box: box.path[::-1])
    together, lone = _rate(few), _rate(apart)
    return {
        "encoded": summary.encoded,
        "photos": len(crops.photos),
        "decodes": decodes,
        "boxes_per_s": summary.images / seconds,
        "peak_before_mib": before / MIB,
        "peak_mib": peak / MIB,
        "read_together_per_s": together,
        "read_alone_per_s": lone,
    }


def _rate(records: Iterable[ImageRecord]) -> float:
    """Boxes that are read, decoded and cut out in a second."""
    kept, start = Counter[int](), time.perf_counter()
    for image in read_each(records, lambda scaled, _: scaled.rgb.shape[0], min_side=MIN_SIDE, batch_size=32):
        kept[image.prepared] += 1
    return sum(kept.values()) / (time.perf_counter() - start)


def _peak() -> int:
    """Bytes of memory that this process has held at most."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))) + "\n")
