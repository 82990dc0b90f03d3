"""`Evidence`: what each source says of a batch of photos, before anything weighs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.fusion.calibration import log_softmax
from hybrid.fusion.memory import ClassMemory, Floats, Indices

# How far the whitening goes from the photos' covariance to none at all. A text says little of where exactly the
# photos lie, so that full whitening magnifies directions that it knows nothing of. One value for all data.
UNWHITENED = 0.9
# Strength of the ridge regression from texts to class means, in average squared lengths of a centred text.
RIDGE = 1.0
# Squared lengths in the whitened space are this much longer than the encoder's logits; divides, so that weights are
# of the order of one.
MEMORY_SCALE = 10.0


@dataclass(frozen=True)
class Evidence:
    """Scores of n photos; the first s of c classes are seen.

    Attributes
    ----------
    head : (n, s) float64
        Log-probabilities of the head.
    memory : (n, s) float64
        Log-likelihoods by the labelled photos' Gaussians, over `MEMORY_SCALE`.
    similarity : (n, c) float64
        Zero-shot logits: cosine of photo and text times the encoder's logit scale.
    centred : (n, c) float64
        The same after the mean photo and the mean text are taken away and the photos' spread is evened out.
    predicted : (n, c) float64
        Log-likelihoods by class means that are predicted from the texts.
    alignment : (s,) float64
        How well each seen class's text fits its own photos, in units of `similarity`.
    novelty : (n,) float64
        How little a photo looks like any seen class by the memory, over `MEMORY_SCALE`.
    """

    head: Floats
    memory: Floats
    similarity: Floats
    centred: Floats
    predicted: Floats
    alignment: Floats
    novelty: Floats

    @property
    def seen(self) -> int:
        """Number of seen classes."""
        return int(self.head.shape[1])

    @property
    def classes(self) -> int:
        """Number of classes, seen and unseen."""
        return int(self.similarity.shape[1])

    def __getitem__(self, rows: NDArray[Any] | slice) -> Evidence:
        """Take some of the photos."""
        cut = {name: getattr(self, name)[rows] for name in PER_PHOTO}
        return replace(self, **cut)


PER_PHOTO = ("head", "memory", "similarity", "centred", "predicted", "novelty")


class Scorer:
    """Scores photos against texts and memory: all class-side work is done once, here.

    Parameters
    ----------
    memory : ClassMemory
        Of the s seen classes.
    texts : (c, d)
        Text embeddings of the label space, unit norm, seen classes first.
    logit_scale : float
        The encoder's.
    """

    def __init__(self, memory: ClassMemory, texts: NDArray[Any], logit_scale: float) -> None:
        self._memory = memory
        self._scale = logit_scale
        self._texts = np.asarray(texts, np.float64)
        seen = len(memory.means)
        self._centre = memory.means.mean(axis=0)
        centred = self._texts - self._texts[:seen].mean(axis=0)
        whiten = _whitener(memory.within)
        directions = centred @ whiten
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        # Folding the whitening into the class side leaves one product a photo.
        self._directions = 0.5 * logit_scale * (directions / np.maximum(lengths, 1e-12)) @ whiten.T
        means = _predict_means(centred, memory.means - self._centre) @ whiten
        self._predicted = logit_scale * means @ whiten.T
        self._predicted_bias = -0.5 * logit_scale * (means**2).sum(axis=1)
        self.alignment = logit_scale * np.einsum("cd,cd->c", self._texts[:seen], memory.means)

    def __call__(self, embeddings: NDArray[Any], head_logits: NDArray[Any]) -> Evidence:
        """Score embeddings (n, d), unit norm, with the head's logits (n, s); GateError if the shapes do not fit."""
        expected = (len(embeddings), len(self._memory.means))
        if np.shape(head_logits) != expected or np.shape(embeddings)[1:] != self._texts.shape[1:]:
            raise GateError(
                "the head's logits or the embeddings do not fit the gate",
                expected=f"logits {expected} and embeddings of {self._texts.shape[1]} numbers",
                got=f"logits {np.shape(head_logits)} and embeddings {np.shape(embeddings)}",
            )
        photos = np.asarray(embeddings, np.float64)
        centred = photos - self._centre
        return Evidence(
            head=log_softmax(head_logits),
            memory=self._memory.logits(photos) / MEMORY_SCALE,
            similarity=self._scale * photos @ self._texts.T,
            centred=centred @ self._directions.T,
            predicted=centred @ self._predicted.T + self._predicted_bias,
            alignment=self.alignment,
            novelty=self._memory.novelty(photos) / MEMORY_SCALE,
        )


def _whitener(within: Floats) -> Floats:
    """(d, d) matrix W such that x @ W has an evened-out spread of about the old size."""
    size = np.trace(within) / len(within)
    blend = (1 - UNWHITENED) * within / size + UNWHITENED * np.eye(len(within))
    return np.asarray(np.linalg.cholesky(np.linalg.inv(blend)))


def _predict_means(texts: Floats, means: Floats) -> Floats:
    """Class means (c, d) from centred texts (c, d): kernel ridge regression on the first s, whose means are known."""
    known = texts[: len(means)]
    gram = known @ known.T
    penalty = RIDGE * max(np.trace(gram) / len(gram), 1e-12)
    dual = np.linalg.solve(gram + penalty * np.eye(len(gram)), means)
    return np.asarray(texts @ (known.T @ dual))


def out_of_fold(
    train: tuple[NDArray[Any], Indices],
    photos: tuple[NDArray[Any], Indices],
    head_logits: NDArray[Any],
    folds: Indices,
    texts: NDArray[Any],
    logit_scale: float,
) -> Evidence:
    """Score labelled photos by memories that do not hold them: cross-fitting.

    Parameters
    ----------
    train : (m, d), (m,)
        Embeddings and class indices of photos that are in every memory.
    photos : (n, d), (n,)
        The photos to score. Those of the s seen classes join the memories that score the other folds.
    head_logits : (n, s)
    folds : (n,) int
    texts : (c, d)
    """
    embeddings, labels = photos
    seen = head_logits.shape[1]
    parts: list[Evidence] = []
    rows: list[Indices] = []
    for fold in np.unique(folds):
        inside = folds == fold
        kept = ~inside & (labels < seen)
        memory = ClassMemory.fit(
            np.concatenate([train[0], embeddings[kept]]), np.concatenate([train[1], labels[kept]]), seen
        )
        parts.append(Scorer(memory, texts, logit_scale)(embeddings[inside], head_logits[inside]))
        rows.append(np.flatnonzero(inside))
    back = np.argsort(np.concatenate(rows))
    joined = {name: np.concatenate([getattr(part, name) for part in parts])[back] for name in PER_PHOTO}
    alignment = np.mean([part.alignment for part in parts], axis=0)
    return Evidence(**joined, alignment=alignment)
