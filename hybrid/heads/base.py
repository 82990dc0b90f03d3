"""What every head offers, and the images it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.errors import HeadError, StoreError, listing
from hybrid.images.records import ImageRecord

if TYPE_CHECKING:
    from hybrid.images.preprocess import AnyImage

# An encoder's vectors have length 1; far outside of these bounds no solver gets anywhere.
SHORTEST, LONGEST = 1e-6, 1e6


class Head(Protocol):
    """A classifier over the seen classes.

    Attributes
    ----------
    classes : tuple of str
        Seen labels; column order of the logits.
    encoder_identity : str or None
        The encoder whose embeddings the head reads; None for a head that reads pixels.
    min_side : int or None
        Shorter side that `prepare` needs of an image; 1 if it looks at no pixel, None: the full size.
    batch_size : int
        Images to score at once, where the user does not say.
    notes : tuple of str
        What it is and where it computes, for people.
    """

    classes: tuple[str, ...]
    encoder_identity: str | None
    min_side: int | None
    notes: tuple[str, ...]

    @property
    def batch_size(self) -> int: ...  # noqa: D102  described above

    def prepare(self, image: AnyImage) -> Any:
        """Turn a decoded image into what `logits` takes; runs in worker threads."""

    def logits(self, prepared: Sequence[Any], embeddings: FloatArray) -> FloatArray:
        """Score images over `classes`, shape (n, n_classes), from prepared pixels or CLIP embeddings."""


@dataclass(frozen=True)
class LabeledImages:
    """Images of one split with their classes and embeddings, in the same order.

    Attributes
    ----------
    records : tuple of ImageRecord
    hashes : tuple of str
        sha256 of each image's bytes.
    target : (n,) int
        Class index.
    embeddings : (n, dim) float32
    """

    records: tuple[ImageRecord, ...]
    hashes: tuple[str, ...]
    target: NDArray[np.intp]
    embeddings: FloatArray

    def __len__(self) -> int:
        return len(self.records)

    def __add__(self, other: LabeledImages) -> LabeledImages:
        """Join with others of the same classes."""
        return LabeledImages(
            self.records + other.records,
            self.hashes + other.hashes,
            np.concatenate([self.target, other.target]),
            np.concatenate([self.embeddings, other.embeddings]),
        )

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> LabeledImages:
        """Some of the images, in the order of `rows`."""
        index = np.asarray(rows, dtype=np.intp)
        records = tuple(self.records[row] for row in index.tolist())
        hashes = tuple(self.hashes[row] for row in index.tolist())
        return LabeledImages(records, hashes, self.target[index], self.embeddings[index])


@dataclass(frozen=True)
class TrainingSet:
    """What a head is trained and validated on; no image stands on both sides.

    Attributes
    ----------
    classes : tuple of str
    train, val : LabeledImages
    notes : tuple of str
    trains_only : frozenset of str
        Content hashes of images that may never be held out; see `StoredImage.trains_only`.
    negatives : LabeledImages or None
        Images that were drawn at random and that show none of the classes, as a person said; their targets say nothing.
    """

    classes: tuple[str, ...]
    train: LabeledImages
    val: LabeledImages
    notes: tuple[str, ...]
    trains_only: frozenset[str] = frozenset()
    negatives: LabeledImages | None = None


@dataclass(frozen=True)
class TrainingSummary:
    """How a network was trained.

    Attributes
    ----------
    epochs, best_epoch : int
        Epochs run and the one that was kept; of an ensemble the sum, and the mean.
    val_accuracy : float
        Mean per-class accuracy on the validation images in the kept epoch.
    parameters, trainable : int
        All parameters of the network that is kept, and how many numbers were trained for it.
    """

    epochs: int
    best_epoch: int
    val_accuracy: float
    parameters: int
    trainable: int


def damaged(file: Path, problem: str) -> HeadError:
    """Make the error for damaged weights of a head."""
    return HeadError(f"the head's weights in {file} are damaged", got=problem, fix="hybrid train-head")


def check_vectors(images: LabeledImages) -> None:
    """Raise StoreError that names the images whose embedding is damaged: not finite, of length zero, or huge.

    Nothing is fitted to such vectors: a solver would only say that it did not converge.
    """
    lengths = np.linalg.norm(images.embeddings.astype(np.float64), axis=1)
    damaged_rows = np.flatnonzero(~((lengths > SHORTEST) & (lengths < LONGEST)))
    if not len(damaged_rows) or not images.embeddings.shape[1]:
        return
    shown = [f"{images.records[row].path} (length {lengths[row]:.3g})" for row in damaged_rows.tolist()]
    raise StoreError(
        f"the vectors of {len(damaged_rows)} of {len(images)} photos are damaged",
        expected="finite numbers, of length 1",
        got=listing(shown, 5),
        fix="take these photos out of the index and in again (hybrid build-index without and with them)",
    )
