"""`fit_run_gate`: gather what the store and the head say of the validation images, and fit a run's gate on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.errors import GateError, listing
from hybrid.gate.calibration import fit_temperature
from hybrid.gate.context import as_numbers
from hybrid.gate.decide import FittedGate
from hybrid.gate.episodes import calibrate, check_enough, class_folds
from hybrid.gate.evidence import Evidence, Scorer
from hybrid.gate.gaussians import ClassGaussians, Indices, LabeledEmbeddings
from hybrid.gate.policy import CalibrationSet, uniform_from_hash
from hybrid.gate.registry import gate_class
from hybrid.gate.rejection import fit_rejector
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.training.folds import FoldLogits
from hybrid.images.records import ImageRecord
from hybrid.run.context import key_of


def fit_run_gate(
    data: TrainingSet,
    head_logits: FloatArray,
    texts: FloatArray,
    logit_scale: float,
    *,
    folds: str = "memory",
    fold_logits: FoldLogits | None = None,
    seed: int = 0,
    negative_logits: FloatArray | None = None,
    balanced: bool = True,
) -> FittedGate:
    """Fit gate and rejector on the validation images.

    Parameters
    ----------
    data : TrainingSet
    head_logits : (n, s) float32
        The head's, of the validation images.
    texts : (s, d) float32
        Text embeddings of the seen classes.
    folds, fold_logits
        See `hybrid.heads.training.folds`: where the episodes' head logits come from, and what gives them.
    negative_logits : (m, s) float32, optional
        The head's, of the images of none of the classes (`TrainingSet.negatives`).
    balanced : bool
        See `FittedGate`.

    Returns
    -------
    FittedGate
        Too few classes or images are no error: the documented prior serves then, and `reason` says what is missing.

    Raises
    ------
    GateError
        If a validation image trained the head, or the fit does not converge.
    """
    _refuse_leak(data)
    train, val = (LabeledEmbeddings(part.embeddings, part.target) for part in (data.train, data.val))
    try:
        check_enough(len(data.classes), len(data.val))
    except GateError as error:
        return _not_fitted(train + val, len(data.classes), error)
    held_out = class_folds(len(data.classes), seed)
    sequence = _sequences(data.val.records)
    own_logits = _episode_logits(data, head_logits, held_out, fold_logits) if fold_logits else None
    calibration = calibrate(train, val, texts, logit_scale, head_logits, held_out, own_logits, seed, sequence)
    gate, reason = gate_class().fitted(calibration, folds)
    outside = None
    if negative_logits is not None and data.negatives is not None:
        outside = Scorer(calibration.gaussians, texts, logit_scale)(data.negatives.embeddings, negative_logits)
    rejector = fit_rejector(gate, calibration.episodes, calibration.validation.evidence, outside)
    kept = _calibration_set(data.val, head_logits, calibration.validation.evidence)
    return FittedGate(gate, calibration.gaussians, rejector, kept, reason, balanced)


def _sequences(records: Sequence[ImageRecord]) -> Indices | None:
    """Which images belong together, (n,); None where nothing says so."""
    keys = [key_of(record) for record in records]
    return as_numbers(keys) if any(keys) else None


def _not_fitted(images: LabeledEmbeddings, classes: int, error: GateError) -> FittedGate:
    """The documented prior, where there is too little to fit."""
    gaussians = ClassGaussians.fit(images.embeddings, images.target, classes)
    reason = f"{error.what}: {error.got}; needed: {error.expected}"
    return FittedGate(gate_class()(), gaussians, reason=reason)


def _episode_logits(
    data: TrainingSet, head_logits: FloatArray, held_out: Sequence[tuple[int, ...]], fold_logits: FoldLogits
) -> list[FloatArray]:
    """Logits of the episodes' heads on the confidence scale of the run's head: each head has its own."""
    own = fit_temperature(head_logits, data.val.target)
    scaled = []
    for held in held_out:
        seen = np.setdiff1d(np.arange(len(data.classes)), held)
        rows = np.isin(data.val.target, seen)
        logits = fold_logits(held)
        temperature = fit_temperature(logits[rows], np.searchsorted(seen, data.val.target[rows]))
        scaled.append(np.asarray(logits * (own / temperature), dtype=np.float32))
    return scaled


def _refuse_leak(data: TrainingSet) -> None:
    both = set(data.train.hashes) & set(data.val.hashes)
    if both:
        paths = [r.path for r, sha256 in zip(data.val.records, data.val.hashes, strict=True) if sha256 in both]
        raise GateError(
            f"{len(both)} validation photos trained the head, so the gate must not be fitted on them",
            got=listing(paths, 4),
            fix="take them out of one of the two sets",
        )


def _calibration_set(images: LabeledImages, head_logits: FloatArray, evidence: Evidence) -> CalibrationSet:
    return CalibrationSet(
        embeddings=images.embeddings,
        head_logits=head_logits,
        gda=evidence.gda,
        ood_score=evidence.ood_score,
        baseline=evidence.baseline,
        target=images.target,
        uniform=np.array([uniform_from_hash(sha256) for sha256 in images.hashes]),
        posterior=evidence.posterior,
    )
