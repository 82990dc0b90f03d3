"""`Evidence`: what each source says of a batch of images, before anything weighs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.calibration import log_softmax
from hybrid.gate.gaussians import ClassGaussians, Floats, Indices
from hybrid.gate.means import predict_means
from hybrid.gate.support import Likelihood, SupportEvidence, SupportImages

# How far the whitening goes from the images' covariance to none at all. A text says little of where exactly the
# images lie, so that full whitening magnifies directions that it knows nothing of. One value for all data.
UNWHITENED = 0.9
# Squared lengths in the whitened space are this much longer than the encoder's logits; divides, so that weights are
# of the order of one.
MEMORY_SCALE = 10.0


@dataclass(frozen=True)
class Evidence:
    """Scores of n images; the first s of c classes are seen.

    Attributes
    ----------
    head : (n, s) float64
        Log-probabilities of the head.
    memory : (n, s) float64
        Log-likelihoods by the labeled images' Gaussians, over `MEMORY_SCALE`.
    similarity : (n, c) float64
        Zero-shot logits: cosine of image and text times the encoder's logit scale.
    centered : (n, c) float64
        The same after the mean image and the mean text are taken away and the images' spread is evened out.
    predicted : (n, c) float64
        Log-likelihoods by class means that are predicted from the texts.
    alignment : (s,) float64
        How well each seen class's text fits its own images, in units of `similarity`.
    novelty : (n,) float64
        How little an image looks like any seen class by the memory, over `MEMORY_SCALE`.
    baseline : (n,) float64
        Log-likelihood under the seen classes together; see `hybrid.gate.support.Likelihood`.
    located : (n, c) float64
        The same under each class alone, if it lies where its text predicts.
    shown : ShownEvidence or None
        What labeled images say of classes that the head never learned; None without such classes.
    """

    head: Floats
    memory: Floats
    similarity: Floats
    centred: Floats
    predicted: Floats
    alignment: Floats
    novelty: Floats
    baseline: Floats
    located: Floats
    support: SupportEvidence | None = None

    @property
    def seen(self) -> int:
        """Number of seen classes."""
        return int(self.head.shape[1])

    @property
    def classes(self) -> int:
        """Number of classes that have a text, seen and unseen."""
        return int(self.similarity.shape[1])

    def ratios(self, support: SupportEvidence) -> Floats:
        """Log-likelihood of each shown class against the seen ones, and against all that were asked for, (2, n, m)."""
        from scipy.special import logsumexp

        unseen = self.located[:, self.seen : support.prompted]
        every = np.column_stack([self.baseline + np.log(self.seen), unseen])
        together = logsumexp(every, axis=1) - np.log(support.prompted)
        return np.stack([support.likelihood - rest[:, None] for rest in (self.baseline, together)])

    def __getitem__(self, rows: NDArray[Any] | slice) -> Evidence:
        """Take some of the images."""
        cut = {name: getattr(self, name)[rows] for name in PER_IMAGE}
        return replace(self, **cut, support=None if self.support is None else self.support[rows])

    def with_texts(self, classes: NDArray[Any] | list[int] | slice) -> Evidence:
        """Keep the text scores of some classes only; the seen ones must stay in front."""
        return replace(self, **{name: getattr(self, name)[:, classes] for name in PER_TEXT})


PER_IMAGE = ("head", "memory", "similarity", "centred", "predicted", "novelty", "baseline", "located")
PER_TEXT = ("similarity", "centred", "predicted", "located")


class Scorer:
    """Scores images against texts and memory: all class-side work is done once, here.

    Parameters
    ----------
    memory : ClassMemory
        Of the s seen classes.
    texts : (c, d)
        Text embeddings of the classes that have a text, unit norm, seen classes first.
    logit_scale : float
        The encoder's.
    shown : ShownPhotos, optional
        Of classes that the head never learned.
    """

    def __init__(
        self, memory: ClassGaussians, texts: NDArray[Any], logit_scale: float, support: SupportImages | None = None
    ) -> None:
        self._memory = memory
        self._support = support
        self.likelihood = Likelihood(memory, texts)
        self._scale = logit_scale
        self._texts = np.asarray(texts, np.float64)
        seen = len(memory.means)
        self._center = memory.means.mean(axis=0)
        centred = self._texts - self._texts[:seen].mean(axis=0)
        whiten = _whitener(memory.within)
        directions = centred @ whiten
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        # Folding the whitening into the class side leaves one product an image.
        self._directions = 0.5 * logit_scale * (directions / np.maximum(lengths, 1e-12)) @ whiten.T
        known = np.arange(len(centred)) < seen
        padded = np.zeros_like(centred)
        padded[known] = memory.means - self._center
        means = predict_means(self._texts, padded, known) @ whiten
        self._predicted = logit_scale * means @ whiten.T
        self._predicted_bias = -0.5 * logit_scale * (means**2).sum(axis=1)
        self.alignment = logit_scale * np.einsum("cd,cd->c", self._texts[:seen], memory.means)

    def __call__(
        self, embeddings: NDArray[Any], head_logits: NDArray[Any], baseline: NDArray[Any] | None = None
    ) -> Evidence:
        """Score embeddings (n, d), unit norm, with the head's logits (n, s).

        `baseline`, (n,), is given where it was found with a memory that does not hold the images.

        Raises
        ------
        GateError
            If the shapes do not fit.
        """
        expected = (len(embeddings), len(self._memory.means))
        if np.shape(head_logits) != expected or np.shape(embeddings)[1:] != self._texts.shape[1:]:
            raise GateError(
                "the head's logits or the embeddings do not fit the gate",
                expected=f"logits {expected} and embeddings of {self._texts.shape[1]} numbers",
                got=f"logits {np.shape(head_logits)} and embeddings {np.shape(embeddings)}",
            )
        images = np.asarray(embeddings, np.float64)
        centred = images - self._center
        base = self.likelihood.baseline(images) if baseline is None else np.asarray(baseline, np.float64)
        return Evidence(
            head=log_softmax(head_logits),
            memory=self._memory.logits(images) / MEMORY_SCALE,
            similarity=self._scale * images @ self._texts.T,
            centred=centred @ self._directions.T,
            predicted=centred @ self._predicted.T + self._predicted_bias,
            alignment=self.alignment,
            novelty=self._memory.novelty(images) / MEMORY_SCALE,
            baseline=base,
            located=self.likelihood.located(images),
            support=None if self._support is None else self.likelihood(images, self._support),
        )


def _whitener(within: Floats) -> Floats:
    """(d, d) matrix W such that x @ W has an evened-out spread of about the old size."""
    size = np.trace(within) / len(within)
    blend = (1 - UNWHITENED) * within / size + UNWHITENED * np.eye(len(within))
    return np.asarray(np.linalg.cholesky(np.linalg.inv(blend)))


def out_of_fold(
    train: tuple[NDArray[Any], Indices],
    images: tuple[NDArray[Any], Indices],
    head_logits: NDArray[Any],
    folds: Indices,
    texts: NDArray[Any],
    logit_scale: float,
    support: SupportImages | None = None,
) -> Evidence:
    """Score labeled images by memories that do not hold them: cross-fitting.

    Parameters
    ----------
    train : (m, d), (m,)
        Embeddings and class indices of images that are in every memory.
    images : (n, d), (n,)
        The images to score. Those of the s seen classes join the memories that score the other folds.
    head_logits : (n, s)
    folds : (n,) int
    texts : (c, d)
    shown : ShownPhotos, optional
    """
    embeddings, labels = images
    seen = head_logits.shape[1]
    parts: list[Evidence] = []
    rows: list[Indices] = []
    for fold in np.unique(folds):
        inside = folds == fold
        kept = ~inside & (labels < seen)
        memory = ClassGaussians.fit(
            np.concatenate([train[0], embeddings[kept]]), np.concatenate([train[1], labels[kept]]), seen
        )
        parts.append(Scorer(memory, texts, logit_scale, support)(embeddings[inside], head_logits[inside]))
        rows.append(np.flatnonzero(inside))
    back = np.argsort(np.concatenate(rows))
    joined = {name: np.concatenate([getattr(part, name) for part in parts])[back] for name in PER_IMAGE}
    alignment = np.mean([part.alignment for part in parts], axis=0)
    found = [part.support for part in parts if part.support is not None]
    likelihood = [part.likelihood for part in found]
    says = replace(found[0], likelihood=np.concatenate(likelihood)[back]) if found else None
    return Evidence(**joined, alignment=alignment, support=says)
