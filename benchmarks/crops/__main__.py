"""Boxes of a detector in many photos: decodes, boxes per second, peak memory.

    python -m benchmarks.crops --json crops.json
    python -m benchmarks.crops --photos 200,2000

Photos are drawn (`write_camera_trap`) and lie there many times under names of their own; MegaDetector's JSON gives each
five boxes at random places. `build-index --detections` with the bundled encoder reads them, in a process of its own for
each number of photos. "Alone" reads the same boxes in another order, in which no two of one photo stand together, so
that each is decoded by itself; the encoder is left out on both sides of that comparison.

Figures it gave: docs/results/crops.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.crops.measure import write_photos
from benchmarks.kit import arguments as shared
from benchmarks.kit.output import table, write_json

BOXES, DRAWN = 5, 40


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each number of photos in a process of its own, print, write."""
    parser = shared.parser(__doc__, "benchmarks.crops")
    parser.add_argument("--photos", type=_numbers, default=[2000, 20_000], metavar="N,N,...")
    parser.add_argument("--alone", type=int, default=1000, metavar="N", help="photos whose boxes are read alone, too")
    parser.add_argument("--folder", type=Path, help="where photos are drawn and removed (default: a temporary one)")
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, Any]] = {}
    for photos in options.photos:
        with tempfile.TemporaryDirectory(prefix="hybrid-crops-", dir=options.folder) as folder:
            write_photos(Path(folder), photos, BOXES, DRAWN)
            found[f"{photos * BOXES:,} boxes in {photos:,} photos"] = _measured(folder, min(options.alone, photos))
    write_json(options.json, {"boxes_per_photo": BOXES, "sizes": found})
    figures = next(iter(found.values()))
    by_figure = {figure: {size: values[figure] for size, values in found.items()} for figure in figures}
    Console().print(table(by_figure, digits=1, marked=False))


def _measured(folder: str, alone: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.crops.measure", folder, str(alone)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
