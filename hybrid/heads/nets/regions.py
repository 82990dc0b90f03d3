"""Classification by regions: an image is cut into segments or tiles, each is classified, the votes are averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageStat

from hybrid.encoders.base import FloatArray
from hybrid.errors import HeadError, MissingExtraError
from hybrid.heads.base import Head
from hybrid.images.preprocess import AnyImage, to_picture

Method = Literal["slic", "tiles"]
# Superpixels need the image's large shapes, not its pixels: on this many pixels of the longer side SLIC takes 20 ms.
SLIC_SIDE = 160
# Lab distance against distance in pixels. Higher than scikit-image's 10, and after a slight blur (in pixels), because
# texture otherwise tears segments into specks, which SLIC then merges: a brick wall asked for 9 gave a single one.
COMPACTNESS, BLUR = 20.0, 1.0
# A region below this share of an equal part of the image shows too little to be classified.
SMALLEST = 0.2
# Images and regions that go through the network at once: a batch of images has many times as many regions.
BATCH = 64


@dataclass(frozen=True)
class _Part:
    """One region: its bounding box (left, upper, right, lower), and which pixels of the box it holds (None: all)."""

    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_] | None
    area: int


def segment(image: Image.Image, method: Method, count: int) -> list[Image.Image]:
    """Cut an image into regions; the same image always gives the same ones.

    ``slic`` finds superpixels of similar color (Achanta et al., "SLIC Superpixels Compared to State-of-the-art
    Superpixel Methods", TPAMI 2012); each region is the bounding box of one, with what lies outside the superpixel in
    the image's mean color. ``tiles`` is a grid of nearly equal rectangles that follows the image's shape.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB, of any size.
    method : {"slic", "tiles"}
    count : int
        About how many regions.

    Returns
    -------
    list of PIL.Image.Image
        RGB, at least one, in the order of their first pixels, row by row. Regions far below an equal share of the
        image are left out. The whole image is not among them, unless it cannot be divided (one pixel, or a single
        superpixel).

    Raises
    ------
    MissingExtraError
        For ``slic`` without scikit-image.
    """
    color = _mean_color(image)
    return [_cut(image, part, color) for part in _parts(image, method, count)]


def random_region(image: Image.Image, method: Method, count: int) -> Image.Image:
    """Draw what a training step sees of an image: the whole with probability 1/2, else one of its regions.

    Both are drawn from torch's global generator, which the data loader seeds.

    Parameters
    ----------
    image, method, count
        As `segment` takes them.

    Raises
    ------
    MissingExtraError
        For ``slic`` without scikit-image.
    """
    if int(torch.randint(2, ())) == 0:
        return image
    parts = _parts(image, method, count)
    return _cut(image, parts[int(torch.randint(len(parts), ()))], _mean_color(image))


class RegionHead:
    """A head that reads pixels, asked about the whole image and its regions; see the `Head` protocol.

    Every one has the same vote: the image's probabilities are the mean of theirs ("soft vote").

    Parameters
    ----------
    head : Head
        Asked about the views of an image as if they were images.
    method : {"slic", "tiles"}
    count : int
        About how many regions, beside the whole image.

    Raises
    ------
    HeadError
        If `head` reads embeddings, which are of whole images.
    MissingExtraError
        For ``slic`` without scikit-image.
    """

    # Regions are cut from the image at its full size.
    min_side: int | None = None

    def __init__(self, head: Head, method: Method, count: int) -> None:
        if head.encoder_identity is not None:
            raise HeadError(
                "this head reads CLIP embeddings of whole photos, so it cannot classify regions",
                expected="a head that reads pixels",
                fix="--regions none, or a recipe with kind = backbone",
            )
        if method == "slic":
            load_slic()  # what is missing shows here, not in a worker thread
        self.head = head
        self.classes: tuple[str, ...] = head.classes
        self.encoder_identity: str | None = head.encoder_identity
        kind = "SLIC segments" if method == "slic" else "tiles"
        vote = f"regions: about {count} {kind} and the whole photo; the mean of their probabilities counts"
        self.notes: tuple[str, ...] = (*head.notes, vote)
        self._method: Method = method
        self._count = count

    @property
    def batch_size(self) -> int:
        """Images to score at once: each has many views."""
        return max(1, self.head.batch_size // (self._count + 1))

    def prepare(self, image: AnyImage) -> list[Any]:
        """Prepare the whole image and its regions: a list of what the head prepares."""
        picture = to_picture(image)
        return [self.head.prepare(view) for view in (picture, *segment(picture, self._method, self._count))]

    def logits(self, prepared: Sequence[Any], embeddings: FloatArray) -> FloatArray:
        """Score images, (n, n_classes) float32: logs of the mean probabilities; `embeddings` is not used."""
        if not prepared:
            return np.empty((0, len(self.classes)), dtype=np.float32)
        views = [view for image in prepared for view in image]
        unused = np.empty((0, 0), dtype=np.float32)
        batches = (views[start : start + BATCH] for start in range(0, len(views), BATCH))
        scores = np.concatenate([self.head.logits(batch, unused) for batch in batches])
        return soft_vote(scores, [len(image) for image in prepared])


def soft_vote(logits: FloatArray, counts: Sequence[int]) -> FloatArray:
    """Join the votes of each image's views: the log of the mean of their softmax probabilities.

    Parameters
    ----------
    logits : (sum of counts, n_classes) float32
        One row a view, those of an image together.
    counts : sequence of int
        Views of each image, at least 1.

    Returns
    -------
    (len(counts), n_classes) float32
        Log probabilities, so that their softmax is the mean of the votes.
    """
    from scipy.special import log_softmax

    log_p = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    starts = np.cumsum([0, *counts[:-1]])
    log_sums = np.logaddexp.reduceat(log_p, starts, axis=0)
    return np.asarray(log_sums - np.log(counts)[:, None], dtype=np.float32)


def _parts(image: Image.Image, method: Method, count: int) -> list[_Part]:
    parts = _segments(image, count) if method == "slic" else _tiles(image, count)
    smallest = SMALLEST * image.width * image.height / count
    return [part for part in parts if part.area >= smallest] or [max(parts, key=lambda part: part.area)]


def _segments(image: Image.Image, count: int) -> list[_Part]:
    from scipy.ndimage import find_objects

    labels = _superpixels(image, count)
    parts = []
    # SLIC numbers its segments without gaps, so that every one has its box.
    for number, (rows, columns) in enumerate(find_objects(labels), start=1):
        mask = labels[rows, columns] == number
        parts.append(_Part((columns.start, rows.start, columns.stop, rows.stop), mask, int(mask.sum())))
    return parts


def _superpixels(image: Image.Image, count: int) -> NDArray[np.int32]:
    """Number the superpixels from 1, (height, width) int32, found on a small copy of the image."""
    slic = load_slic()
    small = image.copy()
    small.thumbnail((SLIC_SIDE, SLIC_SIDE), Image.Resampling.BOX)
    segments = slic(np.asarray(small), n_segments=count, compactness=COMPACTNESS, sigma=BLUR, start_label=1)
    labels = segments.astype(np.int32)
    # Enlarging by nearest neighbor keeps every label: no side of the copy is longer than the image's.
    return np.asarray(Image.fromarray(labels).resize(image.size, Image.Resampling.NEAREST))


def _tiles(image: Image.Image, count: int) -> list[_Part]:
    columns, rows = _grid(image.width, image.height, count)
    x = np.linspace(0, image.width, columns + 1).round().astype(int).tolist()
    y = np.linspace(0, image.height, rows + 1).round().astype(int).tolist()
    boxes = [(x[c], y[r], x[c + 1], y[r + 1]) for r in range(rows) for c in range(columns)]
    return [_Part(box, None, (box[2] - box[0]) * (box[3] - box[1])) for box in boxes]


def _grid(width: int, height: int, count: int) -> tuple[int, int]:
    """Choose columns and rows: tiles nearly square, and nearly as many as asked for."""

    def cost(grid: tuple[int, int]) -> float:
        columns, rows = grid
        shape = abs(np.log((width / columns) / (height / rows)))
        return float(shape + abs(np.log(columns * rows / count)))

    grids = [(columns, min(max(round(count / columns), 1), height)) for columns in range(1, min(count, width) + 1)]
    return min(grids, key=cost)


def _cut(image: Image.Image, part: _Part, color: tuple[int, ...]) -> Image.Image:
    crop = image.crop(part.box)
    if part.mask is None:
        return crop
    # The mean color, not black: the network subtracts about this color, so the filling says little to it, and the
    # edge between segment and filling is no stronger than the image's own.
    filling = Image.new("RGB", crop.size, color)
    return Image.composite(crop, filling, Image.fromarray(part.mask))


def _mean_color(image: Image.Image) -> tuple[int, ...]:
    return tuple(round(value) for value in ImageStat.Stat(image).mean)


def load_slic() -> Callable[..., NDArray[np.int64]]:
    """scikit-image's SLIC; MissingExtraError without it."""
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MissingExtraError("regions by SLIC", "scikit-image", "regions") from error
    function: Callable[..., NDArray[np.int64]] = slic
    return function
