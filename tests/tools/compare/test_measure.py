from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hybrid.errors import MetricError
from hybrid.tools.compare import measure


def test_scores_by_hand():
    target = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 2, 1])
    scores = measure.score(predicted, target, ["a", "b", "c"])
    assert scores.accuracy == pytest.approx(3 / 6)
    assert [c.precision for c in scores.classes] == pytest.approx([1, 1 / 3, 0])
    assert [c.recall for c in scores.classes] == pytest.approx([2 / 3, 1 / 2, 0])
    assert [c.support for c in scores.classes] == [3, 2, 1]
    assert scores.macro_precision == pytest.approx(4 / 9)
    assert scores.macro_recall == pytest.approx(7 / 18)
    # A class without test images is not in the means.
    scores = measure.score(np.array([0, 0, 2, 1]), np.array([0, 0, 1, 1]), ["a", "b", "c", "d"])
    assert scores.macro_recall == pytest.approx((1 + 1 / 2) / 2)
    assert scores.macro_precision == pytest.approx(1)
    assert scores.classes[3].support == 0
    with pytest.raises(MetricError):
        measure.score(np.array([2]), np.array([0]), ["a", "b"])


def test_operations_of_a_convolution_and_of_a_transformer_block():
    layer, image = nn.Conv2d(3, 8, kernel_size=3, stride=2, bias=False), torch.zeros(1, 3, 11, 11)
    # 5 x 5 places, 8 channels, each a sum of 27 products: a multiply and an add
    assert measure.count_operations(lambda: layer(image)) == 2 * 5 * 5 * 8 * 27
    block, tokens = nn.TransformerEncoderLayer(64, 4, batch_first=True, dim_feedforward=128).eval(), 10
    linear = 2 * tokens * (64 * 192 + 64 * 64 + 2 * 64 * 128)
    attention = 2 * 2 * tokens * tokens * 64
    image = torch.zeros(1, tokens, 64)
    before = torch.backends.mha.get_fastpath_enabled()
    assert measure.count_operations(lambda: block(image)) == linear + attention
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_parameters_of_what_runs():
    image, text = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)), nn.Linear(7, 7)
    image[2].weight = nn.Parameter(torch.zeros(5, 4))
    assert measure.count_parameters(lambda: image(torch.zeros(1, 3))) == 3 * 4 + 4 + 4 * 5 + 5
    assert measure.count_parameters(lambda: text(torch.zeros(1, 7))) == 56
    shared = nn.Sequential(text, text)
    assert measure.count_parameters(lambda: shared(torch.zeros(1, 7))) == 56
    assert measure.count_parameters(lambda: None) == 0


def test_speed_is_the_median_after_a_warm_up(monkeypatch):
    sizes, clock = [], iter([0, 4, 10, 10.5, 20, 21])  # 4 s, 0.5 s and 1 s
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    assert measure.images_per_second(lambda batch: sizes.append(len(batch)), [1, 2, 3], repeats=3) == 32
    assert sizes == [32] * 4
