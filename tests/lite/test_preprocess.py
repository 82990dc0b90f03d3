"""Preprocessing without torch gives the pixels of the torch pipeline."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from timm.data import create_transform

from hybrid.images.decode import Scaled
from hybrid.images.decoders import LibjpegTurbo
from hybrid.images.preprocess import Preprocessor
from hybrid.lite.preprocess import fit

MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.3, 0.2)
TRANSFORMS = [
    image_transform(64, is_train=False, mean=MEAN, std=STD, interpolation="bicubic"),
    image_transform(64, is_train=False, mean=MEAN, std=STD, resize_mode="squash", interpolation="bilinear"),
    create_transform((3, 64, 64), interpolation="bicubic", crop_pct=0.875, mean=MEAN, std=STD),
]
SIZES = [(640, 480), (481, 643), (64, 64), (50, 30), (3000, 90), (333, 1021), (65, 64), (1, 7), (1300, 1021)]


def both(transform, image):
    """The pixels of either."""
    by_torch = Preprocessor(transform, "cpu", torch.float32)
    return by_torch.pixels([by_torch.prepare(image)])[0].numpy(), fit(image, by_torch.steps)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_images_of_all_shapes(transform, image):
    for number, size in enumerate(SIZES):
        picture = image(number, size)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=90)
        # The second one stands for fractions of a pixel in its last row and column.
        for scaled in (Scaled.whole(np.array(picture)), LibjpegTurbo().decode(stream.getvalue(), 96)):
            expected, found = both(transform, scaled)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.real_data
def test_real_photos():
    folder = os.environ.get("HYBRID_DATA")
    photos = sorted(Path(folder).rglob("*.jpg"))[:8] if folder else []
    if not photos:
        pytest.skip("needs real photos (HYBRID_DATA)")
    for photo in photos:
        expected, found = both(TRANSFORMS[0], LibjpegTurbo().decode(photo.read_bytes(), 192))
        np.testing.assert_array_equal(found, expected)
