"""Ideas for the log-odds of "unseen", under the product's own experts for seen and for unseen classes.

Every idea is a weighted sum of features, fitted by logistic regression on the episodes, seen and unseen images weighing
the same unless said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec.structs
import numpy as np
from gate_ideas_scenes import Scene, Scenes, cross_fitted
from gzsl import Split
from gzsl_peers import Floats, Ints
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logsumexp

from hybrid.errors import GateError
from hybrid.evaluation.metrics import score_system
from hybrid.gate.calibration import fit_temperature
from hybrid.gate.episodes import Calibration, calibrate, check_enough, class_folds
from hybrid.gate.evidence import MEMORY_SCALE, Evidence, Scorer
from hybrid.gate.fit import fit_gate, fit_logistic
from hybrid.gate.gate import Gate

FIGURES = ("harmonic_mean", "ausuc", "ece", "gate_auroc", "nll")
NEIGHBORS = 5
PRODUCT = ("unseen_text", "seen_text", "seen", "novelty")
# Where a feature's weight starts and is drawn to; of the others, 0.
START = {"mass": 1.0, "unseen_text": 1.0, "seen_text": -1.0, "unseen_sum": 1.0, "seen_sum": -1.0}
IDEAS: dict[str, tuple[str, ...]] = {
    "mass + head's largest log-probability": ("mass", "sure"),
    "mass + head + 5 nearest neighbors": ("mass", "sure", "knn"),
    "mass + head + absolute Mahalanobis distance": ("mass", "sure", "mahalanobis"),
    "product: text for unseen, text for seen, memory, novelty": PRODUCT,
    "product without novelty": PRODUCT[:-1],
    "product, absolute Mahalanobis distance for novelty": (*PRODUCT[:-1], "mahalanobis"),
    "product, log-sum-exp for log-mean-exp": ("unseen_sum", "seen_sum", "seen_with_memory_sum", "novelty"),
    "product + nearest neighbors": (*PRODUCT, "knn"),
    "product + doubt of heads of the episodes": (*PRODUCT, "doubt"),
}
FOLDS = (3, 10)


@dataclass(frozen=True)
class Fitted:
    """The product's fit and the features of its episodes and of the test images."""

    gate: Gate
    test: Evidence
    found: dict[str, Floats]
    known: dict[str, Floats]
    is_unseen: NDArray[np.bool_]


def run(split: Split, scenes: Scenes) -> dict[str, dict[str, float]]:
    """Figures of the whole answer by idea."""
    check_enough(len(split.seen), len(split.val))
    calibration = _calibrate(split, scenes, scenes.held, scenes.fold_logits)
    fitted = _fit(split, scenes, calibration)

    def score(odds: Floats) -> dict[str, float]:
        return _figures(answer(fitted.gate, fitted.test, odds), odds, scenes.test.target, len(split.seen))

    figures = {name: score(_odds(fitted, keys)) for name, keys in IDEAS.items()}
    for folds in FOLDS:
        other = _calibrate(split, scenes, class_folds(len(split.seen), folds=folds))
        gate = fit_gate(other.validation, other.episodes)
        odds = gate.log_odds(fitted.test)
        log_p = answer(gate, fitted.test, odds)
        figures[f"product, {folds} episodes for 5"] = _figures(log_p, odds, scenes.test.target, len(split.seen))
    natural = _odds(fitted, PRODUCT, equal=False)
    share = fitted.is_unseen.mean()
    figures["product, fitted with every photo weighing the same"] = score(natural)
    figures["the same, moved back to as many unseen as seen"] = score(natural - np.log(share / (1 - share)))
    return figures


def _calibrate(
    split: Split,
    scenes: Scenes,
    held: Sequence[Sequence[int]],
    fold_logits: Sequence[NDArray[np.float32]] | None = None,
) -> Calibration:
    texts = split.texts[: len(split.seen)]
    return calibrate(split.train, split.val, texts, split.logit_scale, scenes.head_logits[0], held, fold_logits)


