"""Heads of the gate's episodes: trained without some of the seen classes, to show what a head says of strangers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.encoders.base import FloatArray
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.linear import train_linear_head
from hybrid.heads.score import head_logits

# Inverse L2 strength for features of unit norm.
FROZEN_C = 100.0
Say = Callable[[str], None]
FoldLogits = Callable[[tuple[int, ...]], FloatArray]


def without_classes(data: TrainingSet, held: tuple[int, ...]) -> TrainingSet:
    """Leave classes out of both halves; the others keep their order and are numbered anew."""
    kept = [c for c in range(len(data.classes)) if c not in set(held)]
    number = {c: i for i, c in enumerate(kept)}

    def cut(images: LabeledImages) -> LabeledImages:
        kept = images.take([row for row, c in enumerate(images.target.tolist()) if c in number])
        return replace(kept, target=np.array([number[c] for c in kept.target.tolist()], dtype=np.intp))

    return TrainingSet(tuple(data.classes[c] for c in kept), cut(data.train), cut(data.val), data.notes)


def frozen_folds(data: TrainingSet, settings: HeadSettings, compute: Compute, cache: Path, say: Say) -> FoldLogits:
    """Linear heads on features that never met the images: the backbone's before fine-tuning, or the embeddings.

    Parameters
    ----------
    cache : Path
        File that keeps the features for the next time.
    """
    if settings.kind == "backbone":
        features = _frozen_features(data, settings, compute, cache, say)
        cut = len(data.train)
        data = replace(
            data,
            train=replace(data.train, embeddings=features[:cut]),
            val=replace(data.val, embeddings=features[cut:]),
        )

    # The logits are calibrated afterwards, so that a search for the best strength would buy nothing but time.
    quick = settings.replace(l2_c=settings.linear.l2_c or FROZEN_C)

    def logits(held: tuple[int, ...]) -> FloatArray:
        head = train_linear_head(without_classes(data, held), quick, "features of the gate's episodes", say)
        return head.logits([], data.val.embeddings)

    return logits


def tuned_folds(
    data: TrainingSet,
    settings: HeadSettings,
    compute: Compute,
    folder: Path,
    say: Say,
    *,
    checkpoints: Path | None = None,
) -> FoldLogits:
    """Heads trained by the whole recipe, once an episode: as slow as so many trainings.

    Parameters
    ----------
    folder : Path
        Where each training writes its log, ``gate_fold_N/``.
    checkpoints : Path, optional
        Where each one keeps its last finished epoch, likewise.
    """
    done: list[int] = []

    def logits(held: tuple[int, ...]) -> FloatArray:
        done.append(1)
        say(f"gate: training head {len(done)} of its folds, without {len(held)} classes")
        part = without_classes(data, held)
        if settings.kind == "linear":
            return train_linear_head(part, settings, "embeddings", say).logits([], data.val.embeddings)
        from hybrid.heads.nets.regions import with_regions
        from hybrid.heads.training.fit import train_backbone_head

        name = f"gate_fold_{len(done)}"
        log, kept = folder / name, checkpoints / name if checkpoints is not None else None
        log.mkdir(parents=True, exist_ok=True)
        head = train_backbone_head(part, settings, compute, log, say, checkpoints=kept)
        return head_logits(with_regions(head, settings.regions.method, settings.regions.count), data.val)

    return logits


def _frozen_features(data: TrainingSet, settings: HeadSettings, compute: Compute, cache: Path, say: Say) -> FloatArray:
    """Features of training and validation images, (n, f) unit norm, from the cache where it holds just these."""
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save_file

    key = _key(data, settings)
    try:
        with safe_open(cache, framework="np") as found:
            if (found.metadata() or {}).get("key") == key:
                say(f"gate: frozen features from {cache}")
                return np.asarray(found.get_tensor("features"), dtype=np.float32)
    except (OSError, SafetensorError):
        pass  # no cache yet, or a torn one: made anew
    say(f"gate: frozen features of {len(data.train) + len(data.val)} photos, once")
    features = _compute_features(data, settings, compute)
    part = cache.with_name(cache.name + ".part")
    save_file({"features": features}, part, metadata={"key": key})
    part.replace(cache)
    return features


def _compute_features(data: TrainingSet, settings: HeadSettings, compute: Compute) -> FloatArray:
    import torch

    from hybrid.heads.nets.backbone import build_model
    from hybrid.heads.nets.backbone_head import BackboneHead

    torch.manual_seed(settings.data.seed)  # a backbone without weights is random, and the cache's key names the seed
    model = build_model(settings.model, len(data.classes))
    model.classifier = torch.nn.Identity()
    columns = tuple(map(str, range(int(model.backbone.head_hidden_size))))
    trunk = BackboneHead(model, columns, settings, compute)  # a head whose answers are the features
    features = np.concatenate([head_logits(trunk, part) for part in (data.train, data.val)])
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), dtype=np.float32)


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
