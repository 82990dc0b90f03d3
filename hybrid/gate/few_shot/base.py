"""What every few-shot expert offers, and the one check of what it is given."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import FewShotError, listing
from hybrid.gate.gaussians import Floats, Indices, class_sums

# Stored in half precision, a unit vector's length is right to about 1e-3.
LENGTH_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Shots:
    """What an expert learns from, checked.

    Attributes
    ----------
    embeddings : (n, d) float64
        Images, unit norm.
    labels : (n,) int
        Class index, 0 to c - 1.
    texts : (c, d) float64
        Unit norm; a row of NaN where a class has no text.
    """

    embeddings: Floats
    labels: Indices
    texts: Floats

    @cached_property
    def counts(self) -> Indices:
        """Images of each class, (c,)."""
        return np.bincount(self.labels, minlength=len(self.texts))

    @cached_property
    def support(self) -> NDArray[np.bool_]:
        """Which classes have an image, (c,)."""
        return self.counts > 0

    @cached_property
    def named(self) -> NDArray[np.bool_]:
        """Which classes have a text, (c,)."""
        return ~np.isnan(self.texts[:, 0])

    @cached_property
    def one_hot(self) -> Floats:
        """1 where an image is of a class, (n, c)."""
        return np.asarray(np.arange(len(self.texts)) == self.labels[:, None], np.float64)

    @cached_property
    def sums(self) -> Floats:
        """Sum of each class's images, (c, d)."""
        return class_sums(self.embeddings, self.labels, len(self.texts))

    @cached_property
    def means(self) -> Floats:
        """Mean image of each class, (c, d), not of unit norm; a row of NaN where a class has none."""
        return np.where(self.support[:, None], self.sums / np.maximum(self.counts, 1)[:, None], np.nan)

    @cached_property
    def modality_gap(self) -> Floats:
        """How far texts lie from images of their class, (d,): mean text minus mean image; 0 if no class has both.

        Notes
        -----
        Liang et al., "Mind the Gap" (NeurIPS 2022): the two kinds of embeddings lie in two cones, apart by about the
        same vector for all classes. An image that took a text's place unmoved would win over every text.
        """
        both = self.support & self.named
        if not both.any():
            return np.zeros(self.texts.shape[1])
        return np.asarray((self.texts[both] - self.means[both]).mean(axis=0))

    @cached_property
    def full_texts(self) -> Floats:
        """Texts (c, d), unit norm; in place of a missing one the class's mean image, moved by `modality_gap`."""
        return np.where(self.named[:, None], self.texts, unit(self.means + self.modality_gap))

    @cached_property
    def full_means(self) -> Floats:
        """Mean images (c, d); in place of a missing one the class's text, moved back by `modality_gap`."""
        return np.where(self.support[:, None], self.means, self.texts - self.modality_gap)


class FewShotExpert(ABC):
    """Learns from a few labeled images and the classes' texts; scores images. A method fills in `_fit` and `_logits`.

    Parameters
    ----------
    logit_scale : float
        The encoder's: cosine similarity times this gives zero-shot logits.

    Attributes
    ----------
    n_classes_, n_features_in_ : int
        c and d of what it was fitted on.
    """

    def __init__(self, logit_scale: float) -> None:
        self.logit_scale = logit_scale

    def fit(self, embeddings: NDArray[Any], labels: NDArray[Any], text_embeddings: NDArray[Any]) -> Self:
        """Learn classes 0 to c - 1.

        Parameters
        ----------
        embeddings : (n, d) float32
            Images, unit norm; n may be 0.
        labels : (n,) int
            Class index of each image.
        text_embeddings : (c, d) float32
            Unit norm; a row of NaN where a class has no text.

        Raises
        ------
        FewShotError
            If the arrays do not fit together, or a class has neither image nor text.
        """
        if not (math.isfinite(self.logit_scale) and self.logit_scale > 0):
            raise FewShotError(
                "wrong logit_scale",
                expected="a finite number above 0",
                got=str(self.logit_scale),
                fix="give the encoder's own: encoder.logit_scale",
            )
        shots = check_shots(embeddings, labels, text_embeddings)
        self._fit(shots)
        self.n_classes_, self.n_features_in_ = shots.texts.shape
        return self

    def logits(self, embeddings: NDArray[Any]) -> Floats:
        """Score images (m, d) of unit norm, shape (m, c); FewShotError before `fit` or on another dimension."""
        if not hasattr(self, "n_classes_"):
            raise FewShotError(f"this {type(self).__name__} is not fitted", fix="call fit before logits")
        return self._logits(_vectors(embeddings, "embeddings", self.n_features_in_))

    @abstractmethod
    def _fit(self, shots: Shots) -> None:
        """Learn; set the fitted state."""

    @abstractmethod
    def _logits(self, embeddings: Floats) -> Floats:
        """Score images (m, d), shape (m, c)."""