def _fit(split: Split, scenes: Scenes, calibration: Calibration) -> Fitted:
    validation = calibration.validation
    gate = fit_gate(validation, calibration.episodes)
    # Only the doubt, which the product's own fit leaves out, looks at the temperature.
    gate = msgspec.structs.replace(gate, head_temperature=fit_temperature(validation.evidence.head, validation.target))
    parts = [
        features(gate, labeled.evidence) | cross_fitted(scene, bank_features, validation.target)
        for labeled, scene in zip(calibration.episodes, scenes.episodes, strict=True)
    ]
    evidence = Scorer(calibration.memory, split.texts, split.logit_scale)(split.test.embeddings, scenes.head_logits[1])
    found = features(gate, evidence) | bank_features(scenes.full_test)
    known = {name: np.concatenate([part[name] for part in parts]) for name in found}
    return Fitted(gate, evidence, found, known, np.concatenate([e.is_unseen for e in calibration.episodes]))


def features(gate: Gate, evidence: Evidence) -> dict[str, Floats]:
    """What the gate's log-odds may be made of, (n,) each: the product's own features and variants."""
    own = dict(zip(("unseen_text", "seen_text", "seen", "novelty", "doubt"), gate.features(evidence).T, strict=True))
    seen, unseen = evidence.seen, evidence.classes - evidence.seen
    text = evidence.similarity
    return own | {
        "mass": logsumexp(text[:, seen:], axis=1) - logsumexp(text[:, :seen], axis=1),
        "sure": evidence.head.max(axis=1),
        "unseen_sum": own["unseen_text"] + np.log(unseen),
        "seen_sum": own["seen_text"] + np.log(seen),
        "seen_with_memory_sum": own["seen"] + np.log(seen),
    }


def bank_features(scene: Scene) -> dict[str, Floats]:
    """Distances to the labeled images, (n,) each.

    Half the squared Mahalanobis distance to the nearest class's mean (Lee et al. 2018, A Simple Unified Framework for
    Detecting Out-of-Distribution Samples and Adversarial Attacks); mean cosine of the nearest images (in the manner of
    Sun et al. 2022, Out-of-Distribution Detection with Deep Nearest Neighbors).
    """
    memory = scene.memory
    whiten = np.linalg.cholesky(np.linalg.inv(memory.within))
    images, means = scene.images @ whiten, memory.means @ whiten
    squared = (images**2).sum(axis=1)[:, None] - 2 * images @ means.T + (means**2).sum(axis=1)
    nearest = np.sort(scene.images @ scene.bank.T, axis=1)[:, -NEIGHBORS:]
    return {"mahalanobis": 0.5 * squared.min(axis=1) / MEMORY_SCALE, "knn": scene.scale * nearest.mean(axis=1)}


def _odds(fitted: Fitted, keys: Sequence[str], *, equal: bool = True) -> Floats:
    """Fit the weights on the episodes; log-odds of the test images, (n,)."""
    share = fitted.is_unseen.mean()
    weights = np.where(fitted.is_unseen, 0.5 / share, 0.5 / (1 - share)) if equal else np.ones(len(fitted.is_unseen))
    start = np.array([*(START.get(key, 0.0) for key in keys), 0.0])
    design = np.column_stack([fitted.known[key] for key in keys])
    found = fit_logistic(design, fitted.is_unseen, weights, start, f"the weights of {', '.join(keys)}")
    return np.asarray(np.column_stack([fitted.found[key] for key in keys]) @ found[:-1] + found[-1])


def answer(gate: Gate, evidence: Evidence, odds: Floats) -> Floats:
    """Log-probabilities by the product's experts under given log-odds of "unseen" (n,)."""
    seen = log_softmax(gate.seen_logits(evidence), axis=1) - np.logaddexp(0, odds)[:, None]
    unseen = log_softmax(gate.text_logits(evidence)[:, evidence.seen :], axis=1) - np.logaddexp(0, -odds)[:, None]
    return np.concatenate([seen, unseen], axis=1)


def _figures(log_p: Floats, odds: Floats, target: Ints, seen: int) -> dict[str, float]:
    unseen = np.arange(log_p.shape[1]) >= seen
    scores = score_system(np.exp(log_p), target, unseen, p_unseen=expit(odds), images_per_second=None)
    figures = {name: getattr(scores, name) for name in FIGURES}
    if None in figures.values():
        raise GateError("test photos of seen and of unseen classes are needed", got=str(figures))
    return figures
