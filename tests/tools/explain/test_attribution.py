from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybrid.errors import ConfigError, MissingExtraError
from hybrid.tools.explain.attribution import METHODS, attribute, grad_cam, superpixels


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
    found = attribute(model, picture, 1)
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert (found.layer, found.grid, found.method) == ("3", (8, 8), "Grad-CAM")
    assert expected.any() == (found.note is None)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "gradcam"])
def test_the_place_that_matters_is_found(method):
    found = attribute(Corner(), image(), 0, method)
    assert found.values.shape == (32, 32)
    positive = np.maximum(found.values, 0)
    assert positive[:16, :16].sum() / positive.sum() > 0.75
    assert found.layer is None
    # What speaks for one class speaks against the other; a magnitude has no sign.
    if method != "integrated-gradients":
        against = attribute(Corner(), image(), 1, method)
        assert against.values[:16, :16].mean() < 0


@pytest.mark.parametrize("method", ["shap", "lime"])
def test_samples_are_the_same_each_time(method):
    before = torch.get_rng_state()
    first, second = (attribute(small_cnn(), image(), 0, method) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    attribute(Corner(), image(), 0, method)
    assert torch.get_rng_state().equal(state), "the caller's random numbers are left alone"
    torch.set_rng_state(before)


def test_shap_sums_to_the_difference_from_gray():
    picture = image()
    pieces = superpixels(picture)
    found = attribute(Corner(), picture, 0, "shap").values
    values = [found[pieces == piece][0] for piece in range(pieces.max() + 1)]
    difference = Corner()(picture)[0, 0] - Corner()(torch.zeros_like(picture))[0, 0]
    assert sum(values) == pytest.approx(float(difference), rel=0.02)


def test_gradients_where_no_layer_is_a_map():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight.view(2, 3, 16, 16)[0, :, :4, :4] = 1
    found = grad_cam(model, image(16), 0)
    assert found.method.startswith("saliency")
    assert "no Grad-CAM" in found.note
    assert found.values[:4, :4].mean() > 100 * found.values[8:, 8:].mean()


def test_a_blank_map_says_so():
    model = small_cnn()
    with torch.no_grad():
        model[-1].weight.copy_(-model[-1].weight.abs())
    found = attribute(model, image(), 0)
    assert not found.values.any()
    assert "zero everywhere" in found.note


def test_one_color_has_superpixels_too():
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
