"""`Evidence`: what each source says of a batch of images, before anything weighs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.calibration import log_softmax, logsumexp
from hybrid.gate.gaussians import (
    TEXT_WORTH,
    ClassGaussians,
    Discriminant,
    Floats,
    Indices,
    LabeledEmbeddings,
    TextMap,
    whitened_directions,
    whitening_metric,
)
from hybrid.gate.support import Likelihood, SupportEvidence, SupportImages
from hybrid.gate.transduction import ClassSums

# Log-likelihoods of the class Gaussians are this much longer than the encoder's logits; divides, so that weights are
# of the order of one.
GDA_SCALE = 10.0


@dataclass(frozen=True)
class Evidence:
    """Scores of n images; the first s of c classes are seen.

    Attributes
    ----------
    head : (n, s) float64
        Log-probabilities of the head.
    gda : (n, s) float64
        Log-likelihoods by Gaussian discriminant analysis of the labeled images, over `GDA_SCALE`.
    similarity : (n, c) float64
        Zero-shot logits: cosine of image and text times the encoder's logit scale.
    centered : (n, c) float64
        The same after the mean image and the mean text are taken away and the images' spread is evened out.
    predicted : (n, c) float64
        Log-likelihoods by class means that are predicted from the texts.
    alignment : (n, s) float64
        How well each seen class's text fits its own images, in units of `similarity`; the same for all images that
        the same Gaussians score. For gates of version 0.1.0.
    ood_score : (n,) float64
        Out-of-distribution score with regard to the seen classes' Gaussians, over `GDA_SCALE`.
    baseline : (n,) float64
        Log-likelihood under the seen classes together; see `hybrid.gate.support.Likelihood`.
    located : (n, c) float64
        The same under each class alone, if it lies where its text predicts.
    posterior : (n, s) float64
        The same under each seen class, if its mean starts where its text predicts and moves with every labeled image.
    hubness : (n, c) float64
        How near each text lies to images of seen classes, whatever they show, in units of `similarity`; the same for
        all images that the same Gaussians score.
    support : SupportEvidence or None
        What labeled images say of classes that the head never learned; None without such classes.
    """

    head: Floats
    gda: Floats
    similarity: Floats
    centered: Floats
    predicted: Floats
    alignment: Floats
    ood_score: Floats
    baseline: Floats
    located: Floats
    posterior: Floats
    hubness: Floats
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
        """Log-likelihood of each support class against the seen ones, and against all prompted ones, (2, n, m)."""
        unseen = self.located[:, self.seen : support.prompted]
        every = np.column_stack([self.baseline + np.log(self.seen), unseen])
        together = logsumexp(every) - np.log(support.prompted)
        return np.stack([support.likelihood - rest[:, None] for rest in (self.baseline, together)])

    def __getitem__(self, rows: NDArray[Any] | slice) -> Evidence:
        """Take some of the images."""
        cut = {name: getattr(self, name)[rows] for name in PER_IMAGE}
        return replace(self, **cut, support=None if self.support is None else self.support[rows])

    def with_texts(self, classes: NDArray[Any] | list[int] | slice) -> Evidence:
        """Keep the text scores of some classes only; the seen ones must stay in front."""
        return replace(self, **{name: getattr(self, name)[:, classes] for name in PER_TEXT})

    def without_support(self) -> Evidence:
        """Keep the prompted classes alone, as if there were no support images."""
        if self.support is None:
            return self
        return replace(self.with_texts(slice(self.support.prompted)), support=None)


PER_TEXT = ("similarity", "centered", "predicted", "located", "hubness")
PER_IMAGE = ("head", "gda", *PER_TEXT, "alignment", "ood_score", "baseline", "posterior")


class Scorer:
    """Scores images against texts and class Gaussians: all class-side work is done once, here.

    Parameters
    ----------
    gaussians : ClassGaussians
        Of the s seen classes.
    texts : (c, d)
        Text embeddings of the classes that have a text, unit norm, seen classes first.
    logit_scale : float
        The encoder's.
    support : SupportImages, optional
        Of classes that the head never learned.

    Attributes
    ----------
    likelihood : Likelihood
        Of seen and named classes.
    seen, unseen, added : int
        Classes of the label space; `added` is the number of unseen ones that were not prompted.
    """

    def __init__(
        self, gaussians: ClassGaussians, texts: NDArray[Any], logit_scale: float, support: SupportImages | None = None
    ) -> None:
        self._gaussians = gaussians
        self._support = support
        self._scale = logit_scale
        self._texts = np.asarray(texts, np.float64)
        self.likelihood = Likelihood(gaussians, self._texts)
        self.seen = len(gaussians.means)
        classes = len(texts) + (0 if support is None else int(np.count_nonzero(support.place >= len(texts))))
        self.unseen = classes - self.seen
        self.added = 0 if support is None else classes - support.prompted
        seen = self._texts[: self.seen]
        metric = whitening_metric(gaussians.within)
        self._directions = 0.5 * logit_scale * whitened_directions(self._texts - seen.mean(axis=0), metric)
        self._predicted = Discriminant.of(self.likelihood.predicted - gaussians.center, logit_scale * metric)
        self._alignment = logit_scale * np.einsum("cd,cd->c", seen, gaussians.means)
        self._hubness = logit_scale * gaussians.hubness(self._texts)

    def __call__(
        self, embeddings: NDArray[Any], head_logits: NDArray[Any], baseline: NDArray[Any] | None = None
    ) -> Evidence:
        """Score embeddings (n, d), unit norm, with the head's logits (n, s).

        `baseline`, (n,), is given where it was found with Gaussians that do not hold the images.

        Raises
        ------
        GateError
            If the shapes do not fit.
        """
        expected = (len(embeddings), self.seen)
        if np.shape(head_logits) != expected or np.shape(embeddings)[1:] != self._texts.shape[1:]:
            raise GateError(
                "the head's logits or the embeddings do not fit the gate",
                expected=f"logits {expected} and embeddings of {self._texts.shape[1]} numbers",
                got=f"logits {np.shape(head_logits)} and embeddings {np.shape(embeddings)}",
                fix="fit the gate again: hybrid fit-gate",
            )
        images = np.asarray(embeddings, np.float64)
        centered = images - self._gaussians.center
        each = np.ones((len(images), 1))
        return Evidence(
            head=log_softmax(head_logits),
            gda=self._gaussians.logits(images) / GDA_SCALE,
            similarity=self._scale * images @ self._texts.T,
            centered=centered @ self._directions.T,
            predicted=self._predicted(centered),
            alignment=each * self._alignment,
            ood_score=self._gaussians.ood_score(images) / GDA_SCALE,
            baseline=self.likelihood.baseline(images) if baseline is None else np.asarray(baseline, np.float64),
            located=self.likelihood.located(images),
            posterior=self.likelihood.posterior(images),
            hubness=each * self._hubness,
            support=None if self._support is None else self.likelihood(images, self._support),
        )

    def class_sums(self) -> ClassSums:
        """Sum up what is known of each class of the label space, for answers that are found together."""
        named, seen = len(self._texts), self.seen
        sums, counts = np.zeros((seen + self.unseen, self._texts.shape[1])), np.zeros(seen + self.unseen)
        sums[:named], counts[:named] = TEXT_WORTH * self.likelihood.predicted, TEXT_WORTH
        own = self._gaussians.counts
        sums[:seen] += self._gaussians.means * own[:, None]
        counts[:seen] += own
        if self._support is not None:
            sums[self._support.place] += self._support.sums
            counts[self._support.place] += self._support.counts
        return ClassSums(sums, counts, self.likelihood.precision)


def out_of_fold(
    train: LabeledEmbeddings,
    images: LabeledEmbeddings,
    head_logits: NDArray[Any],
    folds: Indices,
    texts: NDArray[Any],
    logit_scale: float,
    text_map: TextMap,
    support: SupportImages | None = None,
) -> Evidence:
    """Score labeled images by Gaussians that do not hold them: cross-fitting.

    Parameters
    ----------
    train : LabeledEmbeddings
        Images that are in every fold's Gaussians.
    images : LabeledEmbeddings
        The n images to score. Those of the s seen classes join the Gaussians that score the other folds.
    head_logits : (n, s)
    folds : (n,) int
    texts : (c, d)
    text_map : TextMap
    support : SupportImages, optional
    """
    seen = head_logits.shape[1]
    joined: dict[str, Floats] = {}
    own: SupportEvidence | None = None
    for fold in np.unique(folds):
        inside = folds == fold
        known = train + images[~inside & (images.target < seen)]
        gaussians = ClassGaussians.fit(known.embeddings, known.target, seen, text_map)
        part = Scorer(gaussians, texts, logit_scale, support)(images.embeddings[inside], head_logits[inside])
        found = {name: getattr(part, name) for name in PER_IMAGE}
        if part.support is not None:
            own, found["support"] = part.support, part.support.likelihood
        for name, value in found.items():
            whole = joined.setdefault(name, np.empty((len(images), *value.shape[1:])))
            whole[inside] = value
    likelihood = joined.pop("support", None)
    if own is not None and likelihood is not None:
        own = replace(own, likelihood=likelihood)
    return Evidence(**joined, support=own)


def zero_shot_logits(embeddings: NDArray[Any], classes: NDArray[Any], logit_scale: float) -> NDArray[np.float32]:
    """Cosine similarity of images (n, dim) and classes (c, dim), both unit norm, times `logit_scale`."""
    return np.asarray(logit_scale * (embeddings @ classes.T), dtype=np.float32)
