"""What a loaded CLIP gives: vectors held against open_clip's own, and the names that vectors are kept under."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hybrid.config import EncoderSettings
from hybrid.device import CPU_BATCH, cpu_has_native_bf16
from hybrid.encoders import clip, load_encoder
from hybrid.encoders.clip import CONFIG_FILE, TEXT_BATCH, TINY_FOLDER, ClipEncoder

WEIGHTS = "open_clip_model.safetensors"
PREPROCESS = {"std": [0.3, 0.3, 0.2]}  # as tests/conftest.py writes it
TINY_TEXT = {
    "embed_dim": 32,
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TIMM_TOWER = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}


def load(folder: Path, precision: str = "fp32") -> ClipEncoder:
    encoder = load_encoder(EncoderSettings(model=str(folder), precision=precision), "cpu")
    assert isinstance(encoder, ClipEncoder)
    return encoder


def embed(encoder: ClipEncoder, images: Sequence[Image.Image]) -> np.ndarray:
    return encoder.encode_images([encoder.prepare(image, None) for image in images])


@torch.inference_mode()
def open_clips_own(folder: Path, images: Sequence[Image.Image]) -> np.ndarray:
    """fp32 vectors by open_clip's own loader, transform and `encode_image`, image by image."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", precision="fp32")
    model.eval()
    return torch.cat([model.encode_image(transform(image)[None], normalize=True) for image in images]).numpy()


@pytest.fixture(scope="module")
def images(image) -> list[Image.Image]:
    """Images of different shapes: tall, wide, small, large."""
    return [image(seed, (40 + 17 * (seed % 5), 30 + 23 * (seed % 7))) for seed in range(16)]


@pytest.fixture(scope="module")
def fp32(clip_folder) -> ClipEncoder:
    return load(clip_folder)


@pytest.fixture(scope="module")
def deep_clip(make_clip, tmp_path_factory) -> Path:
    """The default model's image tower (ViT-B/32 at 256 pixels) in its full depth and half its width."""
    vision = {**open_clip.get_model_config("ViT-B-32-256")["vision_cfg"], "width": 384}
    return make_clip(tmp_path_factory.mktemp("clip") / "deep", config={**TINY_TEXT, "vision_cfg": vision})


@pytest.fixture(scope="module")
def timm_clip(make_clip, tmp_path_factory) -> Path:
    """A CLIP whose image tower is timm's: open_clip puts it in half precision as a whole."""
    return make_clip(tmp_path_factory.mktemp("clip") / "timm", config={**TINY_TEXT, "vision_cfg": TIMM_TOWER})


# Vectors


@pytest.mark.parametrize("model", ["clip_folder", "timm_clip", "deep_clip"])
def test_vectors_are_open_clips_own_and_half_precision_stays_near_them(model, images, request):
    folder = request.getfixturevalue(model)
    expected = open_clips_own(folder, images)
    full, half = (embed(load(folder, precision), images) for precision in ("fp32", "bf16"))
    assert np.einsum("ij,ij->i", full, expected).min() > 0.99999
    cosine = half @ expected.T
    assert cosine.diagonal().min() >= 0.999
    # Not because all images look alike to random weights: each vector finds its own image.
    assert np.array_equal(cosine.argmax(axis=1), np.arange(len(images)))
    assert np.sort(cosine, axis=1)[:, 0].min() < 0.99
    assert not np.array_equal(half, full)


def test_vectors_are_float32_of_unit_norm(clip_folder, images):
    for encoder in (load(clip_folder), load(clip_folder, "bf16")):
        for vectors, count in ((embed(encoder, images), len(images)), (encoder.encode_texts(["a cat", "a dog"]), 2)):
            assert vectors.dtype == np.float32
            assert vectors.shape == (count, encoder.dim) == (count, 32)
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_batch_of_prepared_images_is_open_clips_own_tensor(clip_folder, fp32, images):
    """To two gray levels, once in a hundred pixels: torch and Pillow round each of the two directions."""
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    prepared = [fp32.prepare(image, None) for image in images]
    assert {(one.shape, one.dtype) for one in prepared} == {((32, 32, 3), np.dtype(np.uint8))}
    std = torch.tensor(PREPROCESS["std"]).view(3, 1, 1)
    levels = (fp32.batch(prepared) - torch.stack([transform(image) for image in images])).abs() * std * 255
    assert levels.max() < 2.01
    assert levels.mean() < 0.02
    assert fp32.batch(prepared).dtype == torch.float32


