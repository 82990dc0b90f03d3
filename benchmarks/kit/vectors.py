"""Cached vectors of labeled images and of class names: the file that the benchmarks on vectors read, and its splits.

FILE.npz holds class_names (C,), class_text (C, d) with NaN rows where a class has no text vector, logit_scale, and
{train,val,test}_embedding (n, d) and {train,val,test}_label (n,). Split of a seed: the indices of the classes with a
text vector, in order, shuffled by random.Random(seed); the first int(n * fraction) are unseen, the others seen.
Classes without a text vector are left out.
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import DataError, listing
from hybrid.gate.gaussians import LabeledEmbeddings

SPLITS = ("train", "val", "test")
# Two folds of two classes are the least that leaves something to choose between on both sides of an episode.
MIN_SEEN = 4


@dataclass(frozen=True)
class Data:
    """A file's content: unit-norm float32 vectors; `texts` has NaN rows where a class has none."""

    names: tuple[str, ...]
    texts: NDArray[np.float32]
    images: dict[str, LabeledEmbeddings]
    logit_scale: float
    model: str

    @property
    def named(self) -> list[int]:
        """Classes with a text vector."""
        return [int(i) for i in np.flatnonzero(~np.isnan(self.texts).any(axis=1))]


def read(file: Path) -> Data:
    """Read and check a file; DataError says what is wrong with it."""
    arrays = _load(file)
    needed = ["class_names", "class_text", "logit_scale"]
    needed += [f"{split}_{part}" for split in SPLITS for part in ("embedding", "label")]
    if missing := [name for name in needed if name not in arrays]:
        raise DataError(f"{file} lacks arrays", expected=", ".join(needed), got=f"no {', '.join(missing)}")
    names, texts, scale = arrays["class_names"], arrays["class_text"], arrays["logit_scale"]
    if names.ndim != 1 or texts.ndim != 2 or len(texts) != len(names) or texts.dtype.kind != "f":
        got = f"{names.shape} and {texts.dtype} {texts.shape}"
        raise DataError(f"{file}: class_text does not fit class_names", expected="(C,) and (C, d) floats", got=got)
    if scale.size != 1 or scale.dtype.kind not in "fiu" or not 0 < scale.item() < np.inf:
        raise DataError(f"{file}: logit_scale is wrong", expected="one number above 0", got=f"{scale!r:.80}")
    without = np.isnan(texts).all(axis=1)
    vectors = np.full(texts.shape, np.nan, np.float32)
    vectors[~without] = unit(texts[~without], f"{file}: class_text")
    images = {split: _images(arrays, split, texts.shape, file) for split in SPLITS}
    model = str(arrays["model"]) if "model" in arrays else "not named in the file"
    return Data(tuple(map(str, names.tolist())), vectors, images, float(scale.item()), model)


def _load(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read {file}",
            expected="an npz of plain arrays, as benchmarks/kit/vectors.py describes it",
            got=str(error),
        ) from error


def _images(arrays: dict[str, NDArray[Any]], split: str, texts: tuple[int, ...], file: Path) -> LabeledEmbeddings:
    embeddings, labels = arrays[f"{split}_embedding"], arrays[f"{split}_label"]
    fits = embeddings.ndim == 2 and embeddings.shape[1] == texts[1] and embeddings.dtype.kind == "f"
    if not fits or labels.shape != embeddings.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{file}: the {split} arrays do not fit",
            expected=f"(n, {texts[1]}) floats and (n,) integers",
            got=f"{embeddings.dtype} {embeddings.shape} and {labels.dtype} {labels.shape}",
        )
    low, high = labels.min(initial=0), labels.max(initial=0)
    if low < 0 or high >= texts[0]:
        raise DataError(
            f"{file}: a {split}_label is not a class", expected=f"0 to {texts[0] - 1}", got=f"{low} to {high}"
        )
    return LabeledEmbeddings(unit(embeddings, f"{file}: {split}_embedding"), labels.astype(np.intp))


def unit(vectors: NDArray[Any], what: str) -> NDArray[np.float32]:
    """Renormalize rows, computed in float64."""
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    if bad := np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0))).tolist():
        raise DataError(
            f"{what} holds vectors without a direction",
            expected="finite rows of length about 1",
            got=f"nan, inf or only zeros in {len(bad)} rows: {listing([str(row) for row in bad], 5)}",
        )
    return np.asarray(exact / lengths, np.float32)


def split_classes(named: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Deal the classes with a text vector into seen and unseen ones, each sorted."""
    shuffled = list(named)
    random.Random(seed).shuffle(shuffled)
    count = int(len(shuffled) * fraction)
    if count < 1 or len(shuffled) - count < MIN_SEEN:
        raise DataError(
            "too few classes",
            expected=f"at least {MIN_SEEN} seen classes and an unseen one",
            got=f"{len(named)} classes with a text vector, {count} of them unseen",
        )
    return sorted(shuffled[count:]), sorted(shuffled[:count])


@dataclass(frozen=True)
class Split:
    """One seed's label space, seen classes first, and its images with indices in it."""

    seen: tuple[int, ...]
    unseen: tuple[int, ...]
    texts: NDArray[np.float32]
    train: LabeledEmbeddings
    val: LabeledEmbeddings
    test: LabeledEmbeddings
    logit_scale: float


def cut(data: Data, fraction: float, seed: int) -> Split:
    """Take a seed's classes; train and val keep images of seen classes only."""
    seen, unseen = split_classes(data.named, fraction, seed)
    position = np.full(len(data.names), len(data.names), np.intp)
    position[[*seen, *unseen]] = np.arange(len(seen) + len(unseen))

    def keep(name: str, classes: int) -> LabeledEmbeddings:
        images = data.images[name]
        rows = position[images.target] < classes
        return LabeledEmbeddings(images.embeddings[rows], position[images.target[rows]])

    train, val = keep("train", len(seen)), keep("val", len(seen))
    test = keep("test", len(seen) + len(unseen))
    if lacking := sorted(set(range(len(seen))) - set(train.target.tolist())):
        raise DataError(
            f"seed {seed}: seen classes without train photos",
            expected="at least one of each",
            got=listing([data.names[seen[c]] for c in lacking]),
        )
    if not len(val) or not len(test):
        raise DataError(f"seed {seed}: too few photos", got=f"{len(val)} to calibrate on, {len(test)} to test on")
    return Split(tuple(seen), tuple(unseen), data.texts[[*seen, *unseen]], train, val, test, data.logit_scale)
