"""Augmentation of whole batches: image by image, torchvision and timm do the same."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms as tv
from torchvision.transforms.v2 import functional as v2

from hybrid.config import HeadSettings
from hybrid.heads.augment import (
    _ORDERS,
    Augmentation,
    Draws,
    Erasing,
    augment,
    draw,
    read_augmentation,
    uniforms,
)
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.transforms import transforms

SIZE = 48
FULL = Augmentation(
    SIZE,
    (0.3, 1.0),
    (3 / 4, 4 / 3),
    0.5,
    (-30.0, 30.0),
    (124.0, 116.0, 104.0),
    ((0.6, 1.4), (0.5, 1.5), (0.2, 1.8)),
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
    Erasing(0.5, (0.02, 1 / 3), (np.log(0.3), -np.log(0.3))),
)


def photos(count: int, height: int, width: int) -> torch.Tensor:
    """(n, h, w, 3) uint8 with edges and smooth parts."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (count, 3, height // 6, width // 6)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic")
    smooth[:, :, height // 3 : height // 2, width // 4 : width // 2] = 250
    return smooth.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def one_by_one(image: torch.Tensor, draws: Draws, row: int, recipe: Augmentation) -> torch.Tensor:
    """The same by torchvision's functions, before the erasing, in gray levels."""
    top, left, height, width = map(int, draws.crop[row])
    picture = v2.resized_crop(
        image.permute(2, 0, 1).float(), top, left, height, width, [recipe.size] * 2, antialias=True
    )
    picture = v2.horizontal_flip(picture) if draws.flip[row] else picture
    bilinear = tv.InterpolationMode.BILINEAR
    picture = v2.rotate(picture, float(draws.angle[row]), bilinear, fill=list(recipe.fill)) / 255
    changes = (v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation)
    for which in draws.order[row]:
        picture = changes[which](picture, float(draws.factors[row, which]))
    return picture * 255


def gray_levels(batch: torch.Tensor, recipe: Augmentation) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (recipe.mean, recipe.std))
    return (batch * std + mean) * 255


@pytest.mark.parametrize(("height", "width"), [(30, 40), (120, 150), (300, 210)])
def test_a_batch_is_what_torchvision_makes_of_each_image(height, width):
    images, seeds = photos(12, height, width), range(12)
    draws = draw(FULL, seeds, np.tile([float(height), float(width)], (12, 1)))
    assert len({tuple(order) for order in draws.order}) > 3
    assert 0 < draws.flip.sum() < 12
    batch = augment(images, draws, FULL, 7, torch.float32)
    assert batch.shape == (12, 3, SIZE, SIZE)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    result, found = gray_levels(batch, FULL), 0
    for row in range(12):
        expected = one_by_one(images[row], draws, row, FULL)
        top, left, tall, wide = map(int, draws.patch[row])
        erased = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        erased[top : top + tall, left : left + wide] = True
        # torchvision fades into the filling twice where a pixel stands half for each.
        uncovered = v2.rotate(torch.ones(1, SIZE, SIZE), float(draws.angle[row]), tv.InterpolationMode.BILINEAR)[0]
        kept = ~erased & ((uncovered < 1e-4) | (uncovered > 1 - 1e-4))
        assert kept.float().mean() > 0.5
        # The mean gray of a contrast is rounded here, as Pillow does it.
        torch.testing.assert_close(result[row][:, kept], expected[:, kept], rtol=0, atol=1)
        if erased.any():
            noise, found = batch[row][:, erased], found + 1
            assert abs(noise.mean()) < 0.2
            assert 0.8 < noise.std() < 1.2
    assert 2 <= found <= 10
    half = gray_levels(augment(images, draws, FULL, 7, torch.float16), FULL)
    assert (half - result).abs().max() < 2, "contrast and saturation can double an error of half precision"