def test_text_vectors_are_open_clips_own(clip_folder, fp32):
    texts = ["a photo of a cat", "sea horse", "ein Äffchen", ""]
    model = open_clip.create_model(f"local-dir:{clip_folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{clip_folder}")(texts)
    with torch.inference_mode():
        expected = model.encode_text(tokens, normalize=True).numpy()
    assert np.allclose(fp32.encode_texts(texts), expected, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_vector_of_a_text_is_the_same_whatever_else_is_asked(clip_folder, precision):
    """An answer must not depend on what was asked before it, or with it."""
    encoder = load_encoder(EncoderSettings(model=str(clip_folder), precision=precision), "cpu")
    texts = [f"a photo of {'many ' * (number % 7)}number {number}" for number in range(5 * TEXT_BATCH + 1)]
    together = encoder.encode_texts(texts)
    assert together.shape == (len(texts), 32)
    order = np.random.default_rng(0).permutation(len(texts))
    assert np.array_equal(encoder.encode_texts([texts[index] for index in order]), together[order])
    for index in (0, 1, TEXT_BATCH, len(texts) - 1):
        assert np.array_equal(encoder.encode_texts([texts[index]])[0], together[index])
    assert len(np.unique(together, axis=0)) == len(texts)


def test_texts_that_are_longer_than_the_context(fp32):
    room = fp32._tokenizer.context_length - 2  # the start and the end take one each
    texts = ["ox", "ox " * room, "ox " * (room + 1), "red " * 200 + "ox", "ox " * (room - 1) + "."]
    assert fp32.truncated(texts) == [False, False, True, True, False]
    assert fp32.truncated([]) == []
    one, other = fp32.encode_texts(["red " * 200 + "ox", "red " * 200 + "yak"])
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_an_encoder_says_of_itself(fp32):
    assert fp32.min_side == 3 * 32
    assert fp32.batch_size == CPU_BATCH
    assert fp32.encode_images([]).shape == fp32.encode_texts([]).shape == (0, 32)
    assert fp32.can_encode(["a cat", ""]) == [True, True]
    assert fp32.check([]) is None
    assert not fp32._model.training
    assert not any(parameter.requires_grad for parameter in fp32._model.parameters())


def test_half_precision_does_not_round_the_logit_scale(timm_clip, tmp_path):
    folder = Path(shutil.copytree(timm_clip, tmp_path / "model"))
    state = load_file(folder / WEIGHTS)
    state["logit_scale"] = torch.tensor(math.log(100))
    save_file(state, folder / WEIGHTS)
    for precision in ("fp32", "bf16"):
        assert load(folder, precision).logit_scale == pytest.approx(100, rel=1e-6)


def test_auto_precision_follows_the_processor_and_the_notes_say_why(clip_folder):
    encoder = load(clip_folder, "auto")
    note, _ = encoder.notes
    assert f"on cpu {'bf16' if cpu_has_native_bf16() else 'fp32'} (" in note
    assert "32 numbers a photo" in note
    assert str(clip_folder) in note


@pytest.mark.skipif(not (TINY_FOLDER / CONFIG_FILE).is_file(), reason="the bundled model is not built yet")
def test_the_bundled_model_loads_by_its_name(images):
    encoder = load_encoder(EncoderSettings(model="tiny"), "cpu")
    assert embed(encoder, images[:2]).shape == (2, encoder.dim)
    assert 1 < encoder.logit_scale <= 100.1


# Names


def test_an_encoder_is_named_by_its_weights_preprocessing_precision_and_pixels(
    clip_folder, fp32, tmp_path, monkeypatch
):
    folder = Path(shutil.copytree(clip_folder, tmp_path / "elsewhere" / "copy"))
    (folder / "README.md").write_text("not weights")
    copied = load(folder)
    assert (copied.identity, copied.fingerprint) == (fp32.identity, fp32.fingerprint)
    assert copied.name != fp32.name
    state = load_file(folder / WEIGHTS)
    state["visual.proj"][0, 0] += 1e-3
    save_file(state, folder / WEIGHTS)
    others = [load(folder)]
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    others += [load(folder), fp32]
    assert len({other.identity for other in others}) == len({other.fingerprint for other in others}) == 3
    # Vectors of images that were decoded or resized otherwise are not mixed with these; gates and heads stay.
    half = load(clip_folder, "bf16")
    monkeypatch.setattr(clip, "PIXELS", clip.PIXELS + 1)
    others = [fp32, half, load(clip_folder)]
    assert {other.identity for other in others} == {fp32.identity}
    assert len({other.fingerprint for other in others}) == 3
