"""The fast path through a ViT, held against open_clip's own, on tiny random towers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid.config import EncoderSettings
from hybrid.device import Compute, cpu_has_native_bf16
from hybrid.encoders import fast_path, load_encoder
from hybrid.encoders.fast_path import MIN_BATCH, FastViT, ImageTower, has_fast_path
from hybrid.errors import HybridWarning

FP32, BF16 = Compute("cpu", "fp32", "test"), Compute("cpu", "bf16", "test")
VISION = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
KNOWN: dict[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
    "plain": ({}, {}),
    "one block": ({"layers": 1}, {}),
    "QuickGELU": ({}, {"quick_gelu": True}),
    "layer scale": ({"ls_init_value": 0.1}, {}),
    "no first norm": ({"no_ln_pre": True}, {}),
    "norm after the pool": ({"final_ln_after_pool": True}, {}),
    "fixed positions": ({"pos_embed_type": "sin_cos_2d"}, {}),
    "patch dropout": ({"patch_dropout": 0.5}, {}),
    "another width within": ({"mlp_ratio": 2.5}, {}),
    "one head": ({"head_width": 64}, {}),
    "no projection": ({}, {}),
    "another container of a text tower": ({}, {"kind": open_clip.CustomTextCLIP}),
    "two blocks of the default": ({**open_clip.get_model_config("ViT-B-32-256")["vision_cfg"], "layers": 2}, {}),
}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
REFUSED = {
    "mean of all tokens": {**VISION, "pool_type": "avg"},
    "no pool": {**VISION, "pool_type": "none"},
    "attention pool": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2},
    "all tokens": {**VISION, "output_tokens": True},
    "norms of queries and keys": {**VISION, "qk_norm": True},
    "another attention": {**VISION, "scaled_cosine_attn": True},
    "timm": TIMM,
    "ResNet": RESNET,
}


def build(vision: Mapping[str, object] = VISION, kind: type[nn.Module] = open_clip.CLIP, **more: object) -> nn.Module:
    """A CLIP whose every weight is random, biases and norms too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(32, dict(vision), TEXT, **more).eval().requires_grad_(False)
        for weight in model.visual.parameters():
            if weight.ndim < 2:
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def pixels(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def similar(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(F.cosine_similarity(found.float(), expected.float()).min())


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


# The same embeddings


@pytest.mark.parametrize("name", KNOWN)
def test_fp32_is_open_clips_own_and_bf16_as_near_to_it(name):
    """Packed where the processor computes bf16, else plain; measured: 1 - cosine is 4e-5 for both."""
    vision, more = KNOWN[name]
    model = build({**VISION, **vision}, **more)
    if name == "no projection":
        model.visual.proj = None
    assert has_fast_path(model)
    images = pixels(9, model.visual.image_size[0])
    found, exact = FastViT(model.visual, FP32)(images), model.encode_image(images)
    assert found.shape == exact.shape
    assert torch.allclose(found, exact, atol=1e-5)
    half = model.to(torch.bfloat16)
    found, own = FastViT(half.visual, BF16)(images.bfloat16()), half.encode_image(images.bfloat16())
    assert found.dtype == torch.bfloat16
    assert similar(found, own) > 0.9998
    assert similar(found, exact) > 0.9998


@pytest.mark.parametrize("supported", [True, False])
def test_weights_are_packed_only_where_the_processor_computes_bf16(monkeypatch, supported):
    """Elsewhere oneDNN refuses to pack them (to be seen with ONEDNN_MAX_CPU_ISA=AVX2)."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    made = []
    for name in ("_packed", "_plain"):
        make = getattr(fast_path, name)
        monkeypatch.setattr(fast_path, name, lambda *given, name=name, make=make: made.append(name) or make(*given))
    if supported and not cpu_has_native_bf16():
        pytest.skip("this processor computes no bf16")
    half = build().to(torch.bfloat16)
    found = FastViT(half.visual, BF16)(pixels(9).bfloat16())
    assert set(made) == {"_packed" if supported else "_plain"}
    assert similar(found, half.encode_image(pixels(9).bfloat16())) > 0.9998
    made.clear()
    FastViT(build().visual, FP32)
    FastViT(half.visual, Compute("cuda", "bf16", "test"))
    assert set(made) == {"_plain"}


# Which towers, and when


@pytest.mark.parametrize("name", REFUSED)
def test_other_towers_are_open_clips_own(name):
    model = build(REFUSED[name])
    assert not has_fast_path(model)
    if name in ("no pool", "all tokens", "another attention"):
        return  # open_clip 3.3 gives no single embedding for the first two, and fails in the third
    size = REFUSED[name]["image_size"]
    found = ImageTower(model, FP32)(pixels(MIN_BATCH, size))
    assert torch.equal(found, model.encode_image(pixels(MIN_BATCH, size)))


def test_coca_is_open_clips_own():
    several = {**TEXT, "mlp_ratio": 4}
    pooled = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    model = open_clip.CoCa(32, several, {**TEXT, "embed_cls": True, "output_tokens": True}, pooled)
    model = model.eval().requires_grad_(False)
    assert not has_fast_path(model)
    assert torch.equal(ImageTower(model, FP32)(pixels(MIN_BATCH)), model.encode_image(pixels(MIN_BATCH)))


def test_a_changed_block_class_is_not_known():
    class Block(open_clip.transformer.ResidualAttentionBlock):
        pass

    model = build()
    model.visual.transformer.resblocks[1].__class__ = Block
    assert not has_fast_path(model)


def count_fast(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note down how many images take the fast path at a time."""
    counts: list[int] = []
    call = FastViT.__call__
    monkeypatch.setattr(FastViT, "__call__", lambda self, images: counts.append(len(images)) or call(self, images))
    return counts


def test_a_few_images_take_open_clips_own_path(monkeypatch):
    counts, tower = count_fast(monkeypatch), ImageTower(build(), FP32)
    for _ in range(3):
        tower(pixels(MIN_BATCH - 1))
    assert counts == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said where both agree
        tower(pixels(MIN_BATCH))
    assert counts == [2, MIN_BATCH]  # compared on two
    tower(pixels(MIN_BATCH + 3))
    tower(pixels(1))
    assert counts[2:] == [MIN_BATCH + 3], "by its own size, so that a killed run goes on to the same embeddings"


# The comparison


def add_something(block: nn.Module) -> None:
    forward = block.forward
    block.forward = lambda *given, **named: forward(*given, **named) + torch.linspace(-1, 1, 64)


def not_a_number(block: nn.Module) -> None:
    block.forward = lambda *given, **named: given[0] * float("nan")


@pytest.mark.parametrize("index", [0, -1])
@pytest.mark.parametrize("change", [add_something, not_a_number])
def test_a_tower_that_computes_otherwise_is_found_out(change: Callable[[nn.Module], None], index):
    model = build()
    change(model.visual.transformer.resblocks[index])
    assert has_fast_path(model), "nothing but its numbers tells"
    tower, expected = ImageTower(model, FP32), model.encode_image(pixels(MIN_BATCH))
    with pytest.warns(HybridWarning, match=r"fast path through this ViT gives other embeddings \(cosine") as caught:
        found = tower(pixels(MIN_BATCH))
    assert len(caught) == 1
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert torch.equal(tower(pixels(MIN_BATCH)).nan_to_num(), expected.nan_to_num())


# In the encoder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_gives_the_same_vectors_for_few_and_for_many(clip_folder, image, monkeypatch, precision):
    counts = count_fast(monkeypatch)
    encoder = load_encoder(EncoderSettings(model=str(clip_folder), precision=precision), "cpu")
    prepared = [encoder.prepare(image(seed), None) for seed in range(12)]
    few = np.concatenate([encoder.encode_images(prepared[start : start + 3]) for start in range(0, 12, 3)])
    assert counts == []
    many = encoder.encode_images(prepared)
    assert counts == [2, 12]
    cosine = few @ many.T
    assert cosine.diagonal().min() > (0.9998 if precision == "bf16" else 0.999999)
    assert np.array_equal(cosine.argmax(axis=1), np.arange(12))
