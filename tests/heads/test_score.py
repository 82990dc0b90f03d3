from __future__ import annotations

import numpy as np
import pytest
import torch

from hybrid.heads import score
from hybrid.heads.linear import LinearHead
from hybrid.heads.score import head_logits
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


@pytest.mark.parametrize(("asked", "batches"), [(5, [5, 5, 2]), (None, [7, 5])])
def test_pixels_are_read_in_batches_and_in_order(colored, asked, batches):
    images = colored((1, 1, 1), (3, 4, 5)).val
    head = PixelHead()
    found = head_logits(head, images, batch_size=asked)
    assert head.batches == batches
    for row, record in enumerate(images.records):
        expected = np.asarray(read_and_decode(record), np.float32).mean((0, 1))
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


def test_a_head_that_reads_embeddings_reads_no_image(colored, monkeypatch):
    images = colored((1, 1, 1), (3, 4, 5)).val
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 4)).astype(np.float32)
    weight, bias = rng.normal(size=(3, 4)).astype(np.float32), np.array([1, 2, 3], np.float32)
    object.__setattr__(images, "embeddings", vectors)
    monkeypatch.setattr(score, "read_batches", lambda *given, **options: pytest.fail("a photo was read"))
    found = head_logits(LinearHead(weight, bias, ("r", "g", "b"), "identity"), images)
    expected = [[float(np.dot(v, w)) + b for w, b in zip(weight, bias, strict=True)] for v in vectors]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_networks_logits(colored, recipe):
    from hybrid.device import Compute
    from hybrid.heads.nets.backbone import build_model
    from hybrid.heads.nets.backbone_head import BackboneHead
    from hybrid.heads.transforms import transforms

    images = colored((1, 1, 1), (2, 2, 2)).val
    torch.manual_seed(0)
    model = build_model(recipe().model, 3)
    head = BackboneHead(model, ("r", "g", "b"), recipe(), Compute("cpu", "fp32", "test"))
    with torch.inference_mode():
        _, plain = transforms(model, recipe())
        expected = [model(plain(read_and_decode(record))[None])[0].numpy() for record in images.records]
    np.testing.assert_allclose(head_logits(head, images, batch_size=4), expected, atol=1e-4)
