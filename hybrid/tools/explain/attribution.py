"""Which parts of an image an output of a network depends on, by the methods of Captum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hybrid.errors import ConfigError, MissingExtraError
from hybrid.tools.explain.explanation import EXTRA, METHODS
from hybrid.tools.explain.layers import find_map_layer

# Counts of network calls, so that each method takes seconds on two cores.
SEGMENTS, SAMPLES, STEPS = 40, 160, 12
BATCH = 16
FEWEST_SEGMENTS = 8
# A window of the occlusion, and its step, as shares of the image's side.
WINDOW, STRIDE = 5, 14
# Of the smoothing of a map that is noisy from pixel to pixel, as a share of the image's side.
SMOOTHING = 40


@dataclass(frozen=True)
class Attribution:
    """A map over what a network saw.

    Attributes
    ----------
    values : (height, width) float64
        How much each place speaks for the output; below zero: against it. Comparable within one map only.
    method : str
        What made it, in words.
    layer : str or None
        The layer that it was read from; None where the pixels themselves were asked.
    grid : (int, int) or None
        Places of that layer.
    note : str or None
        Why it is not the method that was asked for, or why it is blank.
    """

    values: NDArray[np.float64]
    method: str
    layer: str | None = None
    grid: tuple[int, int] | None = None
    note: str | None = None


def attribute(model: nn.Module, image: Tensor, target: int, method: str = "gradcam", seed: int = 0) -> Attribution:
    """Attribute one output of a network to the places of its input.

    Parameters
    ----------
    model : nn.Module
        In eval mode, float32, (n, 3, height, width) to (n, outputs).
    image : (1, 3, height, width) float32
        Normalized, so that 0 is a mean gray: what the perturbing methods put in the place of what they hide.
    target : int
        Which output.
    method : {"gradcam", "shap", "lime", "occlusion", "integrated-gradients"}
        Grad-CAM (Selvaraju et al., ICCV 2017) at the layer that `hybrid.tools.explain.layers.find_map_layer` finds;
        where there is none, the gradient's magnitude (Simonyan et al. 2014). Kernel SHAP (Lundberg & Lee, NeurIPS
        2017) and LIME (Ribeiro et al., KDD 2016) over SLIC superpixels. Occlusion (Zeiler & Fergus, ECCV 2014) with
        a sliding window. Integrated gradients (Sundararajan et al., ICML 2017) from gray, as magnitude, smoothed.
    seed : int
        Of the random samples of SHAP and LIME.

    Raises
    ------
    ConfigError
        If the method is unknown.
    MissingExtraError
        If Captum or scikit-image is not installed.
    """
    makers: dict[str, Callable[[nn.Module, Tensor, int], Attribution]] = {
        "gradcam": grad_cam,
        "shap": partial(_by_superpixels, method=method, seed=seed),
        "lime": partial(_by_superpixels, method=method, seed=seed),
        "occlusion": _occlusion,
        "integrated-gradients": _integrated_gradients,
    }
    if method not in makers:
        raise ConfigError(
            "unknown method of explanation", expected=", ".join(METHODS), got=method, fix="take one of these"
        )
    attribution = makers[method](model, image, target)
    if not attribution.values.any() and attribution.note is None:
        note = f"{attribution.method} is zero everywhere: no place speaks for this class by it"
        return replace(attribution, note=note)
    return attribution


def grad_cam(model: nn.Module, image: Tensor, target: int, least_side: int | None = None) -> Attribution:
    """Grad-CAM, or the gradient's magnitude where no layer is a map; see `attribute` and `find_map_layer`."""
    attr = _captum()
    layer = find_map_layer(model, image, target, *(() if least_side is None else (least_side,)))
    if layer is None:
        saliency = attr.Saliency(model).attribute(image.detach().requires_grad_(True), target=target)
        note = "the network has no layer that keeps places apart, so no Grad-CAM; gradients of the pixels instead"
        return Attribution(_smooth(saliency.sum(dim=1)), "saliency (gradient's magnitude)", note=note)
    with layer.tapped() as tap:
        inputs = image.detach().requires_grad_(True)
        coarse = attr.LayerGradCam(model, tap).attribute(inputs, target=target, relu_attributions=True)
    fine = attr.LayerAttribution.interpolate(coarse, tuple(image.shape[-2:]), "bilinear")
    return Attribution(_array(fine), "Grad-CAM", layer.name, layer.grid)


