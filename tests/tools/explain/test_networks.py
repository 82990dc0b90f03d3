from __future__ import annotations

import numpy as np
import pytest
import torch

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.tools.explain.attribution import attribute
from hybrid.tools.explain.networks import TextSimilarity, seen_pixels

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}


@pytest.mark.parametrize("vision", [None, RESNET, TIMM], ids=["vit", "resnet", "timm"])
def test_every_kind_of_tower(vision, make_clip, clip_folder, tmp_path, image):
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT}
    folder = make_clip(tmp_path / "clip", config=config) if vision else clip_folder
    encoder = load_encoder(EncoderSettings(model=str(folder), precision="bf16"), "cpu")
    text = encoder.encode_texts(["a zebra"])[0]
    prepared = encoder.prepare(image(1), None)
    pixels = encoder.batch([prepared]).float()
    model = TextSimilarity(encoder.tower, text)
    # In float32, and what the encoder says in bf16.
    assert model(pixels).dtype == torch.float32
    expected = encoder.encode_images([prepared])[0] @ text
    assert float(model(pixels)[0, 0]) == pytest.approx(float(expected), abs=0.02)
    values = attribute(model, pixels, 0, "integrated-gradients").values
    assert values.shape == pixels.shape[-2:]
    assert np.isfinite(values).all()
    assert values.max() > 0
    # The encoder itself stays as it was.
    assert torch.bfloat16 in {weight.dtype for weight in encoder.tower.parameters()}


def test_pixels_as_the_network_sees_them(clip_folder, image):
    encoder = load_encoder(EncoderSettings(model=str(clip_folder), precision="fp32"), "cpu")
    picture = image(3, (32, 32))

    def prepare(picture):
        return encoder.batch([encoder.prepare(picture, None)])

    seen = seen_pixels(prepare, prepare(picture))
    np.testing.assert_allclose(seen, np.asarray(picture) / 255, atol=1e-4)
