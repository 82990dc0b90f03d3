"""Preprocessing of a recipe: augmented for training, plain for everything else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from hybrid.config import HeadSettings
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
    from timm.data import resolve_data_config

    config = resolve_data_config({}, model=model.backbone)
    mean, std = tuple(settings.mean or config["mean"]), tuple(settings.std or config["std"])
    return _augmenting(settings, mean, std), _plain(settings, mean, std, config)


def _plain(settings: HeadSettings, mean: tuple[float, ...], std: tuple[float, ...], config: Any) -> Transform:
    from timm.data import create_transform

    made: Transform = create_transform(
        input_size=(3, settings.image_size, settings.image_size),
        interpolation=config["interpolation"],
        crop_pct=settings.crop_pct or config["crop_pct"],
        crop_mode=config["crop_mode"],
        mean=mean,
        std=std,
    )
    return made


def _augmenting(settings: HeadSettings, mean: tuple[float, ...], std: tuple[float, ...]) -> Transform:
    from timm.data import create_transform
    from torchvision import transforms as tv

    try:
        crop, color, tensor = create_transform(
            input_size=(3, settings.image_size, settings.image_size),
            is_training=True,
            scale=(settings.crop_scale, 1.0),
            hflip=settings.flip,
            color_jitter=settings.colour_jitter,
            auto_augment=settings.auto_augment,
            interpolation="bilinear",
            mean=mean,
            std=std,
            re_prob=settings.random_erasing,
            re_mode="pixel",
            separate=True,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise HeadError(
            f"timm knows no augmentation policy {settings.auto_augment}",
            expected="rand-m9-mstd0.5, augmix-m3-w3, original, v0 or another of timm's",
            got=first_line(error),
        ) from error
    _keep_a_bit(color)
    # timm's factory rotates only as a part of its policies.
    fill = [int(255 * m) for m in mean]
    rotation = tv.RandomRotation(settings.rotation, tv.InterpolationMode.BILINEAR, fill=fill)
    steps = [crop, rotation, color, tensor]
    if settings.regions != "none":
        from hybrid.heads.nets.regions import load_slic, random_region

        if settings.regions == "slic":
            load_slic()  # what is missing shows here, not in a loader process
        steps.insert(0, partial(random_region, method=settings.regions, count=settings.region_count))
    made: Transform = tv.Compose(steps)
    return made


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
