"""Low-rank adapters (Hu et al. 2022, "LoRA") on a backbone's linear layers and convolutions, by peft."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from hybrid.config import HeadSettings
from hybrid.errors import HeadError, MissingExtraError
from hybrid.heads.nets.backbone import ImageClassifier


def add_adapters(model: ImageClassifier, settings: HeadSettings) -> str:
    """Freeze the backbone and put adapters beside its layers; returns what was done, in words.

    Raises
    ------
    MissingExtraError
        Without peft.
    HeadError
        If the backbone has no layer that takes an adapter, or a setting contradicts adapters.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("lora_rank", "peft", "lora") from error

    if settings.optim.layer_decay is not None or settings.model.unfreeze_every:
        raise HeadError(
            "adapters leave the backbone's own layers frozen",
            got=f"lora_rank={settings.model.lora_rank} with layer_decay or unfreeze_every",
            fix="leave layer_decay and unfreeze_every out, or lora_rank",
        )
    rank = settings.model.lora_rank
    targets = [name for name, layer in model.backbone.named_modules() if _takes_adapter(layer)]
    if not targets:
        raise HeadError(
            f"{settings.model.backbone} has no linear layer and no ungrouped convolution to adapt",
            fix="leave lora_rank out, or take another backbone: --set backbone=NAME",
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=settings.model.lora_alpha,
        lora_dropout=settings.model.lora_dropout,
        # One pattern of whole names: peft takes a list's names as endings too, which may be those of other layers.
        target_modules="|".join(re.escape(name) for name in targets),
    )
    model.backbone = get_peft_model(model.backbone, config)
    return f"the backbone is frozen, with adapters of rank {rank} on {len(targets)} of its layers"


def merge_adapters(model: ImageClassifier) -> ImageClassifier:
    """Add the adapters into the layers' own weights: a plain backbone again, which needs no peft."""
    adapted: Any = model.backbone
    model.backbone = adapted.merge_and_unload()
    return model


def _takes_adapter(layer: nn.Module) -> bool:
    # Exact kinds: timm's Conv2dSame pads in its own forward, which peft's convolution beside it would not.
    if type(layer) is nn.Conv2d:
        return layer.groups == 1
    return type(layer) is nn.Linear
