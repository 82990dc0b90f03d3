"""Ideas for choosing among unseen classes: each scores images by the names' texts and the labeled images of others.

Every idea is a sum of scores; its weights, none below zero, are found by NLL on the images of held-out classes.
"""

from __future__ import annotations

import numpy as np
from gate_ideas_scenes import Scene, Scenes, choice_figures, unit
from gzsl_peers import Floats, fit_weights, log_softmax

from hybrid.gate.evidence import Scorer

CONSE_CLASSES = 10

# Idea: the scores it adds up. The first one's weight starts at 1, the others' at 0.
IDEAS: dict[str, tuple[str, ...]] = {
    "zero-shot": ("zero-shot",),
    "hubness, lambda .25, 10 highest": ("hubness .25",),
    "hubness, lambda fitted, 10 highest": ("zero-shot", "hubness 10"),
    "hubness, lambda fitted, 50 highest": ("zero-shot", "hubness 50"),
    "hubness, lambda fitted, all photos": ("zero-shot", "hubness all"),
    "Distribution Normalization": ("normalized",),
    "centered cosine": ("centred",),
    "centered, lightly whitened cosine": ("whitened",),
    "centered, fully whitened cosine": ("fully whitened",),
    "class means predicted from texts": ("predicted",),
    "zero-shot + ConSE by the head": ("zero-shot", "conse"),
    "zero-shot + ridge map from head features": ("zero-shot", "ridge map"),
    "zero-shot + relative representation": ("zero-shot", "relative"),
    "product: zero-shot + whitened + predicted": ("zero-shot", "whitened", "predicted"),
    "product + hubness, 10 highest": ("zero-shot", "whitened", "predicted", "hubness 10"),
    "product + ConSE by the head": ("zero-shot", "whitened", "predicted", "conse"),
    "product + ridge map from head features": ("zero-shot", "whitened", "predicted", "ridge map"),
    "product + relative representation": ("zero-shot", "whitened", "predicted", "relative"),
}


def run(scenes: Scenes) -> dict[str, dict[str, float]]:
    """Accuracy and NLL among the unseen classes by idea."""
    episodes = [(_scores(scene), scene.target - scene.seen) for scene in scenes.full_episodes]
    test = scenes.full_test
    found, target = _scores(test.rows(test.is_unseen)), test.target[test.is_unseen] - test.seen
    figures = {}
    for name, keys in IDEAS.items():
        stacks = [np.stack([scores[key] for key in keys]) for scores, _ in episodes]
        weights = fit_weights(stacks, [t for _, t in episodes], [1.0] + [0.0] * (len(keys) - 1))
        logits = np.tensordot(weights, np.stack([found[key] for key in keys]), axes=1)
        figures[name] = choice_figures(log_softmax(logits), target)
    return figures


def _scores(scene: Scene) -> dict[str, Floats]:
    """Every score over the unseen classes."""
    zero_shot = scene.scale * scene.images @ scene.texts.T
    evidence = Scorer(scene.memory, scene.texts, scene.scale)(scene.images, scene.head)
    scores = {
        "zero-shot": zero_shot,
        "hubness .25": zero_shot - 0.25 * hubness(scene, 10),
        "hubness 10": np.broadcast_to(-hubness(scene, 10), zero_shot.shape),
        "hubness 50": np.broadcast_to(-hubness(scene, 50), zero_shot.shape),
        "hubness all": np.broadcast_to(-hubness(scene, len(scene.bank)), zero_shot.shape),
        "normalized": normalized(scene),
        "centred": centered_cosine(scene, 1.0),
        "whitened": evidence.centred,
        "fully whitened": centered_cosine(scene, 0.5),
        "predicted": evidence.predicted,
        "conse": conse(scene),
        "ridge map": ridge_map(scene),
        "relative": relative(scene),
    }
    return {name: np.ascontiguousarray(score[:, scene.seen :]) for name, score in scores.items()}


def hubness(scene: Scene, highest: int) -> Floats:
    """Mean of each text's highest similarities to the bank, in logits, (c,).

    After CSLS (Conneau et al. 2018, Word Translation Without Parallel Data); with all images in the mean, a bias
    against texts that lie near every image, in the spirit of Frolic (Zhu et al. 2024, Enhancing Zero-Shot Vision
    Models by Label-Free Prompt Distribution Learning and Bias Correcting).
    """
    return np.asarray(scene.scale * np.sort(scene.bank @ scene.texts.T, axis=0)[-highest:].mean(axis=0))


def _centers(scene: Scene) -> tuple[Floats, Floats]:
    """Mean image (each class counting the same) and mean text of the seen classes."""
    return scene.memory.means.mean(axis=0), scene.texts[: scene.seen].mean(axis=0)


def normalized(scene: Scene) -> Floats:
    """Cosine after half of each mean is taken away.

    Zhou et al. 2023, Test-Time Distribution Normalization for Contrastively Learned Vision-language Models; means of
    the labeled images and of the seen classes' texts instead of test data.
    """
    image, text = _centers(scene)
    return np.asarray(scene.scale * (scene.images - image / 2) @ (scene.texts - text / 2).T)


def centered_cosine(scene: Scene, unwhitened: float) -> Floats:
    """Texts' directions from their mean, images from theirs, with the images' spread within classes evened out.

    `unwhitened` is the identity's share in the covariance; the product has `hybrid.gate.evidence.UNWHITENED` of it.
    """
    image, text = _centers(scene)
    within = scene.memory.within
    blend = (1 - unwhitened) * within / (np.trace(within) / len(within)) + unwhitened * np.eye(len(within))
    whiten = np.linalg.cholesky(np.linalg.inv(blend))
    directions = unit((scene.texts - text) @ whiten)
    return np.asarray(0.5 * scene.scale * (scene.images - image) @ whiten @ directions.T)


def conse(scene: Scene) -> Floats:
    """Texts near the mean text of the classes that the head thinks of, weighted by its probabilities.

    Norouzi et al. 2014, Zero-Shot Learning by Convex Combination of Semantic Embeddings.
    """
    p = np.exp(scene.head)
    last = max(scene.seen - CONSE_CLASSES, 0)
    p = np.where(p >= np.sort(p, axis=1)[:, last : last + 1], p, 0.0)
    return np.asarray(scene.scale * unit(p @ scene.texts[: scene.seen]) @ scene.texts.T)


def ridge_map(scene: Scene) -> Floats:
    """Ridge regression from an image's features to its class's text; texts near what it gives.

    In the manner of ESZSL (Romera-Paredes & Torr 2015, An embarrassingly simple approach to zero-shot learning). The
    head of this benchmark reads embeddings, so those are the features.
    """
    center, text = scene.bank.mean(axis=0), scene.texts[: scene.seen].mean(axis=0)
    images, wanted = scene.bank - center, scene.texts[scene.labels] - text
    gram = images.T @ images + np.eye(images.shape[1])
    mapped = (scene.images - center) @ np.linalg.solve(gram, images.T @ wanted)
    return np.asarray(scene.scale * mapped @ (scene.texts - text).T)


def relative(scene: Scene) -> Floats:
    """Correlation of an image's and a text's similarities to the seen classes' texts.

    Moschella et al. 2023, Relative representations enable zero-shot latent space communication.
    """
    anchors = scene.texts[: scene.seen].T

    def profile(vectors: Floats) -> Floats:
        similarity = vectors @ anchors
        return unit(similarity - similarity.mean(axis=1, keepdims=True))

    return np.asarray(10 * profile(scene.images) @ profile(scene.texts).T)
