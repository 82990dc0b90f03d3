"""The part of a decoded photo that a box shows, as an image of its own."""

from __future__ import annotations

import numpy as np

from hybrid.images.boxes import Box
from hybrid.images.decode import Scaled

# What stands around a photo that is too short for a square: the mean of ImageNet, next to nothing for networks.
AROUND = (124, 116, 104)


def crop(photo: Scaled, box: Box) -> Scaled:
    """Cut the square of a box out of a photo, where its pixels lie; it is a copy, so that the photo may go."""
    left, top, side = box.square(photo.extent[1], photo.extent[0])
    length = max(1, round(side))
    # The last row and column of the pixels may stand for a part of one.
    down, across = (_span(at, length, whole) for at, whole in zip((top, left), photo.rgb.shape[:2], strict=True))
    part = photo.rgb[down, across]
    before = [(length - size) // 2 for size in part.shape[:2]]
    place = tuple(slice(at, at + size) for at, size in zip(before, part.shape[:2], strict=True))
    if isinstance(part, np.ndarray):
        square = np.empty((length, length, 3), np.uint8)
        if tuple(part.shape[:2]) != (length, length):
            square[:] = AROUND
        square[place] = part
        return Scaled.whole(square, photo.note)
    # In the order of a GPU's decoder, whose tensors are views of planes.
    planes = part.new_tensor(AROUND)[:, None, None].repeat(1, length, length)
    planes[:, *place] = part.permute(2, 0, 1)
    if part.is_cuda:
        import torch

        # Before this has been computed, the stream that it was decoded in may not use its memory again.
        part.record_stream(torch.cuda.current_stream(part.device))
    return Scaled.whole(planes.permute(1, 2, 0), photo.note)


def _span(start: float, length: int, whole: int) -> slice:
    """So many of `whole` pixels from a place on, moved inside; all of them, where there are not more."""
    if length >= whole:
        return slice(0, whole)
    at = min(max(0, round(start)), whole - length)
    return slice(at, at + length)