def check_shots(embeddings: NDArray[Any], labels: NDArray[Any], text_embeddings: NDArray[Any]) -> Shots:
    """Check what an expert is given, as `FewShotExpert.fit` describes it; FewShotError names what is wrong."""
    images = _vectors(embeddings, "embeddings", None)
    texts = _vectors(text_embeddings, "text_embeddings", images.shape[1], nan_rows=True)
    given = np.asarray(labels)
    if given.shape != images.shape[:1] or (given.size and given.dtype.kind not in "iu"):
        expected = f"one integer for each of the {len(images)} photos"
        raise FewShotError(
            "labels do not fit the embeddings",
            expected=expected,
            got=f"{given.dtype} {given.shape}",
            fix="give one label per row",
        )
    if not len(texts):
        raise FewShotError(
            "there is no class",
            expected="a row of text_embeddings for each, NaN without a text",
            fix="give one row for each class",
        )
    low, high = given.min(initial=0), given.max(initial=0)
    if low < 0 or high >= len(texts):
        raise FewShotError(
            "a label is not a class",
            expected=f"0 to {len(texts) - 1}",
            got=f"{low} to {high}",
            fix="count classes from 0, and give text_embeddings a row for each",
        )
    shots = Shots(images, given.astype(np.intp), texts)
    if lacking := np.flatnonzero(~shots.support & ~shots.named).tolist():
        raise FewShotError(
            "classes with neither photo nor text",
            expected="at least one of them for every class",
            got=f"none for class index {listing([str(index) for index in lacking])}",
            fix="give each of them a text or an image",
        )
    return shots


def unit(vectors: Floats) -> Floats:
    """Rows at unit norm; a row of zeros, which has no direction, stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))


def _vectors(vectors: NDArray[Any], name: str, dim: int | None, *, nan_rows: bool = False) -> Floats:
    """Check rows of unit norm; with `nan_rows`, a row may be all NaN."""
    given = np.asarray(vectors)
    if given.ndim != 2 or given.dtype.kind != "f" or dim not in (None, given.shape[1]) or not given.shape[1]:
        expected = f"(n, {'d' if dim is None else dim}) floats"
        raise FewShotError(
            f"{name} have a wrong shape or kind",
            expected=expected,
            got=f"{given.dtype} {given.shape}",
            fix="give a float array of this shape",
        )
    exact = given.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1)
    good = np.abs(lengths - 1) < LENGTH_TOLERANCE
    if nan_rows:
        good |= np.isnan(exact).all(axis=1)
    if bad := np.flatnonzero(~good).tolist():
        raise FewShotError(
            f"{name} hold rows that are not unit vectors",
            expected=f"finite rows of length 1{', or all NaN' if nan_rows else ''}",
            got=f"rows {listing([str(row) for row in bad], 5)}, the first of length {lengths[bad[0]]:.4g}",
            fix="divide each row by its length",
        )
    return exact
