from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid.errors import ConfigError, MissingExtraError
from hybrid.tools.explain.attribution import attribute, grad_cam, superpixels
from hybrid.tools.explain.explanation import METHODS


class Corner(nn.Module):
    """Two logits: how bright the upper left quarter is, and minus that."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        bright = images[:, :, : height // 2, : width // 2].mean(dim=(1, 2, 3))
        return torch.stack([bright, -bright], dim=1)


def image(size: int = 32) -> torch.Tensor:
    """Noise around a bright gray, so that hiding any place matters if the network looks there."""
    return 1 + 0.2 * torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def small_cnn(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, 2, 1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ).eval()


def test_grad_cam_against_the_formula():
    model, picture = small_cnn(), image()
    features = model[:4](picture).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(model[4:](features)[0, 1], features)
    cam = F.relu((slope.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1, keepdim=True))
    expected = F.interpolate(cam, (32, 32), mode="bilinear")[0, 0].detach().numpy()
    attribution = attribute(model, picture, 1)
    np.testing.assert_allclose(attribution.values, expected, atol=1e-6)
    assert (attribution.layer, attribution.grid, attribution.method) == ("3", (8, 8), "Grad-CAM")
    assert expected.any() == (attribution.note is None)


def test_the_place_that_matters_is_found():
    for method in METHODS[1:]:
        attribution = attribute(Corner(), image(), 0, method)
        assert attribution.values.shape == (32, 32)
        positive = np.maximum(attribution.values, 0)
        assert positive[:16, :16].sum() / positive.sum() > 0.75, method
        assert attribution.layer is None
        # What speaks for one class speaks against the other; a magnitude has no sign.
        if method != "integrated-gradients":
            assert attribute(Corner(), image(), 1, method).values[:16, :16].mean() < 0, method


def test_samples_are_the_same_each_time_and_the_callers_random_numbers_are_left_alone():
    for method in ("shap", "lime"):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first, second = (attribute(Corner(), image(), 0, method).values for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert torch.get_rng_state().equal(state)


def test_shap_sums_to_the_difference_from_gray():
    picture = image()
    pieces = superpixels(picture)
    attribution = attribute(Corner(), picture, 0, "shap").values
    values = [attribution[pieces == piece][0] for piece in range(pieces.max() + 1)]
    difference = Corner()(picture)[0, 0] - Corner()(torch.zeros_like(picture))[0, 0]
    assert sum(values) == pytest.approx(float(difference), rel=0.02)


def test_gradients_where_no_layer_is_a_map_and_blank_maps():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight.view(2, 3, 16, 16)[0, :, :4, :4] = 1
    attribution = grad_cam(model, image(16), 0)
    assert attribution.method.startswith("saliency")
    assert "no Grad-CAM" in attribution.note
    assert attribution.values[:4, :4].mean() > 100 * attribution.values[8:, 8:].mean()
    # A blank map says so, and a blank image has superpixels too.
    model = small_cnn()
    with torch.no_grad():
        model[-1].weight.copy_(-model[-1].weight.abs())
    attribution = attribute(model, image(), 0)
    assert not attribution.values.any()
    assert "zero everywhere" in attribution.note
    assert superpixels(torch.zeros(1, 3, 16, 16)).shape == (16, 16)
    assert np.isfinite(attribute(Corner(), torch.zeros(1, 3, 16, 16), 0, "lime").values).all()


def test_errors(monkeypatch):
    with pytest.raises(ConfigError, match="unknown method"):
        attribute(Corner(), image(), 0, "guess")
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingExtraError, match=r"scikit-image.*\n.*explain"):
        attribute(Corner(), image(), 0, "lime")
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match="captum"):
        attribute(Corner(), image(), 0, "occlusion")
