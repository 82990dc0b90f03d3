"""Preprocessing of a recipe: augmented for training, plain for everything else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from hybrid.config import AugmentSettings, HeadSettings, ModelSettings, RegionSettings
from hybrid.errors import HeadError, first_line
from hybrid.heads.nets.backbone import ImageClassifier

Transform = Callable[[Any], torch.Tensor]


def transforms(model: ImageClassifier, settings: HeadSettings) -> tuple[Transform, Transform]:
    """Make the augmenting and the plain preprocessing, PIL RGB to float32 (3, image_size, image_size).

    Raises
    ------
    HeadError
        If timm does not know the ``auto_augment`` policy.
    """
    return _augmenting(model, settings), plain_transform(model, settings.model)


def augments(augment: AugmentSettings, regions: RegionSettings) -> bool:
    """Whether a training image differs from one epoch to the next."""
    strengths = (augment.flip, augment.rotation, augment.color_jitter, augment.random_erasing)
    return augment.crop_scale < 1 or any(strengths) or bool(augment.auto_augment) or regions.method != "none"


def plain_transform(model: ImageClassifier, settings: ModelSettings) -> Transform:
    """Make the preprocessing of validation and use, PIL RGB to float32 (3, image_size, image_size)."""
    from timm.data import create_transform

    config = _data_config(model, settings)
    transform: Transform = create_transform(
        input_size=(3, settings.image_size, settings.image_size),
        interpolation=config["interpolation"],
        crop_pct=settings.crop_pct or config["crop_pct"],
        crop_mode=config["crop_mode"],
        mean=config["mean"],
        std=config["std"],
    )
    return transform


def _data_config(model: ImageClassifier, settings: ModelSettings) -> dict[str, Any]:
    """What timm knows of the weights, with the recipe's own normalization."""
    from timm.data import resolve_data_config

    config = dict(resolve_data_config({}, model=model.backbone))
    return config | {"mean": settings.mean or tuple(config["mean"]), "std": settings.std or tuple(config["std"])}


def _augmenting(model: ImageClassifier, settings: HeadSettings) -> Transform:
    from timm.data import create_transform
    from torchvision import transforms as tv

    augment, regions, size = settings.augment, settings.regions, settings.model.image_size
    config = _data_config(model, settings.model)
    try:
        crop, color, tensor = create_transform(
            input_size=(3, size, size),
            is_training=True,
            scale=(augment.crop_scale, 1.0),
            hflip=augment.flip,
            color_jitter=augment.color_jitter,
            auto_augment=augment.auto_augment,
            interpolation="bilinear",
            mean=config["mean"],
            std=config["std"],
            re_prob=augment.random_erasing,
            re_mode="pixel",
            separate=True,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise HeadError(
            f"timm knows no augmentation policy {augment.auto_augment}",
            expected="rand-m9-mstd0.5, augmix-m3-w3, original, v0 or another of timm's",
            got=first_line(error),
            fix="correct auto_augment, or leave it out",
        ) from error
    _keep_a_bit(color)
    # timm's factory rotates only as a part of its policies.
    fill = [int(255 * mean) for mean in config["mean"]]
    rotation = tv.RandomRotation(augment.rotation, tv.InterpolationMode.BILINEAR, fill=fill)
    steps = [crop, rotation, color, tensor]
    if regions.method != "none":
        from hybrid.heads.nets.regions import load_slic, random_region

        if regions.method == "slic":
            load_slic()  # a missing extra shows here, not in a loader process
        steps.insert(0, partial(random_region, method=regions.method, count=regions.count))
    transform: Transform = tv.Compose(steps)
    return transform


def _keep_a_bit(color: Any) -> None:
    """Change the posterizing of timm's policies: at some strengths it asks for 0 bits, which Pillow refuses."""
    from timm.data.auto_augment import AugMixAugment, AutoAugment, RandAugment, posterize

    for policy in color.transforms:
        if isinstance(policy, AutoAugment):
            operations = [operation for pair in policy.policy for operation in pair]
        else:
            operations = policy.ops if isinstance(policy, RandAugment | AugMixAugment) else []
        for operation in operations:
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterize


def _posterize(image: Any, bits: int, **more: Any) -> Any:
    from timm.data.auto_augment import posterize

    return posterize(image, max(1, bits), **more)
