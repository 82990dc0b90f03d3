"""`Steps`: a model's own preprocessing in numbers, whatever computes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybrid.images.decode import Scaled

# A JPEG is decoded at this many times the length that the model takes, or more: at less the blocks of its transform,
# and not the model's own filter, would decide how the image looks (tests/images/test_real_preprocess.py).
OVERSAMPLING = 3
# Beyond this shape, long by short side, only the middle of an image is resized.
LONGEST = 16


@dataclass(frozen=True)
class Steps:
    """What a transform does to an image.

    Attributes
    ----------
    resize : int or (int, int)
        Length of the shorter side; or height and width, whatever the image's shape.
    crop : (int, int)
        Height and width of the middle that is kept.
    interpolation : {"bicubic", "bilinear"}
        Always antialiased.
    mean, std : tuple of float
        Of each channel, white being 1.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def size_of(self, height: float, width: float) -> tuple[int, int]:
        """Height and width of an image after resizing."""
        if not isinstance(self.resize, int):
            return self.resize
        # As torchvision rounds.
        long = int(self.resize * max(height, width) / min(height, width))
        return (self.resize, long) if height <= width else (long, self.resize)

    def start_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Top and left of the middle that is kept of a resized image."""
        return round((size[0] - self.crop[0]) / 2), round((size[1] - self.crop[1]) / 2)

    @property
    def min_side(self) -> int:
        """Shorter side that images should be decoded at."""
        return OVERSAMPLING * (self.resize if isinstance(self.resize, int) else max(self.resize))

    def middle_of(self, image: Scaled) -> Scaled:
        """Keep the middle of a strip: resized whole, one of 20,000 x 10 pixels would take a gigabyte."""
        height, width = image.rgb.shape[:2]
        if not isinstance(self.resize, int) or max(height, width) <= LONGEST * min(height, width):
            return image
        length = LONGEST * min(height, width) // 2
        start = (max(height, width) - length) // 2
        rows, columns = (slice(start, start + length), slice(None))[:: 1 if height > width else -1]
        part = image.rgb[rows, columns]
        return Scaled.whole(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part.contiguous())
