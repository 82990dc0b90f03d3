"""On real images: what our decoding and preprocessing gives, against the model libraries' own on the whole image."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.device import Compute
from hybrid.encoders import load_encoder
from hybrid.encoders.clip import TINY_FOLDER
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.nets.backbone_head import BackboneHead
from hybrid.heads.transforms import transforms
from hybrid.images.decode import decode
from hybrid.images.decoders import LibjpegTurbo

DATA = os.environ.get("HYBRID_DATA")
CPU = Compute("cpu", "fp32", "test")
on_real_data = [
    pytest.mark.real_data,
    pytest.mark.skipif(DATA is None, reason="HYBRID_DATA is not set: no real photos to test on"),
]
# Two images of 640 x 427 that come with scikit-learn.
SAMPLES = [Path(name) for name in load_sample_images().filenames]


def caltech(count: int, shortest: int = 0) -> list[Path]:
    """Images of the test split in an order of chance, always the same."""
    files = sorted((Path(DATA) / "caltech101" / "test").rglob("*.jpg"))
    random.Random(0).shuffle(files)
    return [file for file in files if not shortest or min(Image.open(file).size) >= shortest][:count]


def tiny() -> SimpleNamespace:
    """The bundled CLIP."""
    encoder = load_encoder(EncoderSettings(model="tiny", precision="fp32"), "cpu")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # that its weights are random; only the transform is used
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{TINY_FOLDER}", load_weights=False)
    logging.disable(before)
    return SimpleNamespace(
        transform=transform,
        min_side=encoder.min_side,
        ours=lambda image: encoder.batch([encoder.prepare(image, None)]),
        features=encoder.tower,
    )


def mobile_net() -> SimpleNamespace:
    """ImageNet's MobileNetV2 as a head's backbone, at the size it was trained at."""
    settings = HeadSettings(
        backbone="mobilenetv2_100",
        backbone_weights=str(Path(DATA) / "backbones" / "mobilenetv2_100.safetensors"),
        backbone_args={"pad_type": "same"},
        image_size=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    model = build_model(settings.model, 10)
    head = BackboneHead(model, tuple("abcdefghij"), settings, CPU)
    return SimpleNamespace(
        transform=transforms(model, settings)[1],
        min_side=head.min_side,
        ours=lambda image: head.batch([head.prepare(image)]),
        features=head.model.backbone,
    )


@torch.inference_mode()
def cosines(model: SimpleNamespace, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Of the features of each image by both ways, and whether it was decoded at a part of its size."""
    similarity, scaled = [], []
    for file in files:
        data = file.read_bytes()
        whole, part = decode(data), LibjpegTurbo().decode(data, model.min_side)
        ours, library = model.features(model.ours(part)), model.features(model.transform(whole)[None])
        similarity.append(float(F.cosine_similarity(ours, library)))
        scaled.append(part.rgb.shape[0] < whole.height)
    return np.array(similarity), np.array(scaled)


def test_the_bundled_encoder_on_two_images():
    """Decoded at 4/8."""
    found, scaled = cosines(tiny(), SAMPLES)
    assert scaled.all()
    assert found.min() > 0.9999


class TestCaltech:
    pytestmark = on_real_data

    def test_the_bundled_encoder(self):
        """Decoded whole, no side being six times as long as the encoder's 64 pixels."""
        found, scaled = cosines(tiny(), caltech(150))
        assert not scaled.any()
        assert found.min() > 0.99999

    def test_less_than_three_times_the_size_would_not_do(self, monkeypatch):
        """Why `OVERSAMPLING` is 3: images with sides of 256 to 300 pixels, decoded at 4/8, some fall below .999."""
        monkeypatch.setattr("hybrid.images.steps.OVERSAMPLING", 2)
        found, scaled = cosines(tiny(), caltech(200, shortest=256))
        assert scaled.all()
        assert found.mean() > 0.9997
        assert 0.99 < found.min() < 0.999

    def test_mobilenet_at_its_own_size(self):
        """Measured over 200: mean .999996, least .99998."""
        found, _ = cosines(mobile_net(), [*caltech(40), *SAMPLES])
        assert found.min() > 0.999
        assert found.mean() > 0.9999
