"""Stages of a backbone: which of them train, from when on, and at which rate."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hybrid.config import ModelSettings, OptimSettings
from hybrid.errors import HeadError, first_line
from hybrid.heads.nets.backbone import ImageClassifier

Group = dict[str, Any]


def freeze(model: ImageClassifier, unfreeze: str) -> str:
    """Freeze the backbone but its last stages; returns what is frozen, in words.

    Parameters
    ----------
    unfreeze : str
        ``"all"``, ``"none"`` or the number of last stages that train. Stages are timm's own coarse groups; what
        follows the last one (a closing norm or convolution) counts with it.

    Raises
    ------
    HeadError
        If a number is asked for and timm does not say what the model's stages are.
    """
    parameters = dict(model.backbone.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(unfreeze == "all")
    if unfreeze in ("all", "none"):
        return "the whole backbone is frozen" if unfreeze == "none" else "nothing is frozen"
    stages = _stages(model.backbone)
    free = min(int(unfreeze), len(stages))
    for name in (name for stage in stages[len(stages) - free :] for name in stage):
        parameters[name].requires_grad_(True)
    return f"{len(stages) - free} of {len(stages)} backbone stages (the stem counts) frozen"


def is_progressive(settings: ModelSettings) -> bool:
    """Whether stages start to train one after another."""
    return settings.unfreeze_every > 0 and settings.unfreeze != "none" and not settings.lora_rank


def unfrozen_at(epoch: int, model: ImageClassifier, settings: ModelSettings) -> str:
    """How much of the backbone trains in an epoch (from 1), as `freeze` takes it: all of it, or stage after stage."""
    if epoch >= fully_unfrozen_epoch(model, settings):
        return settings.unfreeze
    return str((epoch - 1) // settings.unfreeze_every)


def fully_unfrozen_epoch(model: ImageClassifier, settings: ModelSettings) -> int:
    """The first epoch in which all weights that may train do."""
    if not is_progressive(settings):
        return 1
    stages = len(_stages(model.backbone))
    wanted = stages if settings.unfreeze == "all" else min(int(settings.unfreeze), stages)
    return 1 + settings.unfreeze_every * wanted


def parameter_groups(model: ImageClassifier, settings: OptimSettings) -> list[Group]:
    """What the optimizer updates: groups with ``params``, ``weight_decay`` and ``lr_scale`` (times learning_rate).

    Norms, biases and position embeddings have no weight decay. With ``layer_decay`` each of timm's layers has its own
    rate, growing from early to late (Clark et al. 2020, "ELECTRA", section 3; BEiT).
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    decay, backbone = settings.weight_decay, settings.backbone_rate
    # timm says for each family which of its matrices are embeddings.
    spared: frozenset[str] = frozenset(getattr(model.backbone, "no_weight_decay", tuple)())
    groups: list[Group] = [{"lr_scale": 1.0, **g} for g in param_groups_weight_decay(model.classifier, decay)]
    if settings.layer_decay is None:
        groups += [
            {"lr_scale": backbone, **g}
            for g in param_groups_weight_decay(model.backbone, decay, no_weight_decay_list=spared)
        ]
    elif any(parameter.requires_grad for parameter in model.backbone.parameters()):
        layered = param_groups_layer_decay(
            model.backbone, decay, no_weight_decay_list=spared, layer_decay=settings.layer_decay
        )
        groups += [{**g, "lr_scale": g["lr_scale"] * backbone} for g in layered]
    return [group for group in groups if group["params"]]


def _stages(backbone: Any) -> list[list[str]]:
    from timm.models import group_parameters

    parameters = dict(backbone.named_parameters())
    try:
        groups = group_parameters(backbone, backbone.group_matcher(coarse=True))
    except (AttributeError, AssertionError, NotImplementedError, TypeError) as error:
        raise HeadError(
            f"timm does not say what the stages of {type(backbone).__name__} are",
            got=first_line(error),
            fix="--set unfreeze=all, or --set unfreeze=none",
        ) from error
    stages: list[list[str]] = []
    for key in sorted(groups):
        names = [name for name in groups[key] if name in parameters]
        has_weights = any(parameters[name].ndim > 1 for name in names)
        if has_weights or not stages:
            stages.append(names)
        else:
            stages[-1] = stages[-1] + names
    # timm counts a closing convolution (MobileNetV3, FastViT) as a stage; it has no elder sibling.
    while len(stages) > 2 and not _kinds(stages[-1]) & _kinds(name for stage in stages[:-1] for name in stage):
        stages[-2:] = [stages[-2] + stages[-1]]
    return stages


def _kinds(names: Iterable[str]) -> set[str]:
    """First parts of parameter names without digits: ``layer`` for ``layer4.0.conv1.weight``."""
    return {re.sub(r"\d", "", name.split(".")[0]) for name in names}
