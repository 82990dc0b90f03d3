from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from hybrid.config import HeadSettings
from hybrid.errors import HeadError, MissingExtraError
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.transforms import transforms
from hybrid.images.decode import decode


def settings(**changes) -> HeadSettings:
    return HeadSettings(**{"backbone": "test_resnet", "pretrained": False, "image_size": 64, "hidden": 16, **changes})


def image(width: int = 90, height: int = 70) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": 48, "crop_pct": 0.5},
        {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
        {"backbone_args": {"pretrained_cfg_overlay": {"crop_mode": "squash", "interpolation": "bilinear"}}},
    ],
)
def test_the_plain_transform_is_timms_own(changes):
    chosen = settings(**changes)
    model = build_model(chosen.model, classes=3)
    plain = transforms(model, chosen)[1]
    size = chosen.model.image_size
    config = resolve_data_config({"input_size": (3, size, size)}, model=model.backbone)
    given = {key: getattr(chosen.model, key) for key in ("mean", "std", "crop_pct")}
    config |= {key: value for key, value in given.items() if value is not None}
    expected = create_transform(**config, is_training=False)(image())
    found = plain(image())
    assert found.shape == (3, size, size)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(found, plain(image())), "nothing random in it"


def test_normalization_by_hand():
    chosen = settings(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    gray = transforms(build_model(chosen.model, classes=3), chosen)[1](Image.new("RGB", (80, 80), (51, 102, 204)))
    expected = torch.tensor([(0.2 - 0.1) / 0.4, (0.4 - 0.2) / 0.5, (0.8 - 0.3) / 0.6])
    torch.testing.assert_close(gray, expected[:, None, None].expand(3, 64, 64), rtol=0, atol=1e-6)


def test_the_augmenting_transform():
    chosen = settings(rotation=180.0, colour_jitter=0.0, mean=(0.2, 0.4, 0.6), std=(0.5, 0.5, 0.5))
    augment = transforms(build_model(chosen.model, classes=3), chosen)[0]
    first, second = augment(image()), augment(image())
    assert first.shape == second.shape == (3, 64, 64)
    assert not torch.equal(first, second)
    again = []
    for _ in range(2):
        torch.manual_seed(3)
        random.seed(3)  # timm's crop draws from here
        again.append(augment(image()))
    assert torch.equal(*again)
    # What a rotation uncovers is filled with the mean color, zero after normalization.
    mean = Image.new("RGB", (80, 80), (51, 102, 153))
    assert max(float(augment(mean).abs().max()) for _ in range(5)) < 1e-6


def test_the_strength_of_the_augmentations_is_set():
    still = settings(rotation=0.0, colour_jitter=0.0, flip=0.0, crop_scale=1.0)
    model = build_model(still.model, classes=3)
    augment = transforms(model, still)[0]
    assert torch.equal(augment(image(64, 64)), augment(image(64, 64)))
    flipped = transforms(model, settings(rotation=0.0, colour_jitter=0.0, flip=1.0, crop_scale=1.0))[0]
    torch.testing.assert_close(flipped(image(64, 64)), augment(image(64, 64)).flip(-1))


# Against a plain resize and by hand


def still(**changes) -> HeadSettings:
    """No augmentation but what is asked for; normalization that leaves pixels in 0..1."""
    nothing = {"rotation": 0.0, "colour_jitter": 0.0, "flip": 0.0, "crop_scale": 1.0}
    return settings(**{**nothing, "mean": (0, 0, 0), "std": (1, 1, 1), **changes})


def augmenting(chosen: HeadSettings):
    return transforms(build_model(chosen.model, classes=3, load_weights=False), chosen)[0]


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)


@pytest.mark.parametrize("width", [64, 100])
def test_no_augmentation_is_the_plain_resize(width):
    expected = as_tensor(image(width, width).resize((64, 64), Image.Resampling.BILINEAR))
    torch.testing.assert_close(augmenting(still())(image(width, width)), expected, rtol=0, atol=1e-6)


def test_the_crop_scale_is_the_smallest_share_of_the_image():
    """Of an image of two gradients the crop tells its own extent."""
    ramp = np.zeros((128, 128, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(128)[None] * 2, np.arange(128)[:, None] * 2
    crop = augmenting(still(crop_scale=0.25))
    shares = []
    for seed in range(80):
        random.seed(seed)
        torch.manual_seed(seed)
        pixels = crop(Image.fromarray(ramp)).numpy()
        width, height = np.ptp(pixels[0]) * 255 / 254, np.ptp(pixels[1]) * 255 / 254
        shares.append(width * height)
    assert 0.2 < min(shares) < 0.45
    assert max(shares) > 0.8


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_random_erasing(probability):
    erase = augmenting(still(random_erasing=probability))
    whole = augmenting(still())(image(64, 64))
    changed = [(erase(image(64, 64)) != whole).any(0).float().mean().item() for _ in range(10)]
    if probability == 0:
        assert changed == [0.0] * 10
    else:
        assert all(0.01 < share < 0.5 for share in changed)


def test_validation_erases_nothing():
    chosen = still(random_erasing=1.0, auto_augment="rand-m9")
    plain = transforms(build_model(chosen.model, classes=3, load_weights=False), chosen)[1]
    assert torch.equal(plain(image()), plain(image()))


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5", "augmix-m3-w3", "original", "v0", "3a"])
def test_policies_of_timm_change_the_image(policy):
    change = augmenting(still(auto_augment=policy))
    random.seed(0)
    np.random.seed(0)
    whole = augmenting(still())(image(64, 64))
    made = [change(image(64, 64)) for _ in range(8)]
    assert {tuple(pixels.shape) for pixels in made} == {(3, 64, 64)}
    assert any((pixels - whole).abs().max() > 0.05 for pixels in made)


@pytest.mark.parametrize("policy", ["v0", "v0r", "original", "rand-m10-inc1", "rand-m1-n4", "augmix-m10", "3a"])
def test_every_operation_of_a_policy_works(policy):
    """Pillow refuses to posterize to no bits, which timm asks for at some strengths, once in many images."""
    change = augmenting(still(auto_augment=policy))
    random.seed(0)
    for _ in range(150):
        assert change(image(64, 64)).isfinite().all()


@pytest.mark.parametrize("policy", ["nonsense", "rand-q5", "augmix-q5"])
def test_an_unknown_policy(policy):
    with pytest.raises(HeadError, match=f"no augmentation policy {policy}") as caught:
        augmenting(still(auto_augment=policy))
    assert "rand-m9-mstd0.5" in caught.value.expected


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "I;16"])
def test_gray_images(tmp_path, mode):
    gray = np.random.default_rng(1).integers(0, 256, (70, 70), dtype=np.uint8)
    image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    image.save(tmp_path / "grey.png")
    opened = decode((tmp_path / "grey.png").read_bytes())
    chosen = still(auto_augment="rand-m9", random_erasing=0.5)
    augment, plain = transforms(build_model(chosen.model, classes=3, load_weights=False), chosen)
    assert augment(opened).shape == (3, 64, 64)
    found = plain(opened)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found.std() > 0.05


def test_segments_without_scikit_image_are_refused_before_a_loader_starts(recipe, start, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    settings = recipe(regions="slic")
    with pytest.raises(MissingExtraError, match="scikit-image"):
        transforms(start(settings), settings)
