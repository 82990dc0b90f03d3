"""What cameras in the field saw: bursts of animals in two regions, where some live and others hardly do."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from hybrid.demo.animals import Animal, DemoClasses
from hybrid.demo.painting import draw

REGIONS = ("north", "south")
BURSTS, FRAMES = 16, 4
# Photos of all animals that a region's weights are counts of; the smaller, the fewer animals make up most of them.
_COUNTED, _EVENNESS = 1000, 0.5
_CAMERAS = 2
_WORLD = 29


@dataclass(frozen=True, slots=True)
class Frame:
    """A photo of a burst.

    Attributes
    ----------
    path : str
        Relative to the demo's data.
    animal : Animal
    region, sequence : str
    time : datetime
    seed : tuple of int
        Of animal and place; its last number is the burst's.
    number : int
        Of the frame in its burst.
    """

    path: str
    animal: Animal
    region: str
    sequence: str
    time: datetime
    seed: tuple[int, ...]
    number: int

    def draw(self) -> Image.Image:
        """Draw it."""
        frame = np.random.default_rng((*self.seed, self.number))
        return draw(self.animal, np.random.default_rng(self.seed), frame=frame)

    @property
    def exif(self) -> Image.Exif:
        """When it was taken, as cameras write it."""
        made = Image.Exif()
        made.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = self.time.strftime("%Y:%m:%d %H:%M:%S")
        return made


def region_counts(classes: int, world: int = _WORLD) -> NDArray[np.int64]:
    """How many of a thousand photos of each region show each class, at least one, (regions, classes)."""
    shares = np.random.default_rng(world).dirichlet(np.full(classes, _EVENNESS), len(REGIONS))
    return np.maximum(np.rint(_COUNTED * shares), 1).astype(np.int64)


def frames(demo: DemoClasses, seed: int) -> Iterator[Frame]:
    """The demo's photos from the field, by camera and time."""
    rng = np.random.default_rng((seed, 5))
    animals = (*demo.seen, *demo.unseen)
    shares = region_counts(len(animals)) / region_counts(len(animals)).sum(axis=1, keepdims=True)
    shots = [0] * (len(REGIONS) * _CAMERAS)
    for burst in range(BURSTS):
        place = burst % len(shots)
        region = place % len(REGIONS)
        animal = animals[rng.choice(len(animals), p=shares[region])]
        start = datetime(2026, 6, 1, 5, tzinfo=UTC) + timedelta(hours=9 * burst, minutes=int(rng.integers(60)))
        camera = f"{REGIONS[region]}-{place // len(REGIONS) + 1}"
        for number in range(FRAMES):
            shots[place] += 1
            path = f"field/{camera}/IMG_{shots[place]:04d}.jpg"
            time = start + timedelta(seconds=2 * number)
            yield Frame(path, animal, REGIONS[region], f"burst {burst + 1}", time, (seed, 6, burst), number)


def manifest(photos: Sequence[Frame]) -> bytes:
    """The photos from the field as a manifest."""
    rows = [[p.path, p.animal.name, p.region, p.sequence, p.time.strftime("%Y-%m-%d %H:%M:%S")] for p in photos]
    return _table(["path", "label", "region", "sequence", "time"], rows)


def priors(demo: DemoClasses) -> bytes:
    """How often each animal is there, as a file of class priors."""
    animals = (*demo.seen, *demo.unseen)
    counts = region_counts(len(animals)).tolist()
    rows = [
        [animal.name, n, region]
        for region, own in zip(REGIONS, counts, strict=True)
        for animal, n in zip(animals, own, strict=True)
    ]
    return _table(["class", "weight", "region"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def files(folder: Path, demo: DemoClasses, photos: Sequence[Frame]) -> dict[Path, bytes]:
    """The tables beside the photos."""
    return {folder / "field.csv": manifest(photos), folder / "priors.csv": priors(demo)}
