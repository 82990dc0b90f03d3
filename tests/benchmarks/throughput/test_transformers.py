"""The weights that transformers gets are open_clip's: features and tokens of both agree."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.throughput import peers as converter
from benchmarks.throughput.images import class_names, draw
from benchmarks.throughput.peers import texts, transformers_pipeline
from benchmarks.throughput.processes import Setup

pytest.importorskip("transformers", "5", reason="a peer of the throughput benchmark: pip install '.[bench]'")
torch = pytest.importorskip("torch")
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 128, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def random_model(quick_gelu=False):
    """Weights large enough for every part, activation and bias to matter."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = open_clip.CLIP(**CONFIG, quick_gelu=quick_gelu).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def features(model, name, **inputs):
    with torch.inference_mode():
        found = getattr(model, name)(**inputs)
    return getattr(found, "pooler_output", found)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_features_agree(quick_gelu):
    import open_clip

    model = random_model(quick_gelu)
    made = converter.convert(CONFIG | {"quick_gelu": quick_gelu}, model.state_dict())
    images = torch.randn(3, 3, 64, 64)
    ours, theirs = model.encode_image(images), features(made, "get_image_features", pixel_values=images)
    assert torch.nn.functional.cosine_similarity(ours, theirs).min() > 0.99999
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert torch.nn.functional.cosine_similarity(ours[:1], ours[1:]).max() < 0.99

    prompts = texts(class_names())
    tokens = converter.tokenizer()(prompts, padding=True, return_tensors="pt")
    ours = model.encode_text(open_clip.tokenizer.SimpleTokenizer()(prompts))
    theirs = features(made, "get_text_features", **tokens)
    assert torch.nn.functional.cosine_similarity(ours, theirs).min() > 0.99999
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert made.logit_scale == model.logit_scale


def test_the_activation_matters():
    model = random_model(quick_gelu=True)
    wrong = converter.convert(CONFIG, model.state_dict())
    images = torch.randn(3, 3, 64, 64)
    theirs = features(wrong, "get_image_features", pixel_values=images)
    assert (model.encode_image(images) - theirs).abs().max() > 0.01  # ten times what the test above lets pass


def test_every_weight_has_a_place():
    state = random_model().state_dict()
    with pytest.raises(KeyError):
        converter.convert_state(state | {"visual.new": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing"):
        converter.convert(CONFIG, {name: value for name, value in state.items() if name != "ln_final.bias"})


def test_tokens_are_those_of_open_clip():
    from open_clip.tokenizer import SimpleTokenizer

    prompts = [*texts(class_names()), "It's 3 o'clock, naïve  Café!", "<3 a1b2"]
    own = SimpleTokenizer()(prompts)
    found = converter.tokenizer()(prompts)["input_ids"]
    for row, ids in zip(own, found, strict=True):
        assert row[: len(ids)].tolist() == ids
        assert not row[len(ids) :].any()


def test_the_pipeline_answers_as_open_clip_does(tmp_path):
    """From the folder alone: weights, tokenizer, and an image processor that does as open_clip's transform."""
    import open_clip
    from PIL import Image
    from transformers import pipeline

    model, names = random_model(), class_names(5)
    converter.save(converter.convert(CONFIG, model.state_dict()), tmp_path / "converted")
    file = tmp_path / "photo.jpg"
    file.write_bytes(draw((320, 240), 0))

    picture = open_clip.image_transform(64, is_train=False)(Image.open(file))[None]
    tokens = open_clip.tokenizer.SimpleTokenizer()(texts(names))
    image, prompts = (
        torch.nn.functional.normalize(one, dim=-1) for one in (model.encode_image(picture), model.encode_text(tokens))
    )
    expected = (model.logit_scale.exp() * image @ prompts.T).softmax(dim=-1)[0].tolist()

    pipe = pipeline("zero-shot-image-classification", model=str(tmp_path / "converted"), device="cpu")
    answer = pipe(str(file), candidate_labels=list(names), hypothesis_template="a photo of a {}.")
    found = {one["label"]: one["score"] for one in answer}
    np.testing.assert_allclose([found[name] for name in names], expected, atol=0.01)
    assert max(expected) - min(expected) > 0.1

    setup = Setup("cpu", "any", Path(), tmp_path / "converted", names, tmp_path)
    transformers_pipeline(setup)([str(file)] * 3, 2)
