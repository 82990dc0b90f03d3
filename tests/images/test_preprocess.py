"""Preprocessing on 8 bits against open_clip's and timm's own transforms on PIL images, of whole and scaled images."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.transform import image_transform
from PIL import Image
from timm.data import create_transform
from torchvision import transforms as tv

from hybrid.images import preprocess as module
from hybrid.images.decode import Scaled, decode
from hybrid.images.decoders import LibjpegTurbo
from hybrid.images.preprocess import OVERSAMPLING, Preprocessor, Steps, normalize, read_steps, to_picture, to_scaled

TURBO = LibjpegTurbo()
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.3, 0.2)
SIZES = [(64, 64), (65, 64), (100, 80), (80, 101), (333, 127), (127, 400), (30, 20), (641, 427), (64, 90), (1, 1)]


@pytest.fixture
def picture(picture):
    return partial(picture, block=9)


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


def gray_levels(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (found.float() - expected).abs() * torch.tensor(STD).view(3, 1, 1) * 255


# What a transform does


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("make", "resize", "crop"),
    [
        (lambda i: clip_transform("shortest", i), 64, (64, 64)),
        (lambda i: clip_transform("squash", i), (64, 64), (64, 64)),
        (lambda i: clip_transform("squash", i, (64, 96)), (64, 96), (64, 96)),
        (lambda i: timm_transform("center", 1.0, i), 64, (64, 64)),
        # timm rounds down: 64 / .875 = 73.1, 64 / .95 = 67.4
        (lambda i: timm_transform("center", 0.875, i), 73, (64, 64)),
        (lambda i: timm_transform("center", 0.95, i), 67, (64, 64)),
        (lambda i: timm_transform("center", 0.5, i), 128, (64, 64)),
        (lambda i: timm_transform("squash", 0.875, i), (73, 73), (64, 64)),
        (lambda i: timm_transform("squash", 1.0, i, (64, 96)), (64, 96), (64, 96)),
    ],
)
def test_steps_are_read(make, resize, crop, interpolation):
    steps = read_steps(make(interpolation))
    assert (steps.resize, steps.crop, steps.interpolation) == (resize, crop, interpolation)
    assert steps.mean == pytest.approx(MEAN)
    assert steps.std == pytest.approx(STD)
    assert (
        on_cpu(make(interpolation)).min_side == OVERSAMPLING * (resize if isinstance(resize, int) else max(resize)) > 0
    )


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


@pytest.mark.parametrize("height", [1, 37, 64, 90, 427, 480])
@pytest.mark.parametrize("width", [1, 64, 213, 640])
def test_sizes_are_torchvisions(height, width):
    steps = Steps(64, (64, 64), "bilinear", MEAN, STD)
    resized = tv.Resize(64, tv.InterpolationMode.NEAREST)(Image.new("L", (width, height)))
    assert steps.size_of(height, width) == resized.size[::-1]
    # Eighths of it are of the same shape.
    for eighths in (1, 2, 3, 4):
        assert steps.size_of(height * eighths / 8, width * eighths / 8) == resized.size[::-1]
    assert Steps((50, 60), (50, 60), "bilinear", MEAN, STD).size_of(height, width) == (50, 60)


# The same as the model library's own


READ = {
    f"{mode} {detail} {interpolation}": make(mode, detail, interpolation)
    for interpolation in ("bilinear", "bicubic")
    for mode, detail, make in [
        ("shortest", "", lambda m, d, i: clip_transform(m, i)),
        ("squash", "", lambda m, d, i: clip_transform(m, i)),
        ("center", 1.0, timm_transform),
        ("center", 0.95, timm_transform),
        ("center", 0.875, timm_transform),
        ("center", 0.5, timm_transform),
        ("squash", 0.875, timm_transform),
    ]
}


@pytest.mark.parametrize("name", READ)
def test_a_batch_is_the_librarys_own_to_the_rounding_of_gray_levels(name, picture):
    """Measured: at most 2 levels, .19 in the mean of an image; most images .01 (torch and Pillow round each pass)."""
    transform = READ[name]
    preprocess = on_cpu(transform)
    for number, size in enumerate(SIZES):
        image = picture(*size, seed=number)
        found = preprocess.batch([preprocess.prepare(image)])
        assert found.shape == (1, 3, 64, 64)
        levels = gray_levels(found[0], transform(image))
        assert levels.max() < 2.01, size
        assert levels.mean() < 0.25, size


def test_where_nothing_is_resized_the_numbers_are_the_librarys_own(picture):
    transform = clip_transform("shortest", "bicubic")
    preprocess = on_cpu(transform)
    for size in ((64, 64), (64, 91), (90, 64)):
        found = preprocess.batch([preprocess.prepare(picture(*size))])[0]
        assert torch.allclose(found, transform(picture(*size)), atol=1e-6)


@pytest.mark.parametrize("crop", [(64, 64), (63, 64), (61, 60), (1, 2)])
def test_the_middle_is_torchvisions(crop, picture):
    """Odd differences too, which Python's rounding splits to the even side."""
    transform = composed(tv.Resize((64, 65)), tv.CenterCrop(crop))
    preprocess = on_cpu(transform)
    found = preprocess.batch([preprocess.prepare(picture(65, 64))])[0]
    assert torch.allclose(found, transform(picture(65, 64)), atol=1e-6)


