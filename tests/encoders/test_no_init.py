"""Networks built without random weights, against the same ones built as usual."""

from __future__ import annotations

import open_clip
import pytest
import timm
import torch

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.encoders.no_init import no_init_weights

BUILT = {
    "ViT": lambda: open_clip.create_model("ViT-S-32-alt", load_weights=False),
    "ResNet": lambda: open_clip.create_model("RN50", load_weights=False),
    "ConvNeXt": lambda: timm.create_model("convnext_atto"),
}


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
def test_nothing_is_drawn_and_the_rest_is_the_same(build):
    drawn = build()
    before = torch.get_rng_state()
    with no_init_weights():
        model = build()
    assert torch.equal(torch.get_rng_state(), before)
    # Of buffers that no checkpoint holds, such as a text tower's mask, all is there.
    kept = set(drawn.state_dict())
    for (name, found), (_, expected) in zip(model.named_buffers(), drawn.named_buffers(), strict=True):
        assert name in kept or torch.equal(found, expected), name
    model.load_state_dict(drawn.state_dict())
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        towers = [getattr(one, "visual", one).eval() for one in (model, drawn)]
        torch.testing.assert_close(towers[0](image), towers[1](image), rtol=0, atol=0)


def test_loading_an_encoder_draws_nothing_and_draws_outside_are_as_ever(clip_folder):
    before = torch.get_rng_state()
    load_encoder(EncoderSettings(model=str(clip_folder)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.nn.Linear(50, 50).weight.std() > 0.05
