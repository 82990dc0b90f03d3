"""Preprocessing of images that were decoded at a part of their size, and the way of a GPU."""

from __future__ import annotations

import io

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.transform import image_transform
from PIL import Image
from timm.data import create_transform

from hybrid.images import preprocess as module
from hybrid.images.decode import Scaled, decode
from hybrid.images.decoders import LibjpegTurbo
from hybrid.images.preprocess import OVERSAMPLING, Preprocessor, Steps, read_steps

decode_scaled = LibjpegTurbo().decode
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.3, 0.2)
TRANSFORMS = {
    "bicubic": image_transform(32, False, mean=MEAN, std=STD, resize_mode="shortest", interpolation="bicubic"),
    "bilinear": image_transform(32, False, mean=MEAN, std=STD, resize_mode="shortest", interpolation="bilinear"),
    "squash": image_transform(32, False, mean=MEAN, std=STD, resize_mode="squash", interpolation="bicubic"),
    "timm": create_transform(input_size=(3, 32, 32), crop_pct=0.875, interpolation="bicubic", mean=MEAN, std=STD),
}


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on a GPU, so that the code takes the way for one."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


def picture(width: int, height: int, seed: int = 0, low: int = 0, high: int = 256) -> Image.Image:
    rng = np.random.default_rng((seed, width, height))
    coarse = rng.integers(low, high, (max(2, height // 20), max(2, width // 20), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def gray(batch: torch.Tensor) -> np.ndarray:
    """Undo the normalization: (n, h, w, 3) from 0 to 255."""
    values = batch.permute(0, 2, 3, 1).float() * torch.tensor(STD) + torch.tensor(MEAN)
    return 255 * values.numpy()


# Decoded at a part of the size


@pytest.mark.parametrize("side", [385, 389, 448, 449, 768, 769])
@pytest.mark.parametrize("axis", [0, 1])
def test_places_stay_where_they_are(side, axis):
    """A ramp from edge to edge: the value of a place says where it was, whether or not eighths divide the side.

    Without `Scaled.extent` the image of 769 would seem 97 wide where 96.125 are filled: 2 levels at its end.
    """
    ramp = np.round((np.arange(side) + 0.5) / side * 255).astype(np.uint8)
    rgb = np.repeat(np.broadcast_to(ramp[:, None], (side, side))[..., None], 3, axis=2)
    image = Image.fromarray(np.ascontiguousarray(rgb if axis == 0 else rgb.transpose(1, 0, 2)))
    preprocess = Preprocessor(TRANSFORMS["bilinear"], "cpu", torch.float32)
    scaled = decode_scaled(jpeg(image, quality=98), preprocess.min_side)
    assert scaled.rgb.shape[0] < side / 2 + 1
    found = gray(preprocess.batch([preprocess.prepare(scaled)]))[0].mean(axis=(1 - axis, 2))
    expected = (np.arange(32) + 0.5) / 32 * 255
    assert np.abs(found - expected)[1:-1].max() < 1.2
    assert np.abs(found - expected)[[0, -1]].max() < 2.5  # the filter ends at the edge
    without = Scaled(scaled.rgb, scaled.rgb.shape[:2])
    shifted = gray(preprocess.batch([preprocess.prepare(without)]))[0].mean(axis=(1 - axis, 2))
    if side % 8:
        assert np.abs(shifted - expected)[1:-1].max() > 1.5
    else:
        assert np.array_equal(shifted, found)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(320, 240), (401, 267), (1023, 769), (300, 511)], ids=str)
def test_scaled_images_look_nearly_as_whole_ones(name, size):
    """Measured: mean difference .2 to 1 levels of smooth images."""
    data = jpeg(picture(*size))
    preprocess = Preprocessor(TRANSFORMS[name], "cpu", torch.float32)
    scaled = decode_scaled(data, preprocess.min_side)
    assert preprocess.min_side <= min(scaled.rgb.shape[:2]) < min(size)
    found = gray(preprocess.batch([preprocess.prepare(scaled)]))
    expected = gray(TRANSFORMS[name](decode(data))[None])
    assert found.shape == expected.shape == (1, 32, 32, 3)
    assert np.abs(found - expected).mean() < 1.2
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def tiny_clip() -> tuple[torch.nn.Module, object]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(
            32,
            {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
            {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1},
        )
    return model.visual.eval(), TRANSFORMS["bicubic"]


def tiny_timm(name: str) -> tuple[torch.nn.Module, object]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0, pretrained=False).eval()
    config = {**timm.data.resolve_data_config({}, model=model), "input_size": (3, 96, 96)}
    return model, create_transform(**config)


MODELS = {
    "clip": tiny_clip,
    "test_resnet": lambda: tiny_timm("test_resnet"),
    "test_convnext": lambda: tiny_timm("test_convnext"),
}


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_models_see_the_same(name):
    """Cosine to what the model makes of its own library's preprocessing of the whole image."""
    model, transform = MODELS[name]()
    preprocess = Preprocessor(transform, "cpu", torch.float32)
    sizes = [(640, 480), (641, 427), (427, 641), (1024, 683), (500, 375), (300, 200)]
    files = [jpeg(picture(*size, seed)) for seed, size in enumerate(sizes * 2)]
    prepared = [preprocess.prepare(decode_scaled(data, preprocess.min_side)) for data in files]
    found = model(preprocess.batch(prepared))
    expected = model(torch.stack([transform(decode(data)) for data in files]))
    found, expected = (torch.nn.functional.normalize(one, dim=1) for one in (found, expected))
    cosine = found @ expected.T
    assert cosine.diagonal().min() > 0.999
    assert cosine.argmax(dim=1).tolist() == list(range(len(files))), "each is nearest to itself"


# The way of a GPU


def waiting(transform, images) -> list:
    """What waits for a GPU; nothing is computed there before `batch`."""
    return [Preprocessor(transform, "cuda", torch.float32).prepare(image) for image in images]


def test_images_wait_for_a_gpu_as_they_are():
    scaled = decode_scaled(jpeg(picture(640, 480)), OVERSAMPLING * 32)
    (found,) = waiting(TRANSFORMS["bicubic"], [scaled])
    assert found is scaled
    (found,) = waiting(TRANSFORMS["bicubic"], [picture(64, 50)])
    assert (found.rgb.shape, found.extent) == ((50, 64, 3), (50, 64))


def test_large_images_are_made_small_before_they_wait(monkeypatch):
    on_cpu = Preprocessor(TRANSFORMS["bicubic"], "cpu", torch.float32)
    monkeypatch.setattr(module, "LARGEST_WAITING", 64 * 50 * 3)
    fits, large = waiting(TRANSFORMS["bicubic"], [picture(64, 50), picture(64, 51)])
    assert isinstance(fits, Scaled)
    assert np.array_equal(large, on_cpu.prepare(picture(64, 51)))
    assert large.shape == (32, 32, 3)


def test_any_mixture_keeps_its_order():
    """Images of the same extent are resized together; each comes out as if it were alone."""
    on_cpu = Preprocessor(TRANSFORMS["bicubic"], "cpu", torch.float32)
    sizes = [(64, 50), (97, 64), (64, 50), (50, 64), (40, 40), (97, 64), (64, 50)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    prepared = waiting(TRANSFORMS["bicubic"], images)
    prepared[4] = on_cpu.prepare(images[4])  # one that was too large to wait
    prepared.insert(2, decode_scaled(jpeg(picture(321, 257)), on_cpu.min_side))
    # As large in whole pixels as the one before, but not in truth.
    prepared.insert(3, Scaled(prepared[2].rgb, prepared[2].rgb.shape[:2]))
    calls = []
    fit = module._fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_fit", lambda same, *rest: calls.append(len(same)) or fit(same, *rest))
        together = on_cpu.batch(prepared)
    assert sorted(calls) == [1, 1, 1, 2, 3]
    alone = torch.cat([on_cpu.batch([one]) for one in prepared])
    assert torch.equal(together, alone)
    assert not torch.equal(together[2], together[3])
    rest = torch.cat([together[:2], together[4:]])
    assert torch.equal(rest, on_cpu.batch([on_cpu.prepare(image) for image in images]))


def both_ways(scaled: Scaled, steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
    """On whole numbers, and by floating point as a GPU does."""
    images = torch.from_numpy(scaled.rgb)[None]
    elsewhere = module._fit(images.as_subclass(Elsewhere), scaled.extent, steps)
    return module._fit(images, scaled.extent, steps), elsewhere.as_subclass(torch.Tensor)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(64, 50), (321, 257), (640, 427), (33, 300), (20, 16), (32, 32)], ids=str)
def test_a_gpu_gives_the_same_gray_levels(name, size):
    steps = read_steps(TRANSFORMS[name])
    for scaled in (
        decode_scaled(jpeg(picture(*size, low=60, high=200)), OVERSAMPLING * 32),
        module.to_scaled(picture(*size, low=60, high=200)),
    ):
        whole, floating = both_ways(scaled, steps)
        assert floating.dtype == whole.dtype == torch.uint8
        assert floating.shape == whole.shape == (1, 32, 32, 3)
        difference = (floating.int() - whole.int()).abs()
        assert difference.max() <= 1
        assert difference.float().mean() < 0.3


def test_a_gpu_clips_black_and_white():
    """Bicubic filters swing beyond them; whole numbers are clipped after each direction, which may be some levels."""
    rgb = np.kron(np.random.default_rng(0).choice([0, 255], (8, 8, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    whole, floating = both_ways(Scaled(rgb, (40, 40)), read_steps(TRANSFORMS["bicubic"]))
    difference = (floating.int() - whole.int()).abs()
    assert difference.float().mean() < 0.5
    assert difference.max() <= 12
    assert {int(floating.min()), int(floating.max())} == {0, 255}


@pytest.mark.cuda
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_real_gpu(name):
    on_cpu, on_gpu = (Preprocessor(TRANSFORMS[name], device, torch.float32) for device in ("cpu", "cuda"))
    files = [jpeg(picture(w, h, low=60, high=200)) for w, h in ((321, 257), (640, 427), (40, 30), (321, 257))]
    images = [decode_scaled(data, on_cpu.min_side) for data in files]
    expected = gray(on_cpu.batch([on_cpu.prepare(image) for image in images]))
    batch = on_gpu.batch([on_gpu.prepare(image) for image in images])
    assert batch.device.type == "cuda"
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(gray(batch.cpu()) - expected).max() < 1.01