def test_normalizing_by_hand():
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    found = normalize(values, MEAN, STD)
    expected = (values.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=2e-6)


# Images of every kind


def test_what_waits_is_small_and_whole(picture):
    preprocess = on_cpu(clip_transform("shortest", "bicubic"))
    image = picture(641, 427)
    array = np.asarray(image)
    scaled = Scaled(np.array(image), (427, 641))
    kinds = [image, array, np.asfortranarray(array), array[::-1][::-1], scaled]
    found = [preprocess.prepare(kind) for kind in kinds]
    for one in found:
        assert (one.shape, one.dtype) == ((64, 64, 3), np.dtype(np.uint8))
        assert one.flags.c_contiguous
        assert one.base is None or one.base.nbytes == one.nbytes  # no larger image is kept alive by it
        assert np.array_equal(one, found[0])


def test_pictures_and_arrays_stand_for_themselves(picture):
    image = picture(41, 27)
    for kind in (image, np.asarray(image), np.asarray(image)[:, ::-1][:, ::-1]):
        scaled = to_scaled(kind)
        assert np.array_equal(scaled.rgb, np.asarray(image))
        assert scaled.extent == (27, 41)
        assert np.array_equal(np.asarray(to_picture(kind)), np.asarray(image))
        assert np.array_equal(np.asarray(to_picture(scaled)), np.asarray(image))
    assert to_scaled(scaled) is scaled
    assert to_picture(image) is image


def test_pictures_and_frozen_arrays_are_taken_without_a_warning_of_torchs(picture):
    preprocess = on_cpu(clip_transform("shortest", "bicubic"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (picture(80, 70), np.asarray(picture(80, 70)), np.broadcast_to(np.uint8(9), (80, 70, 3))):
            preprocess.batch([preprocess.prepare(kind)])


def test_a_batch_is_channels_last_in_the_models_precision(picture):
    exact = on_cpu(clip_transform("shortest", "bicubic"))
    half = on_cpu(clip_transform("shortest", "bicubic"), torch.bfloat16)
    prepared = [exact.prepare(picture(80, 70, seed=seed)) for seed in range(3)]
    found, rounded = exact.batch(prepared), half.batch(prepared)
    assert (found.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(rounded, found.bfloat16())
    assert torch.equal(found, torch.cat([exact.batch([one]) for one in prepared]))


def test_threads_agree(picture):
    preprocess = on_cpu(clip_transform("shortest", "bicubic"))
    images = [picture(90 + seed, 70, seed=seed) for seed in range(24)]
    expected = [preprocess.prepare(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(preprocess.prepare, images))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("size", [(4000, 20), (20, 4000)])
def test_of_a_strip_the_middle_alone_is_resized(size, monkeypatch):
    """Whole, it would be 16,000 pixels long before all but 32 of them are cropped away."""
    transform = image_transform(32, is_train=False)
    preprocess, seen = Preprocessor(transform, "cpu", torch.float32), []
    interpolate = torch.nn.functional.interpolate
    monkeypatch.setattr(
        "hybrid.images.preprocess.F.interpolate",
        lambda images, **how: seen.append(images.shape) or interpolate(images, **how),
    )
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8))
    strip = small.resize(size, Image.Resampling.BICUBIC)
    found = preprocess.batch([preprocess.prepare(strip)])[0]
    assert max(seen[0]) <= 16 * 20
    assert (found - transform(strip)).abs().mean() < 0.02


# Decoded at a part of the size


SMALL = {
    "bicubic": clip_transform("shortest", "bicubic", 32),
    "bilinear": clip_transform("shortest", "bilinear", 32),
    "squash": clip_transform("squash", "bicubic", 32),
    "timm": timm_transform("center", 0.875, "bicubic", (32, 32)),
}


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on a GPU, so that the code takes the way for one."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


def gray(batch: torch.Tensor) -> np.ndarray:
    """Undo the normalization: (n, h, w, 3) from 0 to 255."""
    values = batch.permute(0, 2, 3, 1).float() * torch.tensor(STD) + torch.tensor(MEAN)
    return 255 * values.numpy()


@pytest.mark.parametrize("side", [385, 389, 448, 449, 768, 769])
@pytest.mark.parametrize("axis", [0, 1])
def test_places_stay_where_they_are(side, axis, jpeg):
    """A ramp from edge to edge: the value of a place says where it was, whether or not eighths divide the side.

    Without `Scaled.extent` the image of 769 would seem 97 wide where 96.125 are filled: 2 levels at its end.
    """
    ramp = np.round((np.arange(side) + 0.5) / side * 255).astype(np.uint8)
    rgb = np.repeat(np.broadcast_to(ramp[:, None], (side, side))[..., None], 3, axis=2)
    image = Image.fromarray(np.ascontiguousarray(rgb if axis == 0 else rgb.transpose(1, 0, 2)))
    preprocess = Preprocessor(SMALL["bilinear"], "cpu", torch.float32)
    scaled = TURBO.decode(jpeg(image, quality=98), preprocess.min_side)
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


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(320, 240), (401, 267), (1023, 769), (300, 511)], ids=str)
def test_scaled_images_look_nearly_as_whole_ones(name, size, smooth, jpeg):
    """Measured: mean difference .2 to 1 levels of smooth images."""
    data = jpeg(smooth(*size))
    preprocess = Preprocessor(SMALL[name], "cpu", torch.float32)
    scaled = TURBO.decode(data, preprocess.min_side)
    assert preprocess.min_side <= min(scaled.rgb.shape[:2]) < min(size)
    found = gray(preprocess.batch([preprocess.prepare(scaled)]))
    expected = gray(SMALL[name](decode(data))[None])
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
    return model.visual.eval(), SMALL["bicubic"]


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
def test_models_see_the_same(name, smooth, jpeg):
    """Cosine to what the model makes of its own library's preprocessing of the whole image."""
    model, transform = MODELS[name]()
    preprocess = Preprocessor(transform, "cpu", torch.float32)
    sizes = [(640, 480), (641, 427), (427, 641), (1024, 683), (500, 375), (300, 200)]
    files = [jpeg(smooth(*size, seed=seed)) for seed, size in enumerate(sizes * 2)]
    prepared = [preprocess.prepare(TURBO.decode(data, preprocess.min_side)) for data in files]
    found = model(preprocess.batch(prepared))
    expected = model(torch.stack([transform(decode(data)) for data in files]))
    found, expected = (torch.nn.functional.normalize(one, dim=1) for one in (found, expected))
    cosine = found @ expected.T
    assert cosine.diagonal().min() > 0.999
    assert cosine.argmax(dim=1).tolist() == list(range(len(files))), "each is nearest to itself"


