"""The encoder on the device: its vectors against those of a CPU in fp32, and what it does where memory runs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybrid.config import EncoderSettings
from hybrid.device import LARGEST_BATCH, resolve
from hybrid.encoders import load_encoder
from hybrid.errors import DeviceError, HybridWarning
from hybrid.images.decoders import LibjpegTurbo
from hybrid.images.preprocess import Preprocessor

pytestmark = pytest.mark.cuda
MEGABYTE = 2**20


def load(device, precision="auto", model="tiny"):
    return load_encoder(EncoderSettings(model=str(model), pretrained=None, precision=precision), device)


@pytest.fixture(scope="module")
def images(smooth, file_of):
    sizes = ((640, 480), (480, 640), (321, 257), (90, 64), (64, 64), (40, 30))
    files = [file_of(smooth(*size, seed=seed)) for seed in range(6) for size in sizes]
    return [LibjpegTurbo().decode(data, 192) for data in files]


def encode(encoder, images):
    return encoder.encode_images([encoder.prepare(image, None) for image in images])


def test_auto_is_the_gpu_in_fp16():
    compute = resolve()
    assert (compute.device, compute.precision) == ("cuda", "fp16")


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("fp16", 0.9995), ("bf16", 0.99)])
def test_vectors_are_those_of_a_cpu_in_fp32(images, device, precision, least):
    exact = encode(load("cpu", "fp32"), images)
    found = encode(load(device, precision), images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (found * exact).sum(axis=1).min() >= least


def test_any_open_clip_model_agrees_with_a_cpu(images, device, clip_folder):
    exact, found = (encode(load(place, p, clip_folder), images) for place, p in (("cpu", "fp32"), (device, "fp16")))
    assert (found * exact).sum(axis=1).min() >= 0.999


def test_texts_are_those_of_a_cpu_in_fp32(device):
    texts = ["a photo of an okapi.", "zebra", "", "a " * 100]
    exact, found = load("cpu", "fp32").encode_texts(texts), load(device).encode_texts(texts)
    assert (found * exact).sum(axis=1).min() >= 0.999
    # A text's vector does not depend on what is encoded with it.
    np.testing.assert_array_equal(load(device).encode_texts(texts[1:2])[0], found[1])


def test_the_preprocessing_gives_the_gray_levels_of_a_cpu(device, smooth, file_of):
    transform = load("cpu", "fp32").transform
    ways = [Preprocessor(transform, place, torch.float32) for place in ("cpu", device)]
    files = [file_of(smooth(w, h)) for w, h in ((321, 257), (640, 427), (40, 30), (321, 257))]
    images = [LibjpegTurbo().decode(data, ways[0].min_side) for data in files]
    expected, found = (way.batch([way.prepare(image) for image in images]) for way in ways)
    assert found.device.type == torch.device(device).type
    # In gray levels, by the model's standard deviations: half precision rounds twice.
    std = torch.tensor(transform.transforms[-1].std).reshape(3, 1, 1)
    levels = (found.cpu() - expected).abs() * 255 * std
    assert levels.max() < 2.5
    assert levels.mean() < 0.3


@pytest.fixture
def little_memory():
    """Leave this process so many bytes beyond what it holds: `little_memory(64 * MEGABYTE)`."""

    def leave(size):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(number).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(number) + size) / total, number)

    number = torch.cuda.current_device()
    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0, number)
    torch.cuda.empty_cache()


def test_a_batch_that_does_not_fit_is_halved_for_real(device, images, little_memory):
    encoder = load(device, "fp32")
    many = [encoder.prepare(images[n % len(images)], None) for n in range(2048)]
    expected = np.concatenate([encoder.encode_images(many[start : start + 64]) for start in range(0, 2048, 64)])
    little_memory(96 * MEGABYTE)
    with pytest.warns(HybridWarning, match="2048 photos at once do not fit into memory"):
        found = encoder.encode_images(many)
    assert (found * expected).sum(axis=1).min() > 0.9999
    again = encoder.encode_images(many[:256])  # it has learned, and what failed is free again
    assert (again * expected[:256]).sum(axis=1).min() > 0.9999


def test_no_room_for_a_single_image_is_an_error_with_a_fix(device, images, little_memory):
    encoder = load(device, "fp32")
    prepared = encoder.prepare(images[0], None)
    little_memory(0)
    kept = fill(device)
    with pytest.raises(DeviceError, match="too small for the encoder"):
        encoder.encode_images([prepared])
    del kept


def fill(device):
    """Take what is left, block by block."""
    kept = []
    for size in (16 * MEGABYTE, MEGABYTE, 64 * 1024, 4096, 512):
        try:
            while True:
                kept.append(torch.empty(size, dtype=torch.uint8, device=device))
        except torch.cuda.OutOfMemoryError:
            continue
    return kept


def test_the_suggested_batch_fits(device, clip_folder):
    encoder = load(device, model=clip_folder)
    assert encoder.batch_size == LARGEST_BATCH, "of a network this small"
