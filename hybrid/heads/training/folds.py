"""Heads of the gate's episodes: trained without some classes, to show what a head says of unseen ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import msgspec
import numpy as np

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.encoders.base import FloatArray
from hybrid.errors import HeadError, first_line
from hybrid.files import write_tensors
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.linear import train_linear_head, without_validation
from hybrid.heads.registry import TrainingJob, answering, head_kind
from hybrid.heads.score import head_logits
from hybrid.heads.training.progress import as_part

# Inverse L2 strength for features of unit norm.
FROZEN_C = 100.0
Say = Callable[[str], None]
FoldLogits = Callable[[tuple[int, ...]], FloatArray]


def without_classes(data: TrainingSet, held: tuple[int, ...]) -> TrainingSet:
    """Leave classes out of both halves; the others keep their order and are renumbered."""
    others = [c for c in range(len(data.classes)) if c not in set(held)]
    number = {c: i for i, c in enumerate(others)}

    def cut(images: LabeledImages) -> LabeledImages:
        part = images.take([row for row, c in enumerate(images.target.tolist()) if c in number])
        return replace(part, target=np.array([number[c] for c in part.target.tolist()], dtype=np.intp))

    return TrainingSet(tuple(data.classes[c] for c in others), cut(data.train), cut(data.val), data.notes)


def frozen_folds(data: TrainingSet, settings: HeadSettings, compute: Compute, cache: Path, say: Say) -> FoldLogits:
    """Linear heads on features that never met the images: the backbone's before fine-tuning, or the embeddings.

    Parameters
    ----------
    cache : Path
        File that keeps the features for the next time.
    """
    features = _frozen_features(data, settings, compute, cache, say)
    if features is not None:
        train, val = np.split(features, [len(data.train)])
        data = replace(data, train=replace(data.train, embeddings=train), val=replace(data.val, embeddings=val))
    # The logits are calibrated afterwards, so that a search for the best strength would buy nothing but time.
    quick = settings.replace(l2_c=settings.l2_c or FROZEN_C, refit=False)

    def logits(held: tuple[int, ...]) -> FloatArray:
        head = train_linear_head(without_classes(data, held), quick, "features of the gate's episodes", say)
        return head.logits([], data.val.embeddings)

    return logits


def tuned_folds(data: TrainingSet, settings: HeadSettings, job: TrainingJob) -> FoldLogits:
    """Heads trained by the whole recipe, once per episode: as slow as so many trainings.

    Parameters
    ----------
    job : TrainingJob
        Each training has its log and checkpoints in ``gate_fold_N/`` of its folders.
    """
    number = count(1)

    def logits(held: tuple[int, ...]) -> FloatArray:
        fold = next(number)
        job.say(f"gate: training head {fold} of its folds, without {len(held)} classes")
        name = f"gate_fold_{fold}"
        checkpoints = None if job.checkpoints is None else job.checkpoints / name
        on_step = as_part(job.on_step, f"gate head {fold}")
        own = replace(job, folder=job.folder / name, checkpoints=checkpoints, on_step=on_step)
        head = head_kind(settings).train(without_classes(data, held), settings, own)
        return head_logits(answering(without_validation(head), settings), data.val)

    return logits


def _frozen_features(
    data: TrainingSet, settings: HeadSettings, compute: Compute, cache: Path, say: Say
) -> FloatArray | None:
    """Features of training and validation images, from the cache where it holds just these; None: the embeddings."""
    kind = head_kind(settings)
    if not kind.reads_pixels:
        return None
    key = _key(data, settings)
    if cache.exists():
        try:
            found, features = read_features(cache)
            if found == key:
                say(f"gate: frozen features from {cache}")
                return features
            say(f"gate: {cache} holds features of other photos or of another backbone; they are not used")
        except HeadError as error:
            say(f"WARNING: {error.what} ({error.got}); they are not used")
    say(f"gate: frozen features of {len(data.train) + len(data.val)} photos, once")
    made = kind.frozen_features((data.train, data.val), settings, compute)
    if made is not None:
        try:
            # Not waited for: what a power cut tears is found out by the digest.
            write_tensors(cache, {"features": made}, {"key": key, "sha256": _sha256(made)}, sync=False)
        except OSError as error:
            say(f"note: frozen features are not kept for the next time: {first_line(error)}")
    return made


def read_features(file: Path) -> tuple[str, FloatArray]:
    """Read frozen features, (n, f) float32, and the key of what they belong to.

    Raises
    ------
    HeadError
        If they are damaged, or of version 0.1.0, which wrote no digest.
    """
    from safetensors import SafetensorError, safe_open

    what, fix = f"the frozen features in {file} are damaged", "remove the file: they are computed again"
    try:
        with safe_open(file, framework="np") as opened:
            metadata, features = opened.metadata() or {}, np.asarray(opened.get_tensor("features"))
    except (OSError, SafetensorError) as error:
        raise HeadError(what, got=first_line(error, 80), fix=fix) from error
    if metadata.get("sha256") != _sha256(features):
        raise HeadError(what, got="another digest" if "sha256" in metadata else "no digest", fix=fix)
    return metadata.get("key", ""), features


def _sha256(features: FloatArray) -> str:
    return hashlib.sha256(features.tobytes()).hexdigest()


def _key(data: TrainingSet, settings: HeadSettings) -> str:
    """Hash of all that the features depend on."""
    from hybrid.heads.training.checkpoint import weights_digest
    from hybrid.images.preprocess import PIXELS

    digest = hashlib.sha256("".join((*data.train.hashes, *data.val.hashes, str(PIXELS))).encode())
    relevant = ("backbone", "pretrained", "backbone_args", "image_size", "mean", "std", "crop_pct", "seed")
    flat = settings.flat()
    digest.update(msgspec.json.encode({name: flat[name] for name in relevant}))
    digest.update(weights_digest(settings.model))
    return digest.hexdigest()