# On a GPU


def waiting(transform, images) -> list:
    """What waits for a GPU; nothing is computed there before `batch`."""
    return [Preprocessor(transform, "cuda", torch.float32).prepare(image) for image in images]


def test_images_wait_for_a_gpu_as_they_are(smooth, jpeg):
    scaled = TURBO.decode(jpeg(smooth(640, 480)), OVERSAMPLING * 32)
    (found,) = waiting(SMALL["bicubic"], [scaled])
    assert found is scaled
    (found,) = waiting(SMALL["bicubic"], [smooth(64, 50)])
    assert (found.rgb.shape, found.extent) == ((50, 64, 3), (50, 64))


def test_large_images_are_made_small_before_they_wait(monkeypatch, smooth):
    on_cpu = Preprocessor(SMALL["bicubic"], "cpu", torch.float32)
    monkeypatch.setattr(module, "LARGEST_WAITING", 64 * 50 * 3)
    fits, large = waiting(SMALL["bicubic"], [smooth(64, 50), smooth(64, 51)])
    assert isinstance(fits, Scaled)
    assert np.array_equal(large, on_cpu.prepare(smooth(64, 51)))
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
    on_cpu = Preprocessor(SMALL["bicubic"], "cpu", torch.float32)
    sizes = [(64, 50), (97, 64), (64, 50), (50, 64), (40, 40), (97, 64), (64, 50)]
    images = [smooth(*size, seed=seed) for seed, size in enumerate(sizes)]
    prepared = waiting(SMALL["bicubic"], images)
    prepared[4] = on_cpu.prepare(images[4])  # one that was too large to wait
    prepared.insert(2, TURBO.decode(jpeg(smooth(321, 257)), on_cpu.min_side))
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


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(64, 50), (321, 257), (640, 427), (33, 300), (20, 16), (32, 32)], ids=str)
def test_a_gpu_gives_the_same_gray_levels(name, size, smooth, jpeg):
    steps = read_steps(SMALL[name])
    for scaled in (
        TURBO.decode(jpeg(smooth(*size, low=60, high=200)), OVERSAMPLING * 32),
        module.to_scaled(smooth(*size, low=60, high=200)),
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
    whole, floating = both_ways(Scaled(rgb, (40, 40)), read_steps(SMALL["bicubic"]))
    difference = (floating.int() - whole.int()).abs()
    assert difference.float().mean() < 0.5
    assert difference.max() <= 12
    assert {int(floating.min()), int(floating.max())} == {0, 255}


@pytest.mark.cuda
@pytest.mark.parametrize("name", SMALL)
def test_a_real_gpu(name, smooth, jpeg):
    on_cpu, on_gpu = (Preprocessor(SMALL[name], device, torch.float32) for device in ("cpu", "cuda"))
    files = [jpeg(smooth(w, h, low=60, high=200)) for w, h in ((321, 257), (640, 427), (40, 30), (321, 257))]
    images = [TURBO.decode(data, on_cpu.min_side) for data in files]
    expected = gray(on_cpu.batch([on_cpu.prepare(image) for image in images]))
    batch = on_gpu.batch([on_gpu.prepare(image) for image in images])
    assert batch.device.type == "cuda"
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(gray(batch.cpu()) - expected).max() < 1.01
