"""Short names for encoders that are often wanted; whatever open_clip and the hub have goes by its own name too."""

from __future__ import annotations

from typing import NamedTuple


class Preset(NamedTuple):
    """An encoder under a short name.

    Attributes
    ----------
    model, pretrained
        See `hybrid.config.EncoderSettings`.
    """

    model: str
    pretrained: str | None


PRESETS = {
    "clip-b32": Preset("ViT-B-32-256", "datacomp_s34b_b86k"),
    "clip-l14": Preset("ViT-L-14", "datacomp_xl_s13b_b90k"),
    "siglip2-base": Preset("ViT-B-16-SigLIP2-256", "webli"),
    "mobileclip2-s0": Preset("MobileCLIP2-S0", "dfndr2b"),
    "bioclip-2": Preset("hf-hub:imageomics/bioclip-2", None),
}


def expand(model: str | None, pretrained: str | None) -> tuple[str | None, str | None]:
    """Put the model and the weights in the place of a short name; weights that were given stay."""
    if model not in PRESETS:
        return model, pretrained
    preset = PRESETS[model]
    return preset.model, preset.pretrained if pretrained is None else pretrained
