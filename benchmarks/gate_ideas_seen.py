"""Ideas for choosing among seen classes: zero-shot, the head, and what else the labeled images say.

Every idea is a sum of scores; its weights, none below zero, are found by NLL on the validation images, which memories
without the image in question score. One weak prior serves all ideas, twice as strong as the product's own.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from gate_ideas_scenes import Scene, Scenes, choice_figures, cross_fitted, unit
from gate_ideas_text import hubness
from gzsl_peers import Floats, fit_weights, log_softmax

from hybrid.gate.evidence import MEMORY_SCALE, Scorer

TIP_SHARPNESS = 5.5
KERNEL_SHARPNESS, KERNEL_RIDGE = 12.0, 0.3

# Idea: the scores it adds up, each with the weight it starts at.
START = {"zero-shot": 0.5, "head": 0.5, "alignment": 0.15}
IDEAS: dict[str, tuple[str, ...]] = {
    "zero-shot": ("zero-shot",),
    "head": ("head",),
    "zero-shot + head": ("zero-shot", "head"),
    "zero-shot + head + hubness, 10 highest": ("zero-shot", "head", "hubness"),
    "zero-shot + head + alignment": ("zero-shot", "head", "alignment"),
    "zero-shot + head + memory: Gaussians, Ledoit-Wolf": ("zero-shot", "head", "memory"),
    "zero-shot + head + Gaussians, shrunk as by Wang": ("zero-shot", "head", "wang"),
    "zero-shot + head + Tip-Adapter's cache": ("zero-shot", "head", "tip"),
    "zero-shot + head + prototypes": ("zero-shot", "head", "prototypes"),
    "zero-shot + head + kernel ridge regression": ("zero-shot", "head", "kernel"),
    "product: zero-shot + head + alignment + memory": ("zero-shot", "head", "alignment", "memory"),
    "product + Tip-Adapter's cache": ("zero-shot", "head", "alignment", "memory", "tip"),
    "product + kernel ridge regression": ("zero-shot", "head", "alignment", "memory", "kernel"),
}


def run(scenes: Scenes) -> dict[str, dict[str, float]]:
    """Accuracy and NLL among the seen classes by idea."""
    validation, test = scenes.validation, scenes.full_test
    known = cross_fitted(validation, scores, validation.target)
    # The unseen classes are no candidates here.
    chosen = test.rows(~test.is_unseen)
    found = scores(chosen)
    figures = {}
    for name, keys in IDEAS.items():
        start = [START.get(key, 0.1) for key in keys]
        weights = fit_weights([np.stack([known[key] for key in keys])], [validation.target], start)
        logits = np.tensordot(weights, np.stack([found[key] for key in keys]), axes=1)
        figures[name] = choice_figures(log_softmax(logits), chosen.target)
    return figures


def scores(scene: Scene) -> dict[str, Floats]:
    """Every score over the seen classes, (n, s)."""
    seen = scene.seen
    scorer = Scorer(scene.memory, scene.texts, scene.scale)
    evidence = scorer(scene.images, scene.head)
    alike = partial(np.broadcast_to, shape=evidence.head.shape)
    return {
        "zero-shot": evidence.similarity[:, :seen],
        "head": scene.head,
        "hubness": alike(-hubness(scene, 10)[:seen]),
        "alignment": alike(-evidence.alignment),
        "memory": evidence.memory,
        "wang": wang(scene),
        "tip": tip(scene),
        "prototypes": scene.scale * scene.images @ unit(scene.memory.means).T,
        "kernel": kernel_ridge(scene),
    }


def wang(scene: Scene) -> Floats:
    """Gaussian discriminant analysis with the precision d ((n - 1) C + tr(C) I)^-1, C the covariance within classes.

    Wang et al. 2024, A Hard-to-Beat Baseline for Training-Free CLIP-based Adaptation; every class as likely.
    """
    means = scene.memory.means
    centred = scene.bank - means[scene.labels]
    count, dim = centred.shape
    covariance = centred.T @ centred / (count - 1)
    precision = dim * np.linalg.inv((count - 1) * covariance + np.trace(covariance) * np.eye(dim))
    weight = means @ precision
    return np.asarray((scene.images @ weight.T - 0.5 * np.einsum("cd,cd->c", weight, means)) / MEMORY_SCALE)


def tip(scene: Scene) -> Floats:
    """Sum over a class's images of exp(-5.5 (1 - cosine)).

    Zhang et al. 2022, Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification.
    """
    return np.asarray(np.exp(-TIP_SHARPNESS * (1 - scene.images @ scene.bank.T)) @ _one_hot(scene))


def kernel_ridge(scene: Scene) -> Floats:
    """Kernel ridge regression onto the classes' indicators, Gaussian kernel of the cosine."""

    def kernel(images: Floats) -> Floats:
        return np.asarray(np.exp(-KERNEL_SHARPNESS * (1 - images @ scene.bank.T)))

    target = _one_hot(scene)
    gram = kernel(scene.bank) + KERNEL_RIDGE * np.eye(len(scene.bank))
    return np.asarray(10 * kernel(scene.images) @ np.linalg.solve(gram, target - target.mean(axis=0)))


def _one_hot(scene: Scene) -> Floats:
    return np.eye(scene.seen)[scene.labels]
