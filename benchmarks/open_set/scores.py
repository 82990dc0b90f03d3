"""Published scores of how well known an image is, published prediction sets, and how either is measured.

Every score is higher for an image that looks better known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logsumexp

from hybrid.gate.gaussians import ClassGaussians

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Sun et al. 2022 take 10 where the bank holds about 13 images a class (1% of ImageNet), which is nearest to few shots.
NEIGHBORS = 10
# Jiang et al. 2024: a negative is as near as the 95% quantile of its similarities, the farthest 15% stay, a hundred
# of them make a group.
NEARNESS, MINED, GROUP = 0.95, 0.15, 100


def maximum_probability(logits: NDArray[Any]) -> Floats:
    """Maximum of softmax(logits), (n,) (Hendrycks & Gimpel 2017, A Baseline for Detecting Misclassified ...)."""
    return np.asarray(np.exp(log_softmax(np.asarray(logits, np.float64), axis=1).max(axis=1)))


def negative_entropy(log_probabilities: Floats) -> Floats:
    """Minus the entropy of each row, in nats, (n,)."""
    return np.asarray((np.exp(log_probabilities) * log_probabilities).sum(axis=1))


def mcm(cosines: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Maximum concept matching, (n,): maximum of softmax(cosine / T), T = 1 (Ming et al. 2022, Delving into OOD ...).

    The cosines are bare, in [-1, 1], without the encoder's logit scale.
    """
    return maximum_probability(np.asarray(cosines, np.float64) / temperature)


def energy(logits: NDArray[Any]) -> Floats:
    """Minus the free energy at T = 1, (n,): logsumexp of the logits (Liu et al. 2020, Energy-based OOD Detection)."""
    return np.asarray(logsumexp(np.asarray(logits, np.float64), axis=1))


def mine_negatives(negatives: NDArray[Any], texts: NDArray[Any], share: float = MINED) -> NDArray[np.intp]:
    """Choose the negative texts (m, d) that are least like the classes' (c, d): NegMining of Jiang et al. 2024.

    Returns
    -------
    (k,) int
        Indices, farthest first; the `share` of all whose `NEARNESS` quantile of similarities is lowest, at least one.
    """
    near = np.quantile(np.asarray(negatives, np.float64) @ np.asarray(texts, np.float64).T, NEARNESS, axis=1)
    return np.argsort(near, kind="stable")[: max(int(share * len(near)), 1)]


def neglabel(logits: NDArray[Any], negative_logits: NDArray[Any], group: int = GROUP) -> Floats:
    """Share of the softmax over classes and negative labels that falls to the classes, mean over groups of negatives.

    Jiang et al. 2024, Negative Label Guided OOD Detection: in groups of about `group` negatives, dealt at random.

    Parameters
    ----------
    logits, negative_logits : (n, c), (n, m)
        Cosine times the logit scale; for CLIP that is the paper's temperature of 0.01.
    """
    count = max(negative_logits.shape[1] // group, 1)
    size = negative_logits.shape[1] // count
    order = np.random.default_rng(0).permutation(negative_logits.shape[1])
    known = energy(logits)
    parts = [expit(known - energy(negative_logits[:, order[i * size : (i + 1) * size]])) for i in range(count)]
    return np.asarray(np.mean(parts, axis=0))


def neighbor_distance(images: NDArray[Any], bank: NDArray[Any], k: int = NEIGHBORS) -> Floats:
    """Minus the Euclidean distance to the k-th nearest of the bank's unit vectors, (n,) (Sun et al. 2022)."""
    similarity = np.asarray(images, np.float64) @ np.asarray(bank, np.float64).T
    at = max(similarity.shape[1] - k, 0)
    nearest = np.partition(similarity, at, axis=1)[:, at]
    return np.asarray(-np.sqrt(np.maximum(2 - 2 * nearest, 0)))


def relative_mahalanobis(images: NDArray[Any], gaussians: ClassGaussians) -> Floats:
    """Minus the least, over classes, of distance to the class minus distance to all images, (n,) (Ren et al. 2021).

    Squared Mahalanobis distances, with the product's Ledoit-Wolf covariances: the paper's empirical ones cannot be
    inverted on few images.
    """
    exact = np.asarray(images, np.float64)
    whiten = np.linalg.cholesky(np.linalg.inv(gaussians.within))
    own, means = exact @ whiten, gaussians.means @ whiten
    squared = (own**2).sum(axis=1)[:, None] - 2 * own @ means.T + (means**2).sum(axis=1)
    return np.asarray(gaussians.background.squared_distance(exact) - squared.min(axis=1))


def auroc(known: Floats, unknown: Floats) -> float:
    """Probability that a known image scores above an unknown one, ties counted half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.arange(len(known) + len(unknown)) < len(known), np.concatenate([known, unknown])))


def fpr95(known: Floats, unknown: Floats) -> float:
    """Share of the unknown images that pass the highest threshold which at least 95% of the known ones pass."""
    kept = math.ceil(0.95 * len(known) - 1e-9)
    return float((unknown >= np.sort(known)[len(known) - kept]).mean())


def lac(probabilities: Floats, uniform: Floats) -> Floats:
    """Score every class by 1 - p, (n, c) (Sadinle et al. 2019, Least Ambiguous Set-Valued Classifiers)."""
    return 1 - probabilities


def aps(probabilities: Floats, uniform: Floats) -> Floats:
    """Score every class by its probability and that of all likelier ones, (n, c) (Romano et al. 2020), not random."""
    return aps_randomised(probabilities, np.ones(len(probabilities)))


def aps_randomised(probabilities: Floats, uniform: Floats) -> Floats:
    """APS with a random share of the class's own probability, so that coverage is met and not just exceeded."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    scores = np.empty_like(probabilities)
    own = uniform[:, None] * ranked
    np.put_along_axis(scores, order, np.cumsum(ranked, axis=1) - ranked + own, axis=1)
    return scores


# Each gives the scores of all classes; a class is in the set if its score is at most a threshold.
SETS: dict[str, Callable[[Floats, Floats], Floats]] = {"lac": lac, "aps": aps, "aps_randomised": aps_randomised}


def measure_sets(sets: Bools, target: NDArray[np.intp], seen: int) -> dict[str, float]:
    """Coverage and size of prediction sets (n, c) of images of seen classes (the first `seen`) and of unseen ones."""
    inside = sets[np.arange(len(target)), target]
    size = sets.sum(axis=1)
    is_seen = target < seen
    return {
        "coverage_seen": float(inside[is_seen].mean()),
        "coverage_unseen": float(inside[~is_seen].mean()),
        "coverage": float(inside.mean()),
        "size_seen": float(size[is_seen].mean()),
        "size_unseen": float(size[~is_seen].mean()),
        "size": float(size.mean()),
        "singletons": float((size == 1).mean()),
        "empty": float((size == 0).mean()),
    }
