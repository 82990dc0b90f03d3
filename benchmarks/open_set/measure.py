"""The product fitted on one split, and what is measured of it: known against unknown images, promises, sets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kit.output import Rows
from benchmarks.kit.product import calibrated, train_probe
from benchmarks.kit.vectors import Split
from benchmarks.open_set import scores as oss
from benchmarks.open_set.name_vectors import Names
from hybrid.gate.conformal import set_threshold
from hybrid.gate.decide import Decided, Decider, FittedGate
from hybrid.gate.episodes import check_enough
from hybrid.gate.evidence import Scorer
from hybrid.gate.fit import fit_gate
from hybrid.gate.gate import Gate
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet, Policy, uniform_from_hash
from hybrid.gate.rejection import Rejector, fit_rejector
from hybrid.heads.linear import LinearHead, without_validation

COVERAGES = (0.9, 0.95)
PROMISES = {"reject 0.95": Policy(reject=0.95), "max_false_accept 0.1": Policy(max_false_accept=0.1)}
Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Fitted:
    """One seed's label space and all that was learnt for it, as `hybrid train-head` would."""

    split: Split
    head: LinearHead
    gate: Gate
    gaussians: ClassGaussians
    rejector: Rejector
    calibration_set: CalibrationSet

    def decider(self, policy: Policy) -> Decider:
        """Give the product at an operating point."""
        fitted = FittedGate(self.gate, self.gaussians, self.rejector, self.calibration_set)
        return Decider(fitted, self.split.texts, self.split.logit_scale, policy)

    def ask(self, decider: Decider, images: NDArray[np.float32]) -> Decided:
        """Ask the product."""
        return decider(images, self.head.logits([], images), uniforms(images))


def uniforms(images: NDArray[Any]) -> NDArray[np.float64]:
    """Number in [0, 1) from each vector's bytes; `hybrid` takes the image's, which are not in the file."""
    return np.array([uniform_from_hash(hashlib.sha256(row.tobytes()).hexdigest()) for row in images])


def fit(split: Split) -> Fitted:
    """Train the head and fit gate and rejector, the calls of `hybrid.run.gate.fit_run_gate`."""
    check_enough(len(split.seen), len(split.val))
    head = train_probe(split)
    found = calibrated(split, head)
    gate = fit_gate(found.validation, found.episodes)
    evidence = found.validation.evidence
    kept = CalibrationSet(
        split.val.embeddings,
        without_validation(head).logits([], split.val.embeddings),
        evidence.gda,
        evidence.ood_score,
        split.val.target,
        uniforms(split.val.embeddings),
        evidence.baseline,
        evidence.posterior,
    )
    return Fitted(split, head, gate, found.gaussians, fit_rejector(gate, found.episodes), kept)


def score(fitted: Fitted, images: NDArray[np.float32], negatives: Names | None) -> dict[str, NDArray[np.float64]]:
    """Every score of every image."""
    split = fitted.split
    head = fitted.head.logits([], images)
    cosines = images.astype(np.float64) @ split.texts.astype(np.float64).T
    zero_shot = split.logit_scale * cosines
    evidence = Scorer(fitted.gaussians, split.texts, split.logit_scale)(images, head)
    log_p = fitted.gate.fuse(evidence).log_probabilities
    bank = np.concatenate([split.train.embeddings, split.val.embeddings])
    scores = {
        "head_maximum": oss.maximum_probability(head),
        "zero_shot_maximum": oss.maximum_probability(zero_shot),
        "hybrid_maximum": np.exp(log_p).max(axis=1),
        "hybrid_entropy": oss.negative_entropy(log_p),
        "mcm": oss.mcm(cosines),
        "energy_zero_shot": oss.energy(zero_shot),
        "energy_head": oss.energy(head),
        "knn": oss.neighbor_distance(images, bank),
        "relative_mahalanobis": oss.relative_mahalanobis(images, fitted.gaussians),
    }
    if negatives is not None:
        others = split.logit_scale * images.astype(np.float64) @ negatives.vectors.astype(np.float64).T
        scores["neglabel"] = oss.neglabel(zero_shot, others)
        scores["neglabel_mined"] = oss.neglabel(
            zero_shot, others[:, oss.mine_negatives(negatives.vectors, split.texts)]
        )
    return scores | {"rejector": fitted.rejector.p_known(fitted.gate, evidence)}


def detection(fitted: Fitted, unknown: NDArray[np.float32], negatives: Names | None) -> Figures:
    """AUROC and FPR95 of every score, known images against unknown ones."""
    known, foreign = (score(fitted, x, negatives) for x in (fitted.split.test.embeddings, unknown))
    is_seen = fitted.split.test.target < len(fitted.split.seen)
    return {
        name: {
            "auroc": oss.auroc(known[name], foreign[name]),
            "fpr95": oss.fpr95(known[name], foreign[name]),
            "auroc_seen": oss.auroc(known[name][is_seen], foreign[name]),
            "auroc_unseen": oss.auroc(known[name][~is_seen], foreign[name]),
        }
        for name in known
    }


def promises(fitted: Fitted, unknown: NDArray[np.float32]) -> Rows:
    """Share of the images that are accepted, at the two thresholds that a user may ask for."""
    is_seen = fitted.split.test.target < len(fitted.split.seen)
    rows: dict[str, dict[str, float | None]] = {}
    for name, policy in PROMISES.items():
        decider = fitted.decider(policy)
        accept = decider.point.accept_above
        known, foreign = (fitted.ask(decider, x).p_known for x in (fitted.split.test.embeddings, unknown))
        if accept is None or known is None or foreign is None:
            raise AssertionError(f"{policy} gave no threshold")
        passes = known >= accept
        asked = policy.max_false_accept is not None
        low, high = (fitted.rejector.interval_at(accept) if asked else None) or (None, None)
        rows[name] = {
            "kept_seen": float(passes[is_seen].mean()),
            "kept_unseen": float(passes[~is_seen].mean()),
            "unknown_accepted": float((foreign >= accept).mean()),
            "threshold": accept,
            "expected_from": low,
            "expected_to": high,
        }
    return rows


def prediction_sets(fitted: Fitted) -> dict[str, Figures]:
    """Measured coverage and size by coverage asked for and by method, all calibrated on the same images."""
    split, held = fitted.split, fitted.calibration_set
    test, target = split.test.embeddings, split.test.target
    scorer = Scorer(fitted.gaussians, split.texts, split.logit_scale)
    val_p = np.exp(fitted.gate.fuse(held.evidence(scorer)).log_probabilities)
    test_p = np.exp(fitted.gate.fuse(scorer(test, fitted.head.logits([], test))).log_probabilities)
    val_u, test_u = np.asarray(held.uniform, np.float64), uniforms(test)
    found = {}
    for coverage in COVERAGES:
        own = fitted.ask(fitted.decider(Policy(coverage=coverage)), test).sets
        if own is None:
            raise AssertionError("no sets in spite of a coverage")
        rows = {"hybrid": oss.measure_sets(own, target, len(split.seen))}
        for name, method in oss.SETS.items():
            threshold = set_threshold(method(val_p, val_u), held.target, coverage)
            sets = method(test_p, test_u) <= threshold
            rows[name] = oss.measure_sets(sets, target, len(split.seen))
            sets[np.arange(len(sets)), test_p.argmax(axis=1)] = True
            rows[f"{name}_and_likeliest"] = oss.measure_sets(sets, target, len(split.seen))
        found[f"{coverage:g}"] = rows
    return found