def superpixels(image: Tensor, segments: int = SEGMENTS) -> NDArray[np.intp]:
    """Cut an image (1, 3, h, w) into about so many pieces of one color each, (h, w) int from 0: SLIC (Achanta 2012).

    An image without edges, which SLIC leaves in hardly any pieces, is cut into squares.

    Raises
    ------
    MissingExtraError
        If scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MissingExtraError("an explanation by superpixels", "scikit-image", EXTRA) from error

    pixels = image[0].permute(1, 2, 0).float().cpu().numpy().astype(np.float64)
    low, high = pixels.min(), pixels.max()
    scaled = (pixels - low) / max(high - low, 1e-12)
    pieces = np.asarray(slic(scaled, n_segments=segments, compactness=10.0, start_label=0), np.intp)
    if pieces.max() + 1 >= FEWEST_SEGMENTS:
        return pieces
    side = max(2, round(segments**0.5))
    rows, columns = (np.arange(length) * min(side, length) // length for length in pieces.shape)
    return np.asarray(rows[:, None] * side + columns, np.intp)


def _by_superpixels(model: nn.Module, image: Tensor, target: int, method: str, seed: int) -> Attribution:
    attr = _captum()
    from captum._utils.models.linear_model import SkLearnRidge

    if method == "shap":
        name, explainer = "Kernel SHAP", attr.KernelShap(model)
    else:
        # Of Captum's default, a lasso, the penalty would have to fit the scale of each network's logits.
        name, explainer = "LIME", attr.Lime(model, interpretable_model=SkLearnRidge(alpha=1.0))
    pieces = superpixels(image)
    mask = torch.from_numpy(pieces).to(image.device)[None, None]
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's on few samples, Captum's on its own keyword
        torch.manual_seed(seed)
        values = explainer.attribute(
            image, target=target, feature_mask=mask, n_samples=SAMPLES, perturbations_per_eval=BATCH
        )
    # Captum repeats a piece's value at each of its places and channels.
    words = f"{name} over superpixels ({len(np.unique(pieces))} pieces, {SAMPLES} samples)"
    return Attribution(_array(values[:, :1]), words)


def _occlusion(model: nn.Module, image: Tensor, target: int) -> Attribution:
    window, step = ([max(1, side // part) for side in image.shape[-2:]] for part in (WINDOW, STRIDE))
    shapes = {"sliding_window_shapes": (3, *window), "strides": (3, *step)}
    with torch.no_grad():
        values = _captum().Occlusion(model).attribute(image, target=target, **shapes, perturbations_per_eval=BATCH)
    return Attribution(_array(values[:, :1]), f"occlusion (a gray window of {window[0]} x {window[1]} pixels)")


def _integrated_gradients(model: nn.Module, image: Tensor, target: int) -> Attribution:
    inputs = image.detach().requires_grad_(True)
    gradients = _captum().IntegratedGradients(model)
    values = gradients.attribute(inputs, target=target, n_steps=STEPS, internal_batch_size=BATCH)
    return Attribution(_smooth(values.sum(dim=1).abs()), f"integrated gradients ({STEPS} steps, magnitude, smoothed)")


def _smooth(values: Tensor) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter

    raw = _array(values)
    return np.asarray(gaussian_filter(raw, min(raw.shape) / SMOOTHING), np.float64)


def _array(values: Tensor) -> NDArray[np.float64]:
    """The last two axes of one image's map."""
    return values.detach().reshape(values.shape[-2:]).double().cpu().numpy()


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise MissingExtraError("an explanation", "captum", EXTRA) from error
    return captum.attr
