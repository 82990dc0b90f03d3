from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hybrid.device import Compute
from hybrid.heads import score
from hybrid.heads.linear import LinearHead
from hybrid.heads.nets.backbone_head import BackboneHead
from hybrid.heads.score import head_logits
from hybrid.heads.transforms import transforms
from hybrid.images.pipeline import read_and_decode
from hybrid.images.preprocess import to_picture


class PixelHead:
    """Scores an image by its mean color, and counts what goes through it."""

    classes, encoder_identity, notes = ("r", "g", "b"), None, ()
    min_side, batch_size = None, 7

    def __init__(self) -> None:
        self.batches: list[int] = []

    def prepare(self, image):
        return np.asarray(to_picture(image), np.float32).mean((0, 1))

    def logits(self, prepared, embeddings):
        assert embeddings.shape == (0, 0)
        self.batches.append(len(prepared))
        return np.stack(prepared)


def test_pixels_are_read_in_batches_and_in_order(colored):
    images = colored((1, 1, 1), (3, 4, 5)).val
    for batch_size, batches in ((5, [5, 5, 2]), (None, [7, 5])):
        head = PixelHead()
        logits = head_logits(head, images, batch_size=batch_size)
        assert head.batches == batches
        for row, record in enumerate(images.records):
            expected = np.asarray(read_and_decode(record), np.float32).mean((0, 1))
            np.testing.assert_allclose(logits[row], expected, rtol=1e-6)


def test_a_head_that_reads_embeddings_reads_no_image(colored, monkeypatch):
    rng = np.random.default_rng(0)
    images = replace(colored((1, 1, 1), (3, 4, 5)).val, embeddings=rng.normal(size=(12, 4)).astype(np.float32))
    weight, bias = rng.normal(size=(3, 4)).astype(np.float32), np.array([1, 2, 3], np.float32)
    monkeypatch.setattr(score, "read_batches", lambda *given, **options: pytest.fail("a photo was read"))
    logits = head_logits(LinearHead(weight, bias, ("r", "g", "b"), "identity"), images)
    np.testing.assert_allclose(logits, images.embeddings @ weight.T + bias, rtol=1e-4, atol=1e-5)


def test_a_networks_logits(colored, recipe, start):
    images, settings = colored((1, 1, 1), (2, 2, 2)).val, recipe()
    model = start(settings)
    head = BackboneHead(model, ("r", "g", "b"), settings, Compute("cpu", "fp32", "test"))
    with torch.inference_mode():
        _, plain = transforms(model, settings)
        expected = [model(plain(read_and_decode(record))[None])[0].numpy() for record in images.records]
    np.testing.assert_allclose(head_logits(head, images, batch_size=4), expected, atol=1e-4)
