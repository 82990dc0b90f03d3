"""A model's preprocessing by Pillow: the same steps as `hybrid.images.preprocess`, without torch."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hybrid.images.decode import Pixels, Scaled
from hybrid.images.steps import Steps

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def fit(image: Scaled, steps: Steps) -> Pixels:
    """Resize and crop an image to (height, width, 3) uint8; normalization is the network's own first step."""
    image = steps.middle_of(image)
    size = steps.size_of(*image.extent)
    scale = image.extent[0] / size[0], image.extent[1] / size[1]
    top, left = steps.start_of(size)
    # Only what is kept is computed; Pillow reads the pixels around it too, as far as its filter reaches.
    box = (
        left * scale[1],
        top * scale[0],
        min((left + steps.crop[1]) * scale[1], image.extent[1]),
        min((top + steps.crop[0]) * scale[0], image.extent[0]),
    )
    resized = image.to_picture().resize(steps.crop[::-1], FILTERS[steps.interpolation], box)
    return np.asarray(resized)
