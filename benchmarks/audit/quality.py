"""How many blurred, dark and over-exposed photos `hybrid audit` lists, of photos that were spoiled by known amounts.

    python -m benchmarks.audit.quality DATA/caltech101/train DATA/caltech101/val --json quality.json

Photos are drawn at random; each is looked at as it is, and once more after everything in `DAMAGE`, saved as JPEG each
time. For each damage: the share that is listed with that fault (recall); for each fault: the share of the photos as
they are that is listed with it (false alarms, as far as nobody took a poor photo), and the precision of the list where
one photo of ten is spoiled, by each damage of that fault as often. cleanvision at its defaults beside it, where it is
installed. Tiny photos are counted in pixels, which needs no benchmark. Figures it gave: docs/results/audit.md.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from rich.console import Console

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import table, write_json
from hybrid.images.pipeline import read_and_decode
from hybrid.images.records import ImageRecord
from hybrid.images.sources import scan
from hybrid.tools.audit.quality import QualityLimits, look_at

# Of the photos that a person would look through, so many are spoiled.
SPOILED = 0.1
FAULTS = ("blurred", "dark", "overexposed")
THEIRS = {"blurry": "blurred", "dark": "dark", "light": "overexposed"}


def blur(share: float) -> Callable[[Image.Image], Image.Image]:
    """Out of focus: Gaussian, with a deviation of so much of the shorter side."""
    return lambda photo: photo.filter(ImageFilter.GaussianBlur(share * min(photo.size)))


def motion(share: float) -> Callable[[Image.Image], Image.Image]:
    """Moved sideways while the shutter was open, by so much of the shorter side."""

    def damage(photo: Image.Image) -> Image.Image:
        pixels, steps = np.asarray(photo, np.float32), max(round(share * min(photo.size)), 2)
        sums = np.cumsum(np.pad(pixels, ((0, 0), (steps, 0), (0, 0)), mode="edge"), axis=1)
        return Image.fromarray(((sums[:, steps:] - sums[:, :-steps]) / steps).clip(0, 255).astype(np.uint8))

    return damage


def exposure(factor: float) -> Callable[[Image.Image], Image.Image]:
    """So much light in the place of what there was; what is brighter than white is white."""

    def damage(photo: Image.Image) -> Image.Image:
        linear = (np.asarray(photo, np.float32) / 255) ** 2.2 * factor
        return Image.fromarray((linear.clip(0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8))

    return damage


# Name of the damage: the fault that it is, and what it does.
DAMAGE: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "blur of .5 % of the side": ("blurred", blur(0.005)),
    "blur of 1 %": ("blurred", blur(0.01)),
    "blur of 2 %": ("blurred", blur(0.02)),
    "motion of 5 %": ("blurred", motion(0.05)),
    "motion of 10 %": ("blurred", motion(0.1)),
    "light / 16": ("dark", exposure(1 / 16)),
    "light / 64": ("dark", exposure(1 / 64)),
    "light x 64": ("overexposed", exposure(64)),
    "light x 1024": ("overexposed", exposure(1024)),
}
AS_THEY_ARE = "as they are"
# What each photo is listed with, in their order.
Listed = list[Collection[str]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    records = scan(options.sources, labeled=False).records
    chosen = random.Random(options.seed).sample(records, min(options.photos, len(records)))
    listed: dict[str, dict[str, Listed]] = {"audit": {}}
    if find_spec("cleanvision"):
        listed["cleanvision"] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, change) in enumerate([(AS_THEY_ARE, None), *((n, f) for n, (_, f) in DAMAGE.items())]):
            files = list(save(chosen, change, Path(folder) / str(number)))
            for system in listed:
                listed[system][name] = SYSTEMS[system](files)
    figures = {system: count(found) for system, found in listed.items()}
    write_json(options.json, {"photos": len(chosen), "spoiled": SPOILED, "systems": figures})
    show(figures, len(chosen))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = shared.parser(__doc__, "benchmarks.audit.quality")
    parser.add_argument("sources", nargs="+", help="photos, folders, manifests or shards")
    parser.add_argument("--photos", type=int, default=400, help="to draw (default 400)")
    parser.add_argument("--seed", type=int, default=0)
    shared.add_json(parser)
    return parser.parse_args(arguments)


def save(
    records: Sequence[ImageRecord], change: Callable[[Image.Image], Image.Image] | None, folder: Path
) -> Iterable[Path]:
    """Write the photos as JPEG, spoiled where there is a `change`."""
    folder.mkdir()
    for number, record in enumerate(records):
        photo = read_and_decode(record).convert("RGB")
        stream = BytesIO()
        (photo if change is None else change(photo)).save(stream, "JPEG", quality=90)
        file = folder / f"{number:05d}.jpg"
        file.write_bytes(stream.getvalue())
        yield file


def ask_audit(files: Sequence[Path]) -> Listed:
    """What `hybrid audit` lists."""
    records = scan([str(file) for file in files], labeled=False).records
    found = look_at({record.path: [record] for record in records}, QualityLimits())
    faults = {image.record.path: tuple(image.faults) for image in found.poor}
    return [faults.get(str(file), ()) for file in files]


def ask_cleanvision(files: Sequence[Path]) -> Listed:
    """What cleanvision lists, by the names of `hybrid audit`."""
    from cleanvision import Imagelab

    lab = Imagelab(filepaths=[str(file) for file in files])
    lab.find_issues({issue: {} for issue in THEIRS}, n_jobs=1, verbose=False)
    return [
        [fault for issue, fault in THEIRS.items() if lab.issues.loc[str(file), f"is_{issue}_issue"]] for file in files
    ]


SYSTEMS: dict[str, Callable[[Sequence[Path]], Listed]] = {"audit": ask_audit, "cleanvision": ask_cleanvision}


def count(listed: Mapping[str, Listed]) -> dict[str, Any]:
    """Recall of each damage, false alarms and precision of each fault."""
    recall = {name: share(listed[name], fault) for name, (fault, _) in DAMAGE.items()}
    alarms = {fault: share(listed[AS_THEY_ARE], fault) for fault in FAULTS}
    precision: dict[str, float | None] = {}
    for fault in FAULTS:
        hits = SPOILED * float(np.mean([recall[name] for name, (own, _) in DAMAGE.items() if own == fault]))
        found = hits + (1 - SPOILED) * alarms[fault]
        precision[fault] = hits / found if found else None
    return {"recall": recall, "false_alarms": alarms, "precision": precision}


def share(listed: Listed, fault: str) -> float:
    """Of the photos, those that are listed with a fault."""
    return float(np.mean([fault in faults for faults in listed]))


def show(figures: Mapping[str, dict[str, Any]], photos: int) -> None:
    rows: dict[str, dict[str, float | None]] = {}
    for name, (fault, _) in DAMAGE.items():
        rows[f"{fault}: {name}"] = {system: found["recall"][name] for system, found in figures.items()}
    for what in ("false_alarms", "precision"):
        for fault in FAULTS:
            rows[f"{fault}: {what.replace('_', ' ')}"] = {s: found[what][fault] for s, found in figures.items()}
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table(rows, digits=3, marked=False, title=f"{photos} photos, each spoiled in {len(DAMAGE)} ways"))


if __name__ == "__main__":
    main()
