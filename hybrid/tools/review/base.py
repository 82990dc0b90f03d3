"""What a classifier says of images that may be reviewed: what the queue is made from, wherever the images are."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.index.store import EmbeddingStore
from hybrid.prediction import Prediction
from hybrid.run.files import Layout
from hybrid.run.fitted import FittedClassifier
from hybrid.tools.review.strategies import Rows

# Images that a person labeled last: `diverse` keeps away from them.
LABELED = 500
TOP = 5
Unreadable = tuple[tuple[str, str], ...]


class ReviewPool(ABC):
    """Answers for images, those without a label first; more of them come while the queue is read.

    Each image is answered by itself, and by a class that it may be labeled with, whatever the policy says of that.

    Parameters
    ----------
    classifier : FittedClassifier
        Its policy shifts the answers here, too.
    layout : Layout
        Of its run, which keeps the labels.
    fingerprint : str
        Of the encoder of the vectors.
    images : mapping of content hash to (path, label or None)

    Attributes
    ----------
    hashes, paths : tuple of n str
        Contents, those without a label first, and the first path of each.
    labels : tuple of n (str or None)
        In force when the pool was made.
    unlabeled : int
        How many have none.
    margin, p_unseen : (n,) float64; `p_unseen` is None without a gate
        See `strategies`; NaN where the answer is not there yet.
    place : str
        What holds the images, for people.
    labels_first : bool
        Whether labels that are almost surely wrong are to be checked before all else.
    notes : tuple of str
        What to tell people of the images.
    """

    place = "index"
    labels_first = True
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        classifier: FittedClassifier,
        layout: Layout,
        fingerprint: str,
        images: Mapping[str, tuple[str, str | None]],
    ) -> None:
        policy = replace(classifier.policy, transductive=False, confident=None)
        if policy != classifier.policy:
            classifier = replace(classifier, policy=policy)
        self.classifier, self.layout, self.fingerprint = classifier, layout, fingerprint
        self.hashes = tuple(sorted(images, key=lambda name: (images[name][1] is not None, name)))
        self.paths = tuple(images[name][0] for name in self.hashes)
        self.labels = tuple(images[name][1] for name in self.hashes)
        self.unlabeled = sum(label is None for label in self.labels)
        self.margin = np.full(len(self.hashes), np.nan)
        self.p_unseen = np.full(len(self.hashes), np.nan) if classifier.decider is not None else None
        self._row = {name: row for row, name in enumerate(self.hashes)}
        self._reasons: dict[str, str] = {}

    @abstractmethod
    def update(
        self, step: Callable[[int], None] = lambda count: None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Answer the images that are not answered yet, while others read what is there.

        Parameters
        ----------
        step : callable
            Told how many were just answered, or found unreadable.
        stop : callable
            Asked after each batch; where it says so, the rest is left for the next call.
        """

    @abstractmethod
    def predictions(self, hashes: Sequence[str], top_k: int = TOP) -> list[Prediction | None]:
        """What is predicted for images of the pool; None where an answer is not there yet."""

    @abstractmethod
    def embeddings(self, hashes: Sequence[str]) -> FloatArray:
        """Vectors of contents of the pool, (n, dim) float32."""

    @abstractmethod
    def suspicion(self) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """How suspicious each label is, (n,) float64, NaN where none is judged; and notes."""

    @property
    def ready(self) -> tuple[int, int]:
        """Images that are answered or cannot be, and all."""
        total = len(self.hashes)
        return total - len(self._waiting()), total

    @property
    def unreadable(self) -> Unreadable:
        """Path and reason of each image that cannot be answered."""
        return tuple(self._reasons.items())

    def answers(self, hashes: Sequence[str]) -> list[str | None]:
        """What the classifier says of images before their labels are known, to be kept with these; see `progress`.

        None where there is no answer yet, and for an image that the classifier learned.
        """
        head, learned = self.head_name, self.classifier.learned
        return [
            None
            if said is None or sha256 in learned
            else json.dumps({"label": said.label, "probability": round(said.probability, 6), "head": head})
            for sha256, said in zip(hashes, self.predictions(hashes, 1), strict=True)
        ]

    @property
    def head_name(self) -> str | None:
        """The head and gate that answer, by the name of their folder; None without a head."""
        folder = self.classifier.state.head_folder if self.classifier.state is not None else None
        return None if folder is None else folder.name

    def labeled_vectors(self) -> FloatArray:
        """Vectors of the images that people labeled last, (m, dim) float32, as far as the run's index has them."""
        names = self._corrected()[-LABELED:]
        if not names:
            return np.empty((0, 0), np.float32)
        with EmbeddingStore(self.layout.store, read_only=True) as store:
            there = store.embedded(self.fingerprint, names)
            return store.embeddings([name for name in names if name in there], self.fingerprint)

    def open_rows(self, exclude: Collection[str] = ()) -> Rows:
        """Rows that are answered, and that no person labeled or passed over."""
        gone = {*exclude, *self._corrected()}
        there = np.flatnonzero(~np.isnan(self.margin))
        return np.array([row for row in there.tolist() if self.hashes[row] not in gone], np.intp)

    def lacks_labels(self, exclude: Collection[str] = ()) -> bool:
        """Whether there is an image, answered or not, without a label that no person labeled or passed over."""
        return not set(self.hashes[: self.unlabeled]) <= {*exclude, *self._corrected()}

    def _corrected(self) -> list[str]:
        """Contents that a person labeled, the latest last."""
        if not self.layout.store.is_file():
            return []
        with EmbeddingStore(self.layout.store, read_only=True) as store:
            given = store.labels_in_force()
        return sorted(given, key=lambda name: given[name].id)

    def _waiting(self) -> list[int]:
        rows = np.flatnonzero(np.isnan(self.margin)).tolist()
        return [row for row in rows if self.paths[row] not in self._reasons]
