"""A timm backbone with a small classifier: build it and load its first weights."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hybrid.config import ModelSettings
from hybrid.encoders.base import expand_user
from hybrid.encoders.hub import find_cached, require_network
from hybrid.encoders.weights import read_weights
from hybrid.errors import HeadError, first_line, listing

HUB = "hf-hub:"


class ImageClassifier(nn.Module):
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
        self.backbone: Any = backbone  # timm's attributes are no part of nn.Module
        self.classifier = classifier
        self._freeze_norms = freeze_norms

    def forward(self, images: torch.Tensor, reconstruct: bool = False) -> Any:
        """(n, 3, h, w) to logits (n, n_classes); with `reconstruct`, an autoencoder's error too."""
        features = self.backbone(images)
        logits: torch.Tensor = self.classifier(features)
        return (logits, self.backbone.reconstruction_loss(features, images)) if reconstruct else logits

    def train(self, mode: bool = True) -> ImageClassifier:
        """Switch modes; batch norms of the backbone stay in eval mode if they are frozen."""
        super().train(mode)
        if mode and self._freeze_norms:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU}


def build_classifier(
    features: int, classes: int, hidden: int, dropout: Sequence[float], activation: str = "relu"
) -> nn.Sequential:
    """Dropout-Linear-BatchNorm-activation-Dropout-Linear, or Dropout-Linear where `hidden` is 0."""
    if hidden == 0:
        return nn.Sequential(nn.Dropout(dropout[0]), nn.Linear(features, classes))
    return nn.Sequential(
        nn.Dropout(dropout[0]),
        nn.Linear(features, hidden),
        nn.BatchNorm1d(hidden),
        ACTIVATIONS[activation](),
        nn.Dropout(dropout[1]),
        nn.Linear(hidden, classes),
    )


def build_model(settings: ModelSettings, classes: int, *, load_weights: bool = True) -> ImageClassifier:
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
    from_timm = load_weights and settings.pretrained and settings.backbone_weights is None
    try:
        if from_timm:
            _ask_hub(settings.backbone)
        backbone = _create(settings, from_timm)
    except Exception as error:  # timm raises RuntimeError, hub and http errors, TypeError for wrong arguments
        raise _backbone_error(settings, from_timm, error) from error
    if load_weights:
        _check_size(backbone, settings)
    if load_weights and settings.backbone_weights is not None:
        _load_backbone(backbone, expand_user(settings.backbone_weights))
    # Weights trained from nothing need their batch norms to learn.
    freeze_norms = settings.freeze_norms and (settings.pretrained or settings.backbone_weights is not None)
    classifier = build_classifier(
        int(backbone.head_hidden_size), classes, settings.hidden, settings.dropout, settings.activation
    )
    return ImageClassifier(backbone, classifier, freeze_norms)


def weights_note(settings: ModelSettings) -> str:
    """Say where the backbone's first weights came from."""
    if settings.backbone_weights is not None:
        return f"backbone {settings.backbone}, weights from {settings.backbone_weights}"
    if settings.pretrained:
        return f"backbone {settings.backbone}, timm's pretrained weights"
    return f"backbone {settings.backbone}, random weights (pretrained=false)"


def _create(settings: ModelSettings, pretrained: bool) -> Any:
    import timm
    from timm.models import get_pretrained_cfg

    import hybrid.heads.nets.models  # noqa: F401  registers this project's own small networks with timm

    config = get_pretrained_cfg(settings.backbone)
    # Models of a fixed size (ViT, Swin) are built for the recipe's, and timm resamples their position embeddings.
    size = {"img_size": settings.image_size} if config is not None and config.fixed_input_size else {}
    arguments = size | settings.backbone_args
    return timm.create_model(settings.backbone, pretrained=pretrained, num_classes=0, **arguments)


def _ask_hub(backbone: str) -> None:
    """Raise at once where weights are neither cached nor to be had: the hub's client tries for a minute."""
    from timm.models import get_pretrained_cfg

    config = None if backbone.startswith(HUB) else get_pretrained_cfg(backbone)
    address = backbone.removeprefix(HUB) if backbone.startswith(HUB) else config and config.hf_hub_id
    if not address:
        return
    repository, _, revision = address.partition("@")
    names = ((config and config.hf_hub_filename) or "model.safetensors", "pytorch_model.bin")
    if find_cached(repository, names, revision or None) is None:
        require_network()


def _backbone_error(settings: ModelSettings, from_timm: bool, error: Exception) -> HeadError:
    import timm

    name, _, tag = settings.backbone.partition(".")
    if not timm.is_model(name) and ":" not in name:
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        got, fix = f"near it: {listing(near) or 'nothing'}", "timm.list_models() in Python gives all names"
        return HeadError(f"timm knows no model {settings.backbone}", got=got, fix=fix)
    fault = _fault_without_weights(settings) if from_timm else error
    if fault is None:
        return HeadError(
            f"the pretrained weights of {settings.backbone} are not in the cache and cannot be downloaded",
            got=first_line(error),
            fix="--backbone-weights FILE.safetensors (a local file), --set pretrained=false (train from nothing), "
            "or --head linear (logistic regression on the CLIP embeddings)",
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")] if tag else []
    return HeadError(
        f"cannot build {settings.backbone} with {settings.backbone_args}",
        expected=f"a tag among {listing(tags)}" if tags and tag not in tags else None,
        got=first_line(fault),
        fix="correct --backbone, or backbone_args in the recipe",
    )


def _fault_without_weights(settings: ModelSettings) -> Exception | None:
    """What is wrong beside the weights; a hub model cannot be asked, its configuration comes from the hub too."""
    try:
        if not settings.backbone.startswith(HUB):
            _create(settings, pretrained=False)
    except Exception as error:
        return error
    return None


def _check_size(backbone: nn.Module, settings: ModelSettings) -> None:
    size = settings.image_size
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # each family fails in its own way, in the midst of its arithmetic
        raise HeadError(
            f"{settings.backbone} cannot take photos of {size} x {size} pixels",
            got=first_line(error),
            fix="another size, such as --set image_size=224",
        ) from error


def _load_backbone(backbone: nn.Module, file: Path) -> None:
    """Load local weights: every parameter of the backbone must be found; a classifier in the file is left."""
    if not file.exists():
        raise HeadError("the backbone weights do not exist", got=str(file), fix="correct --backbone-weights")
    state = read_weights(file, f"cannot read {file}", HeadError)
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
    if bad := [name for name in own if name in state and not state[name].isfinite().all()]:
        raise HeadError(f"{file} holds values that are not finite", got=listing(bad, 4), fix="use other weights")
    backbone.load_state_dict({name: state[name].float() for name in own if name in state}, strict=False)
