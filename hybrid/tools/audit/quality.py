"""Blurred, dark, over-exposed and tiny images: each is read, reduced to the size encoders look at, and measured.

Sharpness is the Laplacian's measure of focus (Pech-Pacheco et al., ICPR 2000) in its two halves, along rows and along
columns, of which the lesser counts: what moved is blurred in one direction alone. Over the gray values' own deviation,
neither exposure nor contrast counts. Dark and over-exposed are defined as in cleanvision: by the 99th and the 5th
percentile of perceived brightness, sqrt(.241 R² + .691 G² + .068 B²) / 255.

cleanvision itself measures blur on 64 pixels, where only what is blurred beyond recognition shows, and brightness
on all pixels, as integers of 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image

from hybrid.encoders.base import FloatArray
from hybrid.images.decode import Scaled
from hybrid.images.pipeline import read_each
from hybrid.images.records import ImageRecord

# Shorter side at which images are measured: about what encoders see of them.
SIDE = 256
# Images that are read ahead.
BATCH = 32
_BRIGHTNESS = np.array([0.241, 0.691, 0.068], np.float32)


@dataclass(frozen=True)
class QualityLimits:
    """What is listed.

    Attributes
    ----------
    blurred_below : float
        Of `Measures.sharpness`. Of 400 Caltech-101 photos 1 in 200 lies below the default.
    dark_below, overexposed_above : float
        Of `Measures.brightest` and `Measures.darkest`.
    tiny_below : int
        Pixels of the shorter side.
    """

    blurred_below: float = 0.1
    dark_below: float = 0.32
    overexposed_above: float = 0.95
    tiny_below: int = 64


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured of an image.

    Attributes
    ----------
    sharpness : float
        Deviation of the second differences along rows or columns, the lesser, over that of the gray values: 0 for a
        plain area, about 0.4 for a sharp photo.
    brightest, darkest : float
        99th and 5th percentile of brightness, 0 to 1.
    side : int
        Pixels of the shorter side; `SIDE` stands for this and more.
    """

    sharpness: float
    brightest: float
    darkest: float
    side: int

    def faults(self, limits: QualityLimits) -> Mapping[str, float]:
        """What is wrong with the image, and how much: the part of the way from the limit to the worst value."""
        worse = {
            "blurred": 1 - self.sharpness / (limits.blurred_below or 1),
            "dark": 1 - self.brightest / (limits.dark_below or 1),
            "overexposed": (self.darkest - limits.overexposed_above) / max(1 - limits.overexposed_above, 1e-6),
            "tiny": 1 - self.side / (limits.tiny_below or 1),
        }
        holds = {
            "blurred": self.sharpness < limits.blurred_below,
            "dark": self.brightest < limits.dark_below,
            "overexposed": self.darkest > limits.overexposed_above,
            "tiny": self.side < limits.tiny_below,
        }
        return {name: worse[name] for name in worse if holds[name]}


@dataclass(frozen=True)
class PoorImage:
    """An image that is listed.

    Attributes
    ----------
    record : ImageRecord
    copies : tuple of str
        Paths of other images with the same content.
    measures : Measures
    faults : mapping of str to float
        See `Measures.faults`; worst first.
    """

    record: ImageRecord
    copies: tuple[str, ...]
    measures: Measures
    faults: Mapping[str, float]


@dataclass(frozen=True)
class Quality:
    """What a look at each image gave.

    Attributes
    ----------
    looked_at : int
        Contents that could be read.
    poor : tuple of PoorImage
        Those with most faults first, then the worst.
    unreadable : tuple of (path, reason)
        Of images that cannot be read any more.
    """

    looked_at: int
    poor: tuple[PoorImage, ...]
    unreadable: tuple[tuple[str, str], ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many images have each fault; faults that none has are left out."""
        names = ("blurred", "dark", "overexposed", "tiny")
        counts = {name: sum(name in image.faults for image in self.poor) for name in names}
        return {name: count for name, count in counts.items() if count}


def measure(image: Scaled, record: ImageRecord | None = None) -> Measures:
    """Measure an image; `record` is not looked at, and makes this a `Prepare` of the pipeline.

    Parameters
    ----------
    image : Scaled
        At `SIDE` pixels of the shorter side, or more, or at full size.
    """
    picture = image.to_picture()
    side = min(picture.size)
    if side > SIDE:
        size = [max(1, round(length * SIDE / side)) for length in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    rgb = np.asarray(picture, np.float32)
    brightness = np.sqrt(np.square(rgb) @ _BRIGHTNESS) / 255
    darkest, brightest = np.percentile(brightness, (5, 99))
    return Measures(sharpness(np.asarray(picture.convert("L"), np.float32)), float(brightest), float(darkest), side)


def sharpness(gray: FloatArray) -> float:
    """Deviation of the second differences of gray values (h, w) along rows or columns, the lesser, over their own."""
    spread = float(gray.std())
    if min(gray.shape) < 3 or spread == 0:
        return 0.0
    return min(float(np.diff(gray, 2, axis=axis).std()) for axis in (0, 1)) / spread


def look_at(
    contents: Mapping[str, Sequence[ImageRecord]],
    limits: QualityLimits,
    progress: Callable[[int], None] = lambda count: None,
) -> Quality:
    """Read each content once and list what is poor.

    Parameters
    ----------
    contents : mapping of sha256 to sequence of ImageRecord
        The images of each content; the first is read.
    limits : QualityLimits
    progress : callable
        Called with the number of contents read since the last call.
    """
    poor, unreadable = [], []
    reads = read_each((records[0] for records in contents.values()), measure, min_side=SIDE, batch_size=BATCH)
    for read, records in zip(reads, contents.values(), strict=True):
        progress(1)
        if read.reason:
            unreadable.append((read.record.path, read.reason))
            continue
        faults = read.prepared.faults(limits)
        if faults:
            ordered = MappingProxyType(dict(sorted(faults.items(), key=lambda fault: -fault[1])))
            poor.append(PoorImage(read.record, tuple(r.path for r in records[1:]), read.prepared, ordered))
    poor.sort(key=lambda image: (-len(image.faults), -max(image.faults.values()), image.record.path))
    return Quality(len(contents) - len(unreadable), tuple(poor), tuple(unreadable))