def test_what_is_drawn_depends_on_the_image_alone():
    seeds, extents = [5, 2**31 - 1, 0, 5], np.tile([90.0, 120.0], (4, 1))
    together, alone = draw(FULL, seeds, extents), draw(FULL, seeds[1:2], extents[:1])
    for name in ("crop", "flip", "angle", "factors", "order", "patch"):
        rows = getattr(together, name)
        np.testing.assert_array_equal(rows[0], rows[3])
        np.testing.assert_array_equal(rows[1:2], getattr(alone, name))
    assert not np.array_equal(together.crop[0], together.crop[1])
    assert np.unique(uniforms(range(500), 3)).size == 1500


@pytest.mark.parametrize(("height", "width"), [(100, 130), (80, 400), (400, 80), (7, 5)])
def test_crops_are_distributed_as_timm_draws_them(height, width):
    from scipy.stats import ks_2samp

    recipe = Augmentation(**{**vars(FULL), "scale": (0.4, 1.0)})
    count = 3000
    own = draw(recipe, range(count), np.tile([float(height), float(width)], (count, 1))).crop
    random.seed(0)
    blank = Image.new("RGB", (width, height))
    theirs = np.array(
        [RandomResizedCropAndInterpolation.get_params(blank, recipe.scale, recipe.ratio) for _ in range(count)]
    )
    for column in range(4):
        assert ks_2samp(own[:, column], theirs[:, column]).pvalue > 1e-3, column


def test_the_rest_is_distributed_as_torchvision_and_timm_draw_it():
    draws = draw(FULL, range(6000), np.tile([60.0, 80.0], (6000, 1)))
    assert draws.flip.mean() == pytest.approx(0.5, abs=0.02)
    assert draws.angle.min() > -30
    assert draws.angle.max() < 30
    assert np.abs(np.quantile(draws.angle, [0.25, 0.5, 0.75]) - [-15, 0, 15]).max() < 1.5
    for column, (low, high) in enumerate(FULL.jitter):
        quarters = low + (high - low) * np.array([0.25, 0.5, 0.75])
        np.testing.assert_allclose(np.quantile(draws.factors[:, column], [0.25, 0.5, 0.75]), quarters, atol=0.04)
    for order in _ORDERS:
        assert (draws.order == order).all(axis=1).mean() == pytest.approx(1 / 6, abs=0.02)
    erased = draws.patch[draws.patch[:, 2] > 0]
    assert len(erased) / 6000 == pytest.approx(0.5, abs=0.03)
    area = erased[:, 2] * erased[:, 3] / SIZE**2
    assert area.min() > 0.01
    assert area.max() < 0.35
    assert (erased[:, :2] + erased[:, 2:] <= SIZE).all()
    assert np.corrcoef(draws.angle, draws.factors[:, 0])[0, 1] == pytest.approx(0, abs=0.05)


def test_a_recipe_is_read_or_left_to_the_loaders():
    settings = HeadSettings(backbone="test_resnet", pretrained=False, image_size=64, crop_scale=0.5, rotation=15.0)
    model = build_model(settings.model, 2)

    def read(**changes):
        return read_augmentation(transforms(model, settings.replace(**changes))[0])

    found = read()
    assert (found.size, found.scale, found.degrees, found.flip) == (64, (0.5, 1.0), (-15.0, 15.0), 0.5)
    assert found.jitter == ((0.8, 1.2),) * 3
    assert found.erasing is None
    assert len(found.fill) == 3
    bare = read(flip=0, color_jitter=0, rotation=0, random_erasing=0.25)
    assert (bare.flip, bare.jitters, bare.degrees, bare.erasing.probability) == (0, False, (0, 0), 0.25)
    assert read(auto_augment="rand-m9-mstd0.5") is read(regions="tiles") is None
    plain = transforms(model, settings)[1]
    assert read_augmentation(plain) is read_augmentation(lambda image: image) is None
    assert read_augmentation(tv.Compose([transforms(model, settings)[0], tv.Grayscale(3)])) is None
