"""`Posterior`: class means that start where the text says and move with every image; the toolkit's own expert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybrid.gate.few_shot.base import FewShotExpert, Shots
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

# A class's mean image lies this many times as far from the center of all as its text does, in the same direction,
# before the ridge regression corrects it: what serves where few classes have images.
TEXT_MAP = TextMap(slope=0.3)
# One imaginary image at the usual squared distance from its class mean: identical images would leave no spread.
USUAL_SPREAD = 0.2
# Weights of cosine, centered cosine and discriminant where the images cannot say, and how many images that is worth.
WEIGHTS = (0.6, 0.5, 1.0)
WEIGHTS_IMAGES = 30.0
FOLDS = 5
# Images that fit three weights; more only take longer.
MOST_IMAGES = 4000


class Posterior(FewShotExpert):
    """Gaussian discriminant analysis whose class means are posterior means given text and images.

    Texts predict class means by ridge regression on the classes that have images, each predicted without itself. A
    class's mean is the average of its images and of `TEXT_WORTH` imaginary ones at the predicted mean, so that one
    image is no worse than the text and sixteen outweigh it. All classes share one covariance: Ledoit-Wolf (2004) of
    what is left between each image and its class's mean without it. The answer is a weighted sum of zero-shot logits,
    zero-shot logits after centering and light whitening, and the discriminant. The three weights are fitted by NLL on
    the shots themselves, each scored by a model that holds none of its fold; no other image is needed. With one image
    per class nothing can be held out, and fixed weights serve.

    The discriminant with a shared precision is after Wang et al. (ICLR 2024); the rest is this project's.

    Parameters
    ----------
    logit_scale : float
        The encoder's.

    Attributes
    ----------
    weights_ : (3,) float64
        Of cosine, centered cosine and discriminant.
    """

    def _fit(self, shots: Shots) -> None:
        self.model_ = _Model.fit(shots)
        self.weights_ = _fit_weights(shots, self.logit_scale)

    def _logits(self, embeddings: Floats) -> Floats:
        return np.asarray(np.tensordot(self.weights_, self.model_.scores(embeddings, self.logit_scale), axes=1))


@dataclass(frozen=True)
class _Model:
    """All that is linear in an image: texts and directions (c, d), and the discriminant."""

    texts: Floats
    center: Floats
    directions: Floats
    discriminant: Discriminant

    @classmethod
    def fit(cls, shots: Shots) -> _Model:
        texts = shots.full_texts
        dim = texts.shape[1]
        if not len(shots.labels):
            nothing = np.zeros_like(texts)
            return cls(texts, np.zeros(dim), nothing, Discriminant(nothing, np.zeros(len(texts))))
        center = shots.means[shots.support].mean(axis=0)
        predicted = center + predict_means(texts, shots.means - center, shots.support, TEXT_MAP, without_own=True)
        # A class without a text has nothing that speaks for its mean but its images.
        worth = np.where(shots.named, TEXT_WORTH, 0.0)
        means = posterior_means(predicted, worth, shots.sums, shots.counts)
        within = _within(shots, means, worth)
        directions = whitened_directions(texts - texts[shots.support].mean(axis=0), whitening_metric(within))
        return cls(texts, center, directions, Discriminant.of(means, np.linalg.inv(within) * (DIMENSIONS / dim)))

    def scores(self, embeddings: Floats, logit_scale: float) -> Floats:
        """Cosine, centered cosine and discriminant of images (m, d), shape (3, m, c)."""
        cosine = logit_scale * embeddings @ self.texts.T
        centered = 0.5 * logit_scale * (embeddings - self.center) @ self.directions.T
        return np.stack([cosine, centered, self.discriminant(embeddings)])


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


def _fit_weights(shots: Shots, logit_scale: float) -> Floats:
    """Fit three weights by NLL on shots that are held out in turn, every class giving its share."""
    start = np.array(WEIGHTS)
    rank = _rank_in_class(shots.labels)
    folds = min(FOLDS, int(shots.counts.max(initial=0)))
    if folds < 2:
        return start
    several = (shots.counts > 1)[shots.labels]
    scores, target = [], []
    for fold in range(folds):
        held_out = several & (rank % folds == fold)
        model = _Model.fit(Shots(shots.embeddings[~held_out], shots.labels[~held_out], shots.texts))
        rows = np.flatnonzero(held_out)
        # Evenly spaced: images in the order of their classes would leave the last classes out.
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_IMAGES // folds)).astype(np.intp)]
        scores.append(model.scores(shots.embeddings[rows], logit_scale))
        target.append(shots.labels[rows])
    problem = Choice(np.concatenate(scores, axis=1), np.concatenate(target))
    return fit_choice([problem], start, "the expert's weights", prior_images=WEIGHTS_IMAGES)


def _rank_in_class(labels: Indices) -> Indices:
    """Number the images of each class from 0, in their order, (n,)."""
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), np.intp)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return ranks
