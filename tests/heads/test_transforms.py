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


def test_the_plain_transform_is_timms_own():
    overlay = {"pretrained_cfg_overlay": {"crop_mode": "squash", "interpolation": "bilinear"}}
    for changes in (
        {},
        {"image_size": 48, "crop_pct": 0.5},
        {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
        {"backbone_args": overlay},
        {"random_erasing": 1.0, "auto_augment": "rand-m9"},
    ):
        chosen = settings(**changes)
        model = build_model(chosen.model, classes=3)
        plain = transforms(model, chosen)[1]
        size = chosen.model.image_size
        config = resolve_data_config({"input_size": (3, size, size)}, model=model.backbone)
        given = {key: getattr(chosen.model, key) for key in ("mean", "std", "crop_pct")}
        config |= {key: value for key, value in given.items() if value is not None}
        pixels = plain(image())
        assert pixels.shape == (3, size, size)
        assert pixels.dtype == torch.float32
        assert torch.equal(pixels, create_transform(**config, is_training=False)(image()))
        assert torch.equal(pixels, plain(image())), "nothing random in it"


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


# Against a plain resize and by hand


def still(**changes) -> HeadSettings:
    """No augmentation but what is asked for; normalization that leaves pixels in 0..1."""
    nothing = {"rotation": 0.0, "colour_jitter": 0.0, "flip": 0.0, "crop_scale": 1.0}
    return settings(**{**nothing, "mean": (0, 0, 0), "std": (1, 1, 1), **changes})


def augmenting(chosen: HeadSettings):
    return transforms(build_model(chosen.model, classes=3, load_weights=False), chosen)[0]


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)


def test_no_augmentation_is_the_plain_resize():
    for width in (64, 100):
        expected = as_tensor(image(width, width).resize((64, 64), Image.Resampling.BILINEAR))
        torch.testing.assert_close(augmenting(still())(image(width, width)), expected, rtol=0, atol=1e-6)
        flipped = augmenting(still(flip=1.0))(image(width, width))
        torch.testing.assert_close(flipped, expected.flip(-1), rtol=0, atol=1e-6)


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


def test_random_erasing():
    erase, whole = augmenting(still(random_erasing=1.0)), augmenting(still())(image(64, 64))
    changed = [(erase(image(64, 64)) != whole).any(0).float().mean().item() for _ in range(10)]
    assert all(0.01 < share < 0.5 for share in changed)


@pytest.mark.parametrize(
    "policy", ["v0", "v0r", "original", "rand-m9-mstd0.5", "rand-m10-inc1", "rand-m1-n4", "augmix-m3-w3", "3a"]
)
def test_every_operation_of_a_policy_works(policy):
    """Pillow refuses to posterize to no bits, which timm asks for at some strengths, once in many images."""
    change = augmenting(still(auto_augment=policy))
    whole = augmenting(still())(image(64, 64))
    random.seed(0)
    np.random.seed(0)
    images = [change(image(64, 64)) for _ in range(150)]
    assert all(pixels.shape == (3, 64, 64) and pixels.isfinite().all() for pixels in images)
    assert any((pixels - whole).abs().max() > 0.05 for pixels in images)


def test_gray_images(tmp_path):
    gray = np.random.default_rng(1).integers(0, 256, (70, 70), dtype=np.uint8)
    chosen = still(auto_augment="rand-m9", random_erasing=0.5)
    augment, plain = transforms(build_model(chosen.model, classes=3, load_weights=False), chosen)
    for mode in ("L", "1", "LA", "P", "I;16"):
        image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(gray).convert(mode)
        image.save(tmp_path / "gray.png")
        decoded = decode((tmp_path / "gray.png").read_bytes())
        assert augment(decoded).shape == (3, 64, 64)
        red, green, blue = plain(decoded)
        assert torch.equal(red, green)
        assert torch.equal(red, blue)
        assert red.std() > 0.05


def test_what_is_refused(monkeypatch):
    for policy in ("nonsense", "rand-q5", "augmix-q5"):
        with pytest.raises(HeadError, match=f"no augmentation policy {policy}") as caught:
            augmenting(still(auto_augment=policy))
        assert "rand-m9-mstd0.5" in caught.value.expected
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingExtraError, match="scikit-image"):
        augmenting(still(regions="slic"))  # before a loader starts
