"""A timm backbone with a small classifier: build, freeze, load weights, preprocess."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hybrid.config import HeadSettings
from hybrid.errors import HeadError, listing

Transform = Callable[[Any], torch.Tensor]


class PhotoClassifier(nn.Module):
    """Backbone, pooled features, classifier.

    Parameters
    ----------
    backbone : nn.Module
        A timm model with ``num_classes=0``: (n, 3, h, w) to (n, features).
    classifier : nn.Module
        (n, features) to (n, n_classes) logits.
    freeze_norms : bool
        Keep the backbone's batch norms in eval mode while training.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, freeze_norms: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self._freeze_norms = freeze_norms

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) to logits (n, n_classes)."""
        logits: torch.Tensor = self.classifier(self.backbone(images))
        return logits

    def train(self, mode: bool = True) -> PhotoClassifier:
        """Switch modes; batch norms of the backbone stay in eval mode if they are frozen."""
        super().train(mode)
        if mode and self._freeze_norms:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def build_classifier(features: int, classes: int, hidden: int, dropout: Sequence[float]) -> nn.Sequential:
    """Dropout-Linear-BatchNorm-ReLU-Dropout-Linear, or Dropout-Linear where `hidden` is 0."""
    if hidden == 0:
        return nn.Sequential(nn.Dropout(dropout[0]), nn.Linear(features, classes))
    return nn.Sequential(
        nn.Dropout(dropout[0]),
        nn.Linear(features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout[1]),
        nn.Linear(hidden, classes),
    )


def build_model(settings: HeadSettings, classes: int, *, load_weights: bool = True) -> PhotoClassifier:
    """Make the network of a recipe.

    Parameters
    ----------
    load_weights : bool
        False where a saved head's own weights follow.

    Raises
    ------
    HeadError
        If timm does not know the backbone, or its weights cannot be had or do not fit.
    """
    import timm

    from_timm = load_weights and settings.pretrained and settings.backbone_weights is None
    try:
        backbone = timm.create_model(settings.backbone, pretrained=from_timm, num_classes=0, **settings.backbone_args)
    except Exception as error:  # timm raises RuntimeError, hub and http errors, TypeError for wrong arguments
        raise _backbone_error(settings, from_timm, error) from error
    if load_weights and settings.backbone_weights is not None:
        _load_backbone(backbone, Path(settings.backbone_weights).expanduser())
    # Weights trained from nothing need their batch norms to learn.
    freeze_norms = settings.freeze_norms and (settings.pretrained or settings.backbone_weights is not None)
    classifier = build_classifier(int(backbone.head_hidden_size), classes, settings.hidden, settings.dropout)
    return PhotoClassifier(backbone, classifier, freeze_norms)


def weights_note(settings: HeadSettings) -> str:
    """Say where the backbone's first weights came from."""
    if settings.backbone_weights is not None:
        return f"backbone {settings.backbone}, weights from {settings.backbone_weights}"
    if settings.pretrained:
        return f"backbone {settings.backbone}, timm's pretrained weights"
    return f"backbone {settings.backbone}, random weights (--no-pretrained)"


def _backbone_error(settings: HeadSettings, from_timm: bool, error: Exception) -> HeadError:
    import timm

    name = settings.backbone.split(".")[0]
    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")
        return HeadError(f"timm knows no model {settings.backbone}", got=f"near it: {listing(near) or 'nothing'}")
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
    if from_timm:
        return HeadError(
            f"the pretrained weights of {settings.backbone} are not in the cache and cannot be downloaded",
            got=reason,
            fix="--backbone-weights FILE.safetensors (a local file), --no-pretrained (train from nothing), "
            "or --head linear (logistic regression on the CLIP embeddings)",
        )
    return HeadError(f"cannot build {settings.backbone} with {settings.backbone_args}", got=reason)


def _load_backbone(backbone: nn.Module, file: Path) -> None:
    """Load local weights: every parameter of the backbone must be found; a classifier in the file is left."""
    if not file.is_file():
        raise HeadError("the backbone weights do not exist", got=str(file))
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, Any] = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and torch's unpickler each have their own kinds
        raise HeadError(
            f"cannot read {file}", expected="safetensors, or torch with plain tensors", got=str(error)[:200]
        ) from error
    state = state.get("state_dict", state)
    own = backbone.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unfit = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or unfit:
        raise HeadError(
            f"{file} does not fit the backbone",
            expected=f"{len(own)} tensors",
            got=f"missing: {listing(missing, 4) or 'none'}; other shape: {listing(unfit, 4) or 'none'}",
            fix="check --backbone, and --set 'backbone_args={pad_type=\"same\"}' or what the weights need",
        )
    backbone.load_state_dict({name: state[name].float() for name in own if name in state}, strict=False)


def freeze(model: PhotoClassifier, unfreeze: str) -> str:
    """Freeze the backbone but its last stages; returns what is frozen, in words.

    Parameters
    ----------
    unfreeze : str
        ``"all"``, ``"none"`` or the number of last stages that train. Stages are timm's own coarse groups, a
        closing norm counting with the stage before it.
    """
    stages = _stages(model.backbone)
    free = len(stages) if unfreeze == "all" else 0 if unfreeze == "none" else min(int(unfreeze), len(stages))
    trained = {name for stage in stages[len(stages) - free :] for name in stage}
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(name in trained)
    return f"{len(stages) - free} of {len(stages)} backbone stages (the stem counts) frozen"


def _stages(backbone: Any) -> list[list[str]]:
    from timm.models import group_parameters

    parameters = dict(backbone.named_parameters())
    groups = group_parameters(backbone, backbone.group_matcher(coarse=True))
    stages: list[list[str]] = []
    for key in sorted(groups):
        names = [name for name in groups[key] if name in parameters]
        has_weights = any(parameters[name].ndim > 1 for name in names)
        if has_weights or not stages:
            stages.append(names)
        else:
            stages[-1] = stages[-1] + names
    return stages


def transforms(model: PhotoClassifier, settings: HeadSettings) -> tuple[Transform, Transform]:
    """Make the augmenting and the plain preprocessing, PIL RGB to float32 (3, image_size, image_size)."""
    from timm.data import create_transform, resolve_data_config
    from torchvision import transforms as tv

    config = resolve_data_config({}, model=model.backbone)
    mean, std = settings.mean or config["mean"], settings.std or config["std"]
    plain: Transform = create_transform(
        input_size=(3, settings.image_size, settings.image_size),
        interpolation=config["interpolation"],
        crop_pct=settings.crop_pct or config["crop_pct"],
        mean=mean,
        std=std,
    )
    jitter = settings.colour_jitter
    augment: Transform = tv.Compose(
        [
            tv.RandomResizedCrop(settings.image_size, (settings.crop_scale, 1.0), antialias=True),
            tv.RandomHorizontalFlip(settings.flip),
            tv.RandomRotation(settings.rotation, tv.InterpolationMode.BILINEAR, fill=[int(255 * m) for m in mean]),
            tv.ColorJitter(jitter, jitter, jitter),
            tv.ToTensor(),
            tv.Normalize(mean, std),
        ]
    )
    return augment, plain
