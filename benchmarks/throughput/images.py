"""What benchmarks.throughput measures on: images, class names, and one set of random CLIP weights for everybody.

Nothing is downloaded: the images are crops of the two images that scikit-learn brings, mirrored, resized and with the
grain of a sensor, so that their files are as large as a camera's.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.throughput.processes import own_start_method

P = ParamSpec("P")
R = TypeVar("R")
MEDIUM, LARGE, SMALL = (640, 480), (4000, 3000), (80, 64)
# Gray levels of grain: files of about 105 kB at 640 x 480 and 2.9 MB at 12 megapixels.
GRAIN, TILE = 5.0, 1024
ORIGINALS = ("china", "flower")
QUALITY = 90
# A 12-megapixel image takes a second to draw; further files repeat the pixels of these, with other bytes, and so do
# those of other sizes beyond so many.
DISTINCT_LARGE, DISTINCT = 8, 2048


def draw(size: tuple[int, int], seed: int) -> bytes:
    """One image as JPEG: a crop of a real one at least half as wide and high, half of them mirrored.

    Parameters
    ----------
    size : (width, height)
    seed : int
        The same one gives the same bytes.
    """
    rng = _dice(size, seed)
    image = _originals()[int(rng.integers(len(ORIGINALS)))]
    share = rng.uniform(0.5, 1.0, 2)
    width, height = (int(full * part) for full, part in zip(image.size, share, strict=True))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    picture = image.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    down, across = (int(n) for n in rng.integers(TILE, size=2))
    rows, columns = (np.arange(size[1]) + down) % TILE, (np.arange(size[0]) + across) % TILE
    noisy = np.asarray(picture).astype(np.int16) + _grain()[np.ix_(rows, columns)][..., None]
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def original(size: tuple[int, int], number: int) -> int:
    """Which of `ORIGINALS` an image of `write_images` is a crop of: a class that a network can learn."""
    return int(_dice(size, number % _distinct(size)).integers(len(ORIGINALS)))


def numbered(jpeg: bytes, number: int) -> bytes:
    """The same picture in other bytes: a JPEG comment with a number after the start marker."""
    return jpeg[:2] + b"\xff\xfe\x00\x06" + number.to_bytes(4, "big") + jpeg[2:]


def write_images(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> tuple[str, ...]:
    """Draw images into a new folder, on all cores, and give their paths in order."""
    folder.mkdir(parents=True)
    distinct = min(count, _distinct(size))
    paths = [str(folder / f"{index:06d}.jpg") for index in range(count)]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        seeds = range(seed, seed + distinct)
        copies = [paths[index::distinct] for index in range(distinct)]
        list(pool.map(_write, copies, repeat(size), seeds, chunksize=max(1, distinct // 64)))
    return tuple(paths)


def class_names(count: int = 40, prompts: str = "caltech101") -> tuple[str, ...]:
    """The first classes of a bundled prompt file."""
    from hybrid.labels.prompts import PromptSet

    return PromptSet.load(prompts).names[:count]


def write_weights(model: str, file: Path, seed: int = 0) -> Path:
    """Write random weights of an open_clip model as safetensors."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    save_file(open_clip.create_model(model, load_weights=False).state_dict(), file)
    return file


def elsewhere(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run in a process of its own, which ends with it: the benchmark's own must stay small and free of torch.

    (A child's peak memory, as the system tells it, begins at that of the process that started it.)
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=own_start_method) as pool:
        return pool.submit(work, *args, **kwargs).result()


def read_once(paths: Sequence[str]) -> None:
    """Bring the files into the page cache, the same for every system."""
    for path in paths:
        Path(path).read_bytes()


def _write(paths: Sequence[str], size: tuple[int, int], seed: int) -> None:
    jpeg = draw(size, seed)
    for number, path in enumerate(paths):
        Path(path).write_bytes(numbered(jpeg, number) if number else jpeg)


def _dice(size: tuple[int, int], seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, *size])


def _distinct(size: tuple[int, int]) -> int:
    return DISTINCT_LARGE if size == LARGE else DISTINCT


@functools.cache
def _originals() -> tuple[Image.Image, ...]:
    from sklearn.datasets import load_sample_images

    images: Any = load_sample_images().images
    return tuple(Image.fromarray(image) for image in images)


@functools.cache
def _grain() -> NDArray[np.int16]:
    return np.rint(np.random.default_rng(0).normal(0, GRAIN, (TILE, TILE))).astype(np.int16)
