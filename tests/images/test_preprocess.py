"""Preprocessing on 8 bits against open_clip's and timm's own transforms on PIL images, of whole and scaled images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from timm.data import create_transform
from torch.nn import functional as F
from torchvision import transforms as tv

from hybrid.images import preprocess as module
from hybrid.images import resample
from hybrid.images.decode import Scaled, decode
from hybrid.images.decoders import LibjpegTurbo
from hybrid.images.preprocess import Preprocessor, read_steps, to_picture, to_scaled
from hybrid.images.resample import Resampler
from hybrid.images.steps import OVERSAMPLING, Steps

TURBO = LibjpegTurbo()
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.3, 0.2)
SIZES = [(64, 64), (65, 64), (100, 80), (80, 101), (333, 127), (127, 400), (30, 20), (641, 427), (64, 90), (1, 1)]


@pytest.fixture
def smooth(picture):
    return partial(picture, block=20)


@pytest.fixture
def jpeg(encode):
    return partial(encode, quality=92)


def clip_transform(mode: str, interpolation: str, size: int | tuple[int, int] = 64):
    return image_transform(size, False, mean=MEAN, std=STD, resize_mode=mode, interpolation=interpolation)


def timm_transform(mode: str, crop_pct: float, interpolation: str, size: tuple[int, int] = (64, 64)):
    return create_transform(
        input_size=(3, *size), crop_mode=mode, crop_pct=crop_pct, interpolation=interpolation, mean=MEAN, std=STD
    )


def on_cpu(transform, dtype: torch.dtype = torch.float32) -> Preprocessor:
    return Preprocessor(transform, "cpu", dtype)


# What a transform does


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_steps_are_read(interpolation):
    for transform, resize, crop in (
        (clip_transform("shortest", interpolation), 64, (64, 64)),
        (clip_transform("squash", interpolation), (64, 64), (64, 64)),
        (clip_transform("squash", interpolation, (64, 96)), (64, 96), (64, 96)),
        (timm_transform("center", 1.0, interpolation), 64, (64, 64)),
        # timm rounds down: 64 / .875 = 73.1, 64 / .95 = 67.4
        (timm_transform("center", 0.875, interpolation), 73, (64, 64)),
        (timm_transform("center", 0.95, interpolation), 67, (64, 64)),
        (timm_transform("center", 0.5, interpolation), 128, (64, 64)),
        (timm_transform("squash", 0.875, interpolation), (73, 73), (64, 64)),
        (timm_transform("squash", 1.0, interpolation, (64, 96)), (64, 96), (64, 96)),
    ):
        steps = read_steps(transform)
        assert (steps.resize, steps.crop, steps.interpolation) == (resize, crop, interpolation)
        assert steps.mean == pytest.approx(MEAN)
        assert steps.std == pytest.approx(STD)
        assert on_cpu(transform).min_side == OVERSAMPLING * int(np.max(resize)) > 0


def composed(*steps) -> tv.Compose:
    return tv.Compose([*steps, tv.ToTensor(), tv.Normalize(MEAN, STD)])


NOT_SAID = {
    "longest": lambda: clip_transform("longest", "bicubic"),
    "shortest, not square": lambda: clip_transform("shortest", "bicubic", (64, 96)),
    "border": lambda: timm_transform("border", 0.9, "bicubic"),
    "center, not square": lambda: timm_transform("center", 0.9, "bicubic", (64, 96)),
    "crop beyond the photo": lambda: timm_transform("center", 1.1, "bicubic"),
    "squashed crop beyond the photo": lambda: timm_transform("squash", 1.1, "bicubic"),
    "no crop": lambda: composed(tv.Resize(64)),
    "no resize": lambda: composed(tv.CenterCrop(64)),
    "nearest": lambda: composed(tv.Resize(64, tv.InterpolationMode.NEAREST), tv.CenterCrop(64)),
    "lanczos": lambda: composed(tv.Resize(64, tv.InterpolationMode.LANCZOS), tv.CenterCrop(64)),
    "longest side bounded": lambda: composed(tv.Resize(64, max_size=100), tv.CenterCrop(64)),
    "another step": lambda: composed(tv.Resize(64), tv.CenterCrop(64), tv.Grayscale(3)),
    "cropped first": lambda: composed(tv.CenterCrop(64), tv.Resize(64)),
    "resized twice": lambda: composed(tv.Resize(90), tv.Resize(64), tv.CenterCrop(64)),
    "not normalized": lambda: tv.Compose([tv.Resize(64), tv.CenterCrop(64), tv.ToTensor()]),
    "a function": lambda: lambda image: tv.functional.to_tensor(image.resize((64, 64))),
}


@pytest.mark.parametrize("name", NOT_SAID)
def test_a_transform_that_cannot_be_read_is_used_itself(name, picture):
    transform = NOT_SAID[name]()
    assert read_steps(transform) is None
    preprocess = on_cpu(transform)
    assert preprocess.min_side is None
    image = picture(100, 100)
    for given in (image, np.asarray(image), Scaled(np.array(image), (100, 100))):
        found = preprocess.batch([preprocess.prepare(given)] * 2)
        assert torch.equal(found, transform(image).expand(2, -1, -1, -1))
    assert on_cpu(transform, torch.bfloat16).batch([preprocess.prepare(image)]).dtype == torch.bfloat16


def test_sizes_are_torchvisions():
    steps, squash = (Steps(side, (64, 64), "bilinear", MEAN, STD) for side in (64, (50, 60)))
    for height, width in product([1, 37, 64, 90, 427, 480], [1, 64, 213, 640]):
        resized = tv.Resize(64, tv.InterpolationMode.NEAREST)(Image.new("L", (width, height)))
        # Eighths of it are of the same shape.
        for eighths in (1, 2, 3, 4, 8):
            assert steps.size_of(height * eighths / 8, width * eighths / 8) == resized.size[::-1]
        assert squash.size_of(height, width) == (50, 60)


# The same as the model library's own


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_batch_is_the_librarys_own_to_the_rounding_of_gray_levels(interpolation, picture):
    """Measured: at most 2 levels, .19 in the mean of an image; most images .01 (torch and Pillow round each pass)."""
    for transform in (
        *(clip_transform(mode, interpolation) for mode in ("shortest", "squash")),
        *(timm_transform("center", crop_pct, interpolation) for crop_pct in (1.0, 0.95, 0.875, 0.5)),
        timm_transform("squash", 0.875, interpolation),
    ):
        preprocess = on_cpu(transform)
        for number, size in enumerate(SIZES):
            image = picture(*size, block=9, seed=number)
            batch = preprocess.batch([preprocess.prepare(image)])
            assert batch.shape == (1, 3, 64, 64)
            levels = (batch[0] - transform(image)).abs() * torch.tensor(STD).view(3, 1, 1) * 255
            assert levels.max() < 2.01, (transform, size)
            assert levels.mean() < 0.25, (transform, size)


def test_where_nothing_is_resized_the_numbers_are_the_librarys_own(picture):
    for transform, size in (
        *((clip_transform("shortest", "bicubic"), size) for size in ((64, 64), (64, 91), (90, 64))),
        # The middle, of odd differences too, which Python's rounding splits to the even side.
        *(
            (composed(tv.Resize((64, 65)), tv.CenterCrop(crop)), (65, 64))
            for crop in ((64, 64), (63, 64), (61, 60), (1, 2))
        ),
    ):
        preprocess, image = on_cpu(transform), picture(*size)
        batch = preprocess.batch([preprocess.prepare(image)])
        assert torch.allclose(batch[0], transform(image), atol=1e-6)
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    by_hand = (values.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    normalized = on_cpu(transform).normalized(values)
    assert normalized.dtype == torch.float32
    assert torch.allclose(normalized.permute(0, 2, 3, 1).double(), by_hand, atol=2e-6)


# Images of every kind


@pytest.mark.filterwarnings("error")  # torch warns of frozen arrays
def test_what_waits_is_small_and_whole(picture):
    preprocess = on_cpu(clip_transform("shortest", "bicubic"))
    image = picture(641, 427)
    array = np.asarray(image)
    scaled = Scaled(np.array(image), (427, 641))
    kinds = [image, array, np.asfortranarray(array), array[::-1][::-1], scaled]
    prepared = [preprocess.prepare(kind) for kind in kinds]
    for waiting in prepared:
        assert (waiting.shape, waiting.dtype) == ((64, 64, 3), np.dtype(np.uint8))
        assert waiting.flags.c_contiguous
        assert waiting.base is None or waiting.base.nbytes == waiting.nbytes  # no larger image is kept alive by it
        assert np.array_equal(waiting, prepared[0])
    preprocess.batch([preprocess.prepare(np.broadcast_to(np.uint8(9), (80, 70, 3)))])
    # Pictures and arrays stand for themselves.
    for kind in kinds[:4]:
        assert np.array_equal(to_scaled(kind).rgb, array)
        assert to_scaled(kind).extent == (427, 641)
        assert np.array_equal(to_picture(kind), array)
    assert np.array_equal(to_picture(scaled), array)
    assert to_scaled(scaled) is scaled
    assert to_picture(image) is image


def test_a_batch_is_channels_last_in_the_models_precision(picture):
    exact, half = (on_cpu(clip_transform("shortest", "bicubic"), dtype) for dtype in (torch.float32, torch.bfloat16))
    prepared = [exact.prepare(picture(80, 70, seed=seed)) for seed in range(3)]
    batch, rounded = exact.batch(prepared), half.batch(prepared)
    assert (batch.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(rounded, batch.bfloat16())
    assert torch.equal(batch, torch.cat([exact.batch([image]) for image in prepared]))


def test_of_a_strip_the_middle_alone_is_resized(monkeypatch):
    """Whole, it would be 16,000 pixels long before all but 32 of them are cropped away."""
    transform = image_transform(32, is_train=False)
    preprocess, sides, interpolate = Preprocessor(transform, "cpu", torch.float32), [], F.interpolate
    monkeypatch.setattr(
        "hybrid.images.preprocess.F.interpolate",
        lambda images, **how: sides.append(max(images.shape)) or interpolate(images, **how),
    )
    rng = np.random.default_rng(0)
    for size in ((4000, 20), (20, 4000)):
        small = Image.fromarray(rng.integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8))
        strip = small.resize(size, Image.Resampling.BICUBIC)
        batch = preprocess.batch([preprocess.prepare(strip)])[0]
        assert (batch - transform(strip)).abs().mean() < 0.02
    assert max(sides) <= 16 * 20


# Decoded at a part of the size


SMALL = {
    "bicubic": clip_transform("shortest", "bicubic", 32),
    "bilinear": clip_transform("shortest", "bilinear", 32),
    "squash": clip_transform("squash", "bicubic", 32),
    "timm": timm_transform("center", 0.875, "bicubic", (32, 32)),
}


def gray(batch: torch.Tensor) -> np.ndarray:
    """Undo the normalization: (n, h, w, 3) from 0 to 255."""
    values = batch.permute(0, 2, 3, 1).float() * torch.tensor(STD) + torch.tensor(MEAN)
    return 255 * values.numpy()


def test_places_stay_where_they_are(jpeg):
    """A ramp from edge to edge: the value of a place says where it was, whether or not eighths divide the side.

    Without `Scaled.extent` the image of 769 would seem 97 wide where 96.125 are filled: 2 levels at its end.
    """
    preprocess, expected = on_cpu(SMALL["bilinear"]), (np.arange(32) + 0.5) / 32 * 255
    for side, axis in product([385, 389, 448, 449, 768, 769], [0, 1]):
        ramp = np.round((np.arange(side) + 0.5) / side * 255).astype(np.uint8)
        rgb = np.repeat(np.broadcast_to(ramp[:, None], (side, side))[..., None], 3, axis=2)
        image = Image.fromarray(np.ascontiguousarray(rgb if axis == 0 else rgb.transpose(1, 0, 2)))
        scaled = TURBO.decode(jpeg(image, quality=98), preprocess.min_side)
        assert scaled.rgb.shape[0] < side / 2 + 1
        levels = gray(preprocess.batch([preprocess.prepare(scaled)]))[0].mean(axis=(1 - axis, 2))
        assert np.abs(levels - expected)[1:-1].max() < 1.2
        assert np.abs(levels - expected)[[0, -1]].max() < 2.5  # the filter ends at the edge
        without = Scaled(scaled.rgb, scaled.rgb.shape[:2])
        shifted = gray(preprocess.batch([preprocess.prepare(without)]))[0].mean(axis=(1 - axis, 2))
        if side % 8:
            assert np.abs(shifted - expected)[1:-1].max() > 1.5
        else:
            assert np.array_equal(shifted, levels)


@pytest.mark.parametrize("name", SMALL)
def test_scaled_images_look_nearly_as_whole_ones(name, smooth, jpeg):
    """Measured: mean difference .2 to 1 levels of smooth images."""
    preprocess = on_cpu(SMALL[name])
    for size in ((320, 240), (401, 267), (1023, 769), (300, 511)):
        data = jpeg(smooth(*size))
        scaled = TURBO.decode(data, preprocess.min_side)
        assert preprocess.min_side <= min(scaled.rgb.shape[:2]) < min(size)
        batch = gray(preprocess.batch([preprocess.prepare(scaled)]))
        expected = gray(SMALL[name](decode(data))[None])
        assert batch.shape == expected.shape == (1, 32, 32, 3)
        assert np.abs(batch - expected).mean() < 1.2
        assert np.corrcoef(batch.ravel(), expected.ravel())[0, 1] > 0.999


# On a GPU


def waiting(transform, images) -> list:
    """What waits for a GPU; nothing is computed there before `batch`."""
    return [Preprocessor(transform, "cuda", torch.float32).prepare(image) for image in images]


def test_images_wait_for_a_gpu_as_they_are(monkeypatch, smooth, jpeg):
    scaled = TURBO.decode(jpeg(smooth(640, 480)), OVERSAMPLING * 32)
    first, second = waiting(SMALL["bicubic"], [scaled, smooth(64, 50)])
    assert first is scaled
    assert (second.rgb.shape, second.extent) == ((50, 64, 3), (50, 64))
    # Large ones are made small before.
    monkeypatch.setattr(module, "LARGEST_WAITING", 64 * 50 * 3)
    fits, large = waiting(SMALL["bicubic"], [smooth(64, 50), smooth(64, 51)])
    assert isinstance(fits, Scaled)
    assert np.array_equal(large, on_cpu(SMALL["bicubic"]).prepare(smooth(64, 51)))
    assert large.shape == (32, 32, 3)


def test_pixels_that_a_decoder_left_on_the_device(picture, smooth, jpeg):
    """Tensors go through as arrays do, also among arrays."""
    images = [TURBO.decode(jpeg(smooth(321, 257)), OVERSAMPLING * 32), Scaled.whole(np.array(picture(64, 50)))]
    images.append(Scaled.whole(np.array(picture(4000, 20))))
    for device in ("cpu", "cuda"):
        preprocess = Preprocessor(SMALL["bicubic"], device, torch.float32)
        plain = on_cpu(SMALL["bicubic"])
        expected = plain.batch([plain.prepare(image) for image in images])
        tensors = [Scaled(torch.from_numpy(image.rgb), image.extent) for image in images]
        prepared = [preprocess.prepare(image) for image in tensors]
        assert torch.equal(plain.batch(prepared), expected)
        mixed = [preprocess.prepare(images[0]), *prepared[1:]]
        assert torch.equal(plain.batch(mixed), expected)
    assert np.array_equal(to_picture(tensors[1]), images[1].rgb)
    assert to_scaled(tensors[1].rgb).extent == (50, 64)


def test_any_mixture_keeps_its_order(smooth, jpeg):
    """Images of the same extent are resized together; each comes out as if it were alone."""
    preprocess = on_cpu(SMALL["bicubic"])
    sizes = [(64, 50), (97, 64), (64, 50), (50, 64), (40, 40), (97, 64), (64, 50)]
    images = [smooth(*size, seed=seed) for seed, size in enumerate(sizes)]
    prepared = waiting(SMALL["bicubic"], images)
    prepared[4] = preprocess.prepare(images[4])  # one that was too large to wait
    prepared.insert(2, TURBO.decode(jpeg(smooth(321, 257)), preprocess.min_side))
    # As large in whole pixels as the one before, but not in truth.
    prepared.insert(3, Scaled(prepared[2].rgb, prepared[2].rgb.shape[:2]))
    calls = []
    fit = module._fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_fit", lambda same, *rest: calls.append(len(same)) or fit(same, *rest))
        together = preprocess.batch(prepared)
    assert sorted(calls) == [1, 1, 1, 2, 3]
    alone = torch.cat([preprocess.batch([one]) for one in prepared])
    assert torch.equal(together, alone)
    assert not torch.equal(together[2], together[3])
    rest = torch.cat([together[:2], together[4:]])
    assert torch.equal(rest, preprocess.batch([preprocess.prepare(image) for image in images]))


class InHalf(Resampler):
    """Computes on the CPU in half precision, as a GPU does."""

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps, torch.device("cpu"))
        self._dtype = torch.float16


def both_ways(scaled: Scaled, steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
    """On whole numbers, and by matrix products as a GPU does."""
    floating = InHalf(steps).levels([scaled]).to(torch.uint8).permute(0, 2, 3, 1)
    return module._fit(torch.from_numpy(scaled.rgb)[None], scaled.extent, steps), floating


@pytest.mark.parametrize("name", SMALL)
def test_a_gpu_gives_the_same_gray_levels(name, smooth, jpeg):
    steps = read_steps(SMALL[name])
    for size in ((64, 50), (321, 257), (640, 427), (33, 300), (20, 16), (32, 32)):
        image = smooth(*size, low=60, high=200)
        for scaled in (TURBO.decode(jpeg(image), OVERSAMPLING * 32), to_scaled(image)):
            whole, floating = both_ways(scaled, steps)
            assert floating.dtype == whole.dtype == torch.uint8
            assert floating.shape == whole.shape == (1, 32, 32, 3)
            difference = (floating.int() - whole.int()).abs()
            assert difference.max() <= 2
            assert difference.float().mean() < 0.3


@pytest.mark.parametrize("name", SMALL)
def test_a_gpu_joins_images_of_all_sizes_as_each_alone(name, smooth, jpeg, monkeypatch):
    """In sets of one shape, and in frames around those that are nearly so; arrays and tensors, each at its place."""
    sizes = [(64, 50), (321, 257), (64, 50), (320, 260), (33, 300), (20, 16), (1, 1), (257, 321), (322, 250), (64, 50)]
    images = [to_scaled(smooth(*size, seed=seed)) for seed, size in enumerate(sizes)]
    images.append(TURBO.decode(jpeg(smooth(333, 259)), OVERSAMPLING * 32))
    given: list = [
        replace(image, rgb=torch.from_numpy(image.rgb)) if n not in (0, 3) else image for n, image in enumerate(images)
    ]
    steps = read_steps(SMALL[name])
    fitted = on_cpu(SMALL[name]).prepare(smooth(70, 60))  # made small before it waited
    expected = [Resampler(steps, torch.device("cpu")).levels([one])[0] for one in images]
    expected.insert(4, torch.from_numpy(fitted).permute(2, 0, 1).float())
    given.insert(4, fitted)
    for most in (2**28, 3 * 321 * 257 + 1):
        monkeypatch.setattr(resample, "_MOST_VALUES", most)
        resampler = Resampler(steps, torch.device("cpu"))
        assert torch.equal(resampler.levels(given), torch.stack(expected))
        sets = [sum(len(places) for _, places in groups) for groups in resampler._sets(resampler._groups(given))]
        assert sorted(sets)[-2:] == ([2, 3] if most == 2**28 else [1, 3])
    alone = resampler.shrink(given[1])
    assert torch.equal(alone.permute(2, 0, 1), expected[1])


def test_a_gpu_clips_black_and_white():
    """Bicubic filters swing beyond them; whole numbers are clipped after each direction, which may be some levels."""
    rgb = np.kron(np.random.default_rng(0).choice([0, 255], (8, 8, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    whole, floating = both_ways(Scaled(rgb, (40, 40)), read_steps(SMALL["bicubic"]))
    difference = (floating.int() - whole.int()).abs()
    assert difference.float().mean() < 0.5
    assert difference.max() <= 12
    assert {int(floating.min()), int(floating.max())} == {0, 255}
