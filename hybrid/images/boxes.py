"""Boxes: the parts of photos that a detector found, as images of their own, each with a name and a square to show."""

from __future__ import annotations

import hashlib
import math
import re
from typing import NamedTuple

# A W3C media fragment; hybrid adds the margin where it is not the usual one.
_MARK = "#xywh=percent:"
_NUMBER = r"(\d+(?:\.\d+)?)"
_NAME = re.compile(rf"(.+){_MARK}{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}(?:&margin={_NUMBER})?", re.DOTALL)
# Before the last part of a path: this file is really called so.
_PLAIN = "/./"
# What is shown around a box, as a share of its longer side at each of the four.
MARGIN = 0.1
# Of a percent: a hundredth of a pixel of a photo that is 10,000 pixels wide.
_DIGITS = 4


class Box(NamedTuple):
    """A part of an upright photo; lengths as parts of the photo's width and height, from its upper left corner.

    Attributes
    ----------
    x, y, width, height : float
        From 0 to 1.
    margin : float
        What is shown around it, as a share of its longer side.
    """

    x: float
    y: float
    width: float
    height: float
    margin: float = MARGIN

    @classmethod
    def of(cls, x: float, y: float, width: float, height: float, margin: float = MARGIN) -> Box:
        """Round the numbers as a name has them, so that a box is equal to the one that its name tells of."""
        left, top, wide, high = (float(_text(100 * value)) / 100 for value in (x, y, width, height))
        return cls(left, top, wide, high, float(_text(margin)))

    @property
    def fragment(self) -> str:
        """What stands behind the name of the photo, such as ``#xywh=percent:12.5,40,20,15``."""
        numbers = ",".join(_text(100 * value) for value in self[:4])
        return f"{_MARK}{numbers}" + ("" if self.margin == MARGIN else f"&margin={_text(self.margin)}")

    def content(self, sha256: str) -> str:
        """The content key of this part of the photo with this one."""
        return hashlib.sha256(f"{sha256}{self.fragment}".encode()).hexdigest()

    def square(self, width: float, height: float) -> tuple[float, float, float]:
        """The square to show in a photo of this size, in its pixels: left, top and side.

        It holds the box with its margin, and lies within the photo, for which it moves, and gives up margin. Where the
        box itself is longer than the photo is high, or wide, the square ends at the box and stands out of the photo on
        both sides.
        """
        longer = max(self.width * width, self.height * height)
        side = min(longer * (1 + 2 * self.margin), max(longer, min(width, height)))
        corner = []
        for start, length, whole in ((self.x, self.width, width), (self.y, self.height, height)):
            free = whole - side
            at = (start + length / 2) * whole - side / 2
            corner.append(min(max(at, 0.0), free) if free > 0 else free / 2)
        return corner[0], corner[1], side

    def photo_side(self, min_side: int | None) -> int | None:
        """The shorter side that the photo needs, for the square to have this one; None: full size."""
        # At least so, whatever the photo's shape: the square is as long as the box, of the shorter side at least this
        # part.
        return None if min_side is None else math.ceil(min_side / max(self.width, self.height))


def parted(path: str) -> tuple[str, Box | None]:
    """Part an image's name into its photo's and its box; None where the image is a whole photo.

    A file that is really called like a part of a photo keeps its name behind ``/./`` (`as_whole`).
    """
    if _MARK not in path or (found := _NAME.fullmatch(path)) is None:
        return path, None
    file, margin = found[1], found[6]
    if _PLAIN in file and "/" not in file.rpartition(_PLAIN)[2]:
        return path, None
    x, y, width, height = (float(found[place]) / 100 for place in (2, 3, 4, 5))
    box = Box.of(x, y, width, height, MARGIN if margin is None else float(margin))
    return (file, box) if box.width > 0 and box.height > 0 else (path, None)


def as_whole(path: str) -> str:
    """Write the path of a file so that it is never taken for a part of a photo."""
    if parted(path)[1] is None:
        return path
    folder, _, name = path.rpartition("/")
    return f"{folder}{_PLAIN}{name}"


def _text(number: float) -> str:
    return f"{number:.{_DIGITS}f}".rstrip("0").rstrip(".")
