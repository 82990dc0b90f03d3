"""`Posterior`: class means that start where the text says and move with every image; the toolkit's own expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.gate.calibration import log_softmax
from hybrid.gate.few_shot.base import FewShotExpert, Shots, unit
from hybrid.gate.few_shot.probe import Probe
from hybrid.gate.fit import Choice, fit_choice
from hybrid.gate.gaussians import (
    DIMENSIONS,
    TEXT_WORTH,
    Discriminant,
    Floats,
    Indices,
    TextMap,
    ledoit_wolf,
    posterior_means,
    predict_means,
    shrink_to_identity,
    whitened_directions,
    whitening_metric,
)

# Where too few classes have images to choose the map from texts to class means: it corrects so much of the text.
FEW_CLASSES = 6
FEW_MAP = TextMap(slope=0.3)
# One imaginary image at the usual squared distance from its class mean: identical images would leave no spread.
USUAL_SPREAD = 0.2
# How far a text's mean may be off, as a share of its images' squared distance from it, where no class has two images;
# how many images that guess is worth where some have; and between what bounds a text is worth so many images.
GUESSED_ERROR = (0.15, 0.5)
GUESS_IMAGES = 5.0
WORTH = (0.5, 3.0)
# Text logits of half the encoder's scale spread the images over the classes about as well as they know; so many
# passes, and imaginary images of each class on both sides, find the classes' biases.
BIAS_SCALE = 0.5
BIAS_PASSES = 20
BIAS_IMAGES = 1.0
# More images make the biases no better.
MOST_BIAS_IMAGES = 2000
# Weights of cosine, centered cosine, discriminant and bias where the images cannot say, and how many images that is
# worth.
WEIGHTS = (0.9, 0.15, 0.6, 1.0)
WEIGHTS_IMAGES = 30.0
FOLDS = 5
# The part of each answer that a probe on the images alone divides: of an expert that cannot hold anything out; and at
# most, where the nearest class mean makes hardly more errors on held-out images than the expert. So many times as many
# errors: from the first number down all of it, from the second up none. Two errors against three count beforehand.
BLIND_SHARE = 0.05
SHARE = 0.25
AS_GOOD, WORSE = 1.3, 1.5
ERRORS_BEFORE = (2.0, 3.0)
# Images that fit the weights; more only take longer.
MOST_IMAGES = 4000


class Posterior(FewShotExpert):
    """Gaussian discriminant analysis whose class means are posterior means given text and images.

    Texts predict class means by ridge regression on the classes that have images, each predicted without itself; how
    strongly is chosen by the error of that prediction. A class's mean is the average of its images and of imaginary
    ones at the predicted mean. How many a text is worth is measured: the variance of images of a class over that of
    the prediction. With one image per class nothing tells the two apart, and texts are taken to explain half of what
    lies between classes. All classes share one covariance: Ledoit-Wolf (2004) of what is left between each image and
    its class's mean without it, and as much more as the means themselves are uncertain.

    A text that is near to images of whatever class wins too often (hubness). Each class therefore gets a bias with
    which the text logits give it as many of the images as it has.

    The answer is a weighted sum of zero-shot logits, zero-shot logits after centering and light whitening, the
    discriminant and the bias. The weights are fitted by NLL on the shots themselves, each scored by a model that holds
    none of its fold; no other image is needed. With one image per class nothing can be held out, and fixed weights
    serve.

    Where names say little beside the images, no Gaussian is quite right either. There, a probe on the images alone
    divides a part of the answer: where the mean of its images tells a held-out image's class about as often.

    The discriminant with a shared precision is after Wang et al. (ICLR 2024); the rest is this project's.

    Parameters
    ----------
    logit_scale : float
        The encoder's.
    weights : sequence of float, optional
        Those of an expert that was fitted to the same images before; default: they are fitted.

    Attributes
    ----------
    weights_ : (5,) float64
        Of cosine, centered cosine, discriminant and bias; last the share of the answer that the probe divides.
    """

    def __init__(self, logit_scale: float, weights: Sequence[float] | None = None) -> None:
        super().__init__(logit_scale)
        self.weights = weights

    def _fit(self, shots: Shots) -> None:
        text_map = _text_map(shots)
        self.model_ = _Model.fit(shots, self.logit_scale, text_map)
        if self.weights is None:
            self.weights_ = _fit_weights(shots, self.logit_scale, text_map)
        else:
            # Older versions wrote no share.
            self.weights_ = np.array([*self.weights, 0.0][: len(WEIGHTS) + 1])
        self.probe_ = Probe.fit(shots) if self.weights_[-1] else None

    def _logits(self, embeddings: Floats) -> Floats:
        *weights, share = self.weights_
        logits = np.asarray(np.tensordot(weights, self.model_.scores(embeddings), axes=1))
        return logits if self.probe_ is None else self.probe_.divide(log_softmax(logits), embeddings, share)


@dataclass(frozen=True)
class _Model:
    """All that is linear in an image: texts (times the logit scale), directions, discriminant, bias of c classes."""

    texts: Floats
    center: Floats
    directions: Floats
    discriminant: Discriminant
    bias: Floats

    @classmethod
    def fit(cls, shots: Shots, logit_scale: float, text_map: TextMap) -> _Model:
        texts = shots.full_texts
        scaled = logit_scale * texts
        classes, dim = texts.shape
        if not len(shots.labels):
            nothing, zeros = np.zeros_like(texts), np.zeros(classes)
            return cls(scaled, np.zeros(dim), nothing, Discriminant(nothing, zeros), zeros)
        center = shots.means[shots.support].mean(axis=0)
        predicted = center + predict_means(texts, shots.means - center, shots.support, text_map, without_own=True)
        # A class without a text has nothing that speaks for its mean but its images.
        worth = np.where(shots.named, _worth(shots, predicted, center), 0.0)
        means = posterior_means(predicted, worth, shots.sums, shots.counts)
        within = _within(shots, means, worth)
        directions = whitened_directions(texts - texts[shots.support].mean(axis=0), whitening_metric(within))
        # A new image lies around a mean that is itself off by a covariance over so many images.
        unsure = 1 + 1 / np.mean(worth + shots.counts)
        precision = np.linalg.inv(within) * (DIMENSIONS / dim / unsure)
        rows = _evenly(np.arange(len(shots.labels)), MOST_BIAS_IMAGES)
        bias = class_bias(
            BIAS_SCALE * shots.embeddings[rows] @ scaled.T, np.bincount(shots.labels[rows], minlength=classes)
        )
        return cls(scaled, center, 0.5 * logit_scale * directions, Discriminant.of(means, precision), bias)

    def scores(self, embeddings: Floats) -> Floats:
        """Cosine, centered cosine, discriminant and bias of images (m, d), shape (4, m, c)."""
        cosine = embeddings @ self.texts.T
        centered = (embeddings - self.center) @ self.directions.T
        return np.stack([cosine, centered, self.discriminant(embeddings), np.broadcast_to(self.bias, cosine.shape)])


def _text_map(shots: Shots) -> TextMap:
    """How texts predict class means: chosen on the classes that have both."""
    both = shots.support & shots.named
    if np.count_nonzero(both) < FEW_CLASSES:
        return FEW_MAP
    return TextMap.fit(shots.texts[both], shots.means[both], np.eye(shots.texts.shape[1]))


def _worth(shots: Shots, predicted: Floats, center: Floats) -> float:
    """How many images of a class its text is worth: variance of the images over that of the `predicted` means."""
    both = shots.support & shots.named
    rows = both[shots.labels]
    images, labels, classes = shots.embeddings[rows], shots.labels[rows], int(np.count_nonzero(both))
    if classes < 2:
        return TEXT_WORTH
    from_text = np.mean(np.sum((images - predicted[labels]) ** 2, axis=1))
    from_center = np.mean(np.sum((images - center) ** 2, axis=1)) * classes / (classes - 1)
    # What the text explains of an image's distance from the center is half of what lies between the classes.
    low, high = GUESSED_ERROR
    guess = from_text - np.clip(from_center - from_text, low * from_text, high * from_text)
    around_mean = np.sum((images - shots.means[labels]) ** 2)
    variance = (around_mean + GUESS_IMAGES * guess) / (len(images) - classes + GUESS_IMAGES)
    return float(np.clip(variance / max(from_text - variance, 1e-12), *WORTH))


def class_bias(logits: Floats, counts: Indices) -> Floats:
    """Bias of each class with which softmax of `logits` gives it as many of the images as it has.

    Parameters
    ----------
    logits : (n, c) float64
    counts : (c,) int
        Images of each class among the n. Classes without images share alike what they get.

    Returns
    -------
    (c,) float64
        With mean 0.
    """
    wanted, empty = counts.astype(np.float64), counts == 0
    bias = np.zeros(len(counts))
    for _ in range(BIAS_PASSES):
        given = np.exp(log_softmax(logits + bias)).sum(axis=0)
        if empty.any():
            wanted[empty] = given[empty].mean()
        bias += 0.7 * np.log((wanted + BIAS_IMAGES) / (given + BIAS_IMAGES))
    return np.asarray(bias - bias.mean())


def _within(shots: Shots, means: Floats, worth: Floats) -> Floats:
    """Covariance of images around the mean of their class, (d, d)."""
    total = (worth + shots.counts)[shots.labels]
    several = total > 1
    labels, total = shots.labels[several], total[several]
    # Each image against its class's mean without it, from which it lies total / (total - 1) as far; such a mean of k
    # images is off by 1 / k of the covariance.
    left = shots.embeddings[several]
    left -= means[labels]
    left *= np.sqrt(total / (total - 1))[:, None]
    dim = means.shape[1]
    # One image has a size and no shape; without any, 0 of them are weighed.
    covariance = ledoit_wolf(left) if len(left) > 1 else np.sum(left**2) / dim * np.eye(dim)
    blend = len(left) * shrink_to_identity(covariance) + USUAL_SPREAD / dim * np.eye(dim)
    return np.asarray(blend / (len(left) + 1))


def _fit_weights(shots: Shots, logit_scale: float, text_map: TextMap) -> Floats:
    """Fit the weights by NLL on shots that are held out in turn, every class giving its share; see `weights_`."""
    start = np.array(WEIGHTS)
    rank = _rank_in_class(shots.labels)
    folds = min(FOLDS, int(shots.counts.max(initial=0)))
    if folds < 2:
        return np.array([*start, BLIND_SHARE])
    several = (shots.counts > 1)[shots.labels]
    scores, target, by_mean = [], [], []
    for fold in range(folds):
        held_out = several & (rank % folds == fold)
        kept = Shots(shots.embeddings[~held_out], shots.labels[~held_out], shots.texts)
        rows = _evenly(np.flatnonzero(held_out), MOST_IMAGES // folds)
        scores.append(_Model.fit(kept, logit_scale, text_map).scores(shots.embeddings[rows]))
        target.append(shots.labels[rows])
        by_mean.append((shots.embeddings[rows] @ unit(kept.full_means).T).argmax(axis=1))
    problem = Choice(np.concatenate(scores, axis=1), np.concatenate(target))
    weights = fit_choice([problem], start, "the expert's weights", prior_images=WEIGHTS_IMAGES)
    answer = np.tensordot(weights, problem.parts, axes=1).argmax(axis=1)
    return np.array([*weights, _share(answer != problem.target, np.concatenate(by_mean) != problem.target)])


def _share(wrong: NDArray[np.bool_], wrong_by_mean: NDArray[np.bool_]) -> float:
    """Share of the answer that the probe divides, by the errors on held-out images, (n,) each."""
    own, by_mean = (
        before + np.count_nonzero(w) for before, w in zip(ERRORS_BEFORE, (wrong, wrong_by_mean), strict=True)
    )
    return float(SHARE * np.clip((WORSE - by_mean / own) / (WORSE - AS_GOOD), 0, 1))


def _evenly(rows: Indices, most: int) -> Indices:
    """At most so many rows, evenly spaced: images in the order of their classes would leave the last classes out."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.intp)]


def _rank_in_class(labels: Indices) -> Indices:
    """Number the images of each class from 0, in their order, (n,)."""
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), np.intp)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return ranks
