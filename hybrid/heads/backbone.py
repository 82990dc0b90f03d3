"""The kind of head that is a fine-tuned timm network; torch is imported when one is trained or loaded."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.encoders.base import FloatArray
from hybrid.heads.base import Head, LabeledImages, TrainingSet
from hybrid.heads.registry import TrainingJob
from hybrid.heads.score import head_logits


class BackboneKind:
    """A fine-tuned timm network, or an ensemble of them; see `hybrid.heads.registry.HeadKind`."""

    reads_pixels = True

    def train(self, data: TrainingSet, settings: HeadSettings, job: TrainingJob) -> Head:
        """Train the recipe; see `hybrid.heads.training.fit.train_backbone_head`."""
        from hybrid.heads.training.fit import train_backbone_head

        job.folder.mkdir(parents=True, exist_ok=True)
        return train_backbone_head(
            data,
            settings,
            job.compute,
            job.folder,
            job.say,
            checkpoints=job.checkpoints,
            on_epoch=job.on_epoch,
            on_step=job.on_step,
        )

    def save(self, head: Head, file: Path) -> None:
        """Write the networks' weights."""
        from hybrid.heads.nets.backbone_head import BackboneHead, save_backbone_head

        save_backbone_head(cast(BackboneHead, head), file)

    def load(
        self, file: Path, classes: tuple[str, ...], settings: HeadSettings, compute: Compute, encoder: str | None
    ) -> Head:
        """Build the recipe's networks and load their trained weights."""
        from hybrid.heads.nets.backbone_head import load_backbone_head

        return load_backbone_head(file, classes, settings, compute)

    def describe(self, settings: HeadSettings) -> str:
        """Name the network, with the number of an ensemble's members."""
        return f"{settings.folds} x {settings.model.backbone}" if settings.folds > 1 else settings.model.backbone

    def frozen_features(
        self, parts: tuple[LabeledImages, ...], settings: HeadSettings, compute: Compute
    ) -> FloatArray | None:
        """Compute the backbone's features before fine-tuning, (n, f) float32, unit norm."""
        import torch

        from hybrid.heads.nets.backbone import build_model
        from hybrid.heads.nets.backbone_head import BackboneHead

        torch.manual_seed(settings.seed)  # a backbone without weights is random
        model = build_model(settings.model, classes=2)
        model.classifier = torch.nn.Identity()
        columns = tuple(map(str, range(int(model.backbone.head_hidden_size))))
        trunk = BackboneHead(model, columns, settings, compute)  # a head whose logits are the features
        features = np.concatenate([head_logits(trunk, part) for part in parts])
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        return np.asarray(features / np.maximum(lengths, 1e-12), dtype=np.float32)
