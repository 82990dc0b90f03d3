"""Where a CLIP comes from: what is found, what is loaded, and what is refused and why."""

from __future__ import annotations

import json
import logging
import math
import pathlib
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.encoders.clip import CONFIG_FILE, ClipEncoder, locate
from hybrid.errors import EncoderError

WEIGHTS = "open_clip_model.safetensors"
REVISION = "0123456789" * 4


@pytest.fixture
def folder(clip_folder, tmp_path) -> Path:
    """A copy of the tiny model to change."""
    return Path(shutil.copytree(clip_folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def named(clip_folder, tmp_path_factory) -> str:
    """The tiny architecture as a model that open_clip knows by name."""
    config = json.loads((clip_folder / CONFIG_FILE).read_text())["model_cfg"]
    file = tmp_path_factory.mktemp("configs") / "hybrid-test-tiny.json"
    file.write_text(json.dumps(config))
    open_clip.add_model_config(file)
    return file.stem


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub's client."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def load(model: str | Path, pretrained: str | Path | None = None) -> ClipEncoder:
    encoder = load_encoder(
        EncoderSettings(model=str(model), pretrained=pretrained and str(pretrained), precision="fp32")
    )
    assert isinstance(encoder, ClipEncoder)
    return encoder


@pytest.fixture(scope="module")
def image(image) -> Image.Image:
    return image(7)


@pytest.fixture(scope="module")
def vector_of(image) -> Callable[[ClipEncoder], np.ndarray]:
    return lambda encoder: encoder.encode_images([encoder.prepare(image, None)])


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    # Copies: the file is mapped, and some tests write it anew.
    return {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}


# What is found


def test_what_does_not_exist_is_named_with_what_does():
    for model, tag, *parts in (
        ("ViT-B-23", "openai", "unknown encoder ViT-B-23", "near it: ", "ViT-B-32", "tiny"),
        ("~~~", None, "~~~; near it: nothing"),
        ("ViT-B-32-256", "laion9b", "no weights laion9b for", "datacomp_s34b_b86k", "neither a file nor a tag"),
        ("ViT-B-32-256", None, "ViT-B-32-256 needs weights", "datacomp_s34b_b86k"),
        ("ViT-B-32", "/nowhere/weights.safetensors", "no weights /nowhere/weights.safetensors"),
    ):
        with pytest.raises(EncoderError) as caught:
            locate(model, tag)
        assert all(part in str(caught.value) for part in parts)


def test_a_folder_without_configuration_or_weights_is_refused(folder, tmp_path, monkeypatch):
    weights = folder / WEIGHTS
    weights.rename(tmp_path / "openai")
    with pytest.raises(EncoderError, match="is not an open_clip model folder"):
        locate(str(folder), None)
    shutil.copy(tmp_path / "openai", weights)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(EncoderError, match="is not an open_clip model folder"):
        locate(str(folder), None)
    with pytest.raises(EncoderError, match="a checkpoint alone does not say its architecture") as caught:
        locate(str(weights), None)
    assert f"--pretrained {weights}" in caught.value.fix
    # A file that is named like a tag is taken as the file.
    monkeypatch.chdir(tmp_path)
    assert locate("ViT-B-32", "openai").checkpoint == Path("openai")


def test_a_folder_with_several_unusual_checkpoints_asks_for_one(folder):
    (folder / WEIGHTS).rename(folder / "epoch_1.safetensors")
    shutil.copy(folder / "epoch_1.safetensors", folder / "epoch_2.safetensors")
    with pytest.raises(EncoderError, match="several checkpoints") as caught:
        locate(str(folder), None)
    assert str(folder / "epoch_2.safetensors") in caught.value.fix
    assert locate(str(folder / "epoch_1.safetensors"), None).checkpoint == folder / "epoch_1.safetensors"


# What is loaded


def test_weights_may_come_as_a_torch_file(named, folder, clip_folder, tmp_path, vector_of):
    state = state_of(clip_folder)
    expected = vector_of(load(clip_folder))
    for ending, content in ((".pt", state), (".bin", {"epoch": 3, "state_dict": state})):
        file = tmp_path / f"weights{ending}"
        torch.save(content, file)
        encoder = load(named, file)
        assert np.array_equal(vector_of(encoder), vector_of(load(named, clip_folder / WEIGHTS)))
        assert encoder.name == f"{named} from {file}"
    (folder / WEIGHTS).unlink()
    for name in ("open_clip_model.pt", "model.pth", "epoch_9.bin"):
        torch.save(state, folder / name)
        assert np.array_equal(vector_of(load(folder)), expected)
        (folder / name).unlink()


def test_the_checkpoint_that_is_named_is_loaded_not_its_neighbor(folder, make_clip, tmp_path, vector_of):
    other = make_clip(tmp_path / "other", seed=1)
    shutil.copy(other / WEIGHTS, folder / "epoch_9.safetensors")
    chosen = vector_of(load(folder / "epoch_9.safetensors"))
    assert np.array_equal(chosen, vector_of(load(other)))
    assert not np.allclose(chosen, vector_of(load(folder)), atol=1e-3)


def test_published_weights_bring_their_preprocessing_and_activation(named, clip_folder, monkeypatch, vector_of, image):
    tag = {"file": str(clip_folder / WEIGHTS), "mean": (0.1, 0.2, 0.3), "std": (0.9, 0.9, 0.9), "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, named, {"a_tag": tag})
    encoder = load(named, "a_tag")
    assert encoder.name == f"{named} / a_tag"
    assert encoder._model.visual.preprocess_cfg["mean"] == (0.1, 0.2, 0.3)
    assert any(isinstance(module, open_clip.transformer.QuickGELU) for module in encoder._model.modules())
    expected, _, transform = open_clip.create_model_and_transforms(named, "a_tag", force_quick_gelu=True)
    with torch.inference_mode():
        features = expected.eval().encode_image(transform(image)[None], normalize=True).numpy()
        own = encoder._model.encode_image(transform(image)[None], normalize=True).numpy()
    # The same network on the same numbers; on the image, to the rounding of its gray levels.
    assert np.allclose(own, features, atol=1e-6)
    assert np.allclose(vector_of(encoder), features, atol=1e-4)
    # Other preprocessing under the same name makes another encoder.
    tag["mean"] = (0.2, 0.2, 0.2)
    changed = load(named, "a_tag")
    assert len({encoder.identity, encoder.fingerprint, changed.identity, changed.fingerprint}) == 4


def test_a_repository_of_the_hubs_cache_is_the_same_as_its_folder(clip_folder, hub_cache, vector_of):
    repository = hub_cache / "models--test--tiny"
    shutil.copytree(clip_folder, repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    encoder, reference = load("hf-hub:test/tiny"), load(clip_folder)
    assert np.array_equal(vector_of(encoder), vector_of(reference))
    assert encoder.name == "hf-hub:test/tiny"
    assert encoder.fingerprint == reference.fingerprint


# What is refused


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return pathlib.Path.touch, (self.victim,)


class Odd(OrderedDict):
    """Reads well as a pickle, and makes torch's careful reader raise TypeError."""

    def __reduce__(self):
        return OrderedDict, (), (None, {"x": 1})


@pytest.mark.parametrize(("way", "disguised"), [("named", True), ("folder", False)])
def test_code_in_a_checkpoint_is_refused_and_not_run(named, folder, tmp_path, monkeypatch, way, disguised):
    def load_like_torch_2_5(*args: object, weights_only: bool = False, **options: object) -> object:
        return careful(*args, weights_only=weights_only, **options)

    careful = torch.load
    monkeypatch.setattr(torch, "load", load_like_torch_2_5)
    victim = tmp_path / "victim"
    checkpoint = folder / "open_clip_model.bin"
    (folder / WEIGHTS).unlink()
    torch.save([Odd(), Payload(victim)] if disguised else {"state_dict": Payload(victim)}, checkpoint)
    with pytest.raises(EncoderError, match="cannot load") as caught:
        load(named, checkpoint) if way == "named" else load(folder)
    assert "plain tensors" in caught.value.expected
    assert not victim.exists()
    careful(checkpoint, weights_only=False)
    assert victim.exists()


def test_a_broken_checkpoint_is_named(named, tmp_path):
    for ending in (".safetensors", ".pt"):
        file = tmp_path / f"weights{ending}"
        for content in (b"", b"not a checkpoint", b"\x00" * 64):
            file.write_bytes(content)
            with pytest.raises(EncoderError) as caught:
                load(named, file)
            assert str(file) in caught.value.what
            assert caught.value.got
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(EncoderError, match="cannot load") as caught:
        load(named, file)
    assert "weights_only" not in str(caught.value), "torch's advice would run the code"
    assert "save_file" in caught.value.fix
    save_file({"w": torch.zeros(1)}, file)
    with pytest.raises(EncoderError, match="cannot load") as caught:
        load(named, file)
    assert caught.value.fix == "rename it to weights.safetensors"


def test_a_folder_or_a_giant_in_place_of_a_file_of_the_model(folder):
    (folder / WEIGHTS).rename(folder / "kept")
    (folder / WEIGHTS).mkdir()
    with pytest.raises(EncoderError, match="cannot read"):
        load(folder)
    (folder / WEIGHTS).rmdir()
    (folder / "kept").rename(folder / WEIGHTS)
    with (folder / CONFIG_FILE).open("ab") as file:
        file.truncate(2**33)
    with pytest.raises(EncoderError, match="is not a model's configuration"):
        load(folder)


def test_weights_or_a_configuration_that_do_not_fit_the_model_are_refused(folder):
    state = state_of(folder)
    proj = state.pop("visual.proj")
    for fault in ({"visual.proj": torch.zeros(64, 48)}, {}, {"visual.proj": proj, "visual.more": torch.zeros(1)}):
        save_file(state | fault, folder / WEIGHTS)
        with pytest.raises(EncoderError, match="cannot load"):
            load(folder)
    save_file(state | {"visual.proj": proj}, folder / WEIGHTS)
    for content in ("{", "{}", '{"model_cfg": {}}'):
        (folder / CONFIG_FILE).write_text(content)
        with pytest.raises(EncoderError, match="cannot load"):
            load(folder)


def test_weights_that_are_not_finite_are_found_at_once_or_by_the_first_image(folder, vector_of):
    state = state_of(folder)
    save_file(state | {"text_projection": torch.full_like(state["text_projection"], math.nan)}, folder / WEIGHTS)
    with pytest.raises(EncoderError, match="vectors for texts that are not finite in fp32"):
        load(folder)
    state["visual.proj"][3, 5] = math.inf
    save_file(state, folder / WEIGHTS)
    encoder = load(folder)
    with pytest.raises(EncoderError, match="vectors for photos that are not finite in fp32") as caught:
        vector_of(encoder)
    assert "--precision fp32" in caught.value.fix


def test_a_tokenizer_that_needs_another_package_says_which(clip_folder, monkeypatch):
    def tokenizer(name: str) -> None:
        raise ImportError("No module named 'transformers'")

    monkeypatch.setattr(open_clip, "get_tokenizer", tokenizer)
    with pytest.raises(EncoderError, match="needs another package") as caught:
        load(clip_folder)
    assert caught.value.got == "No module named 'transformers'"


def test_open_clips_alarm_about_random_weights_is_not_shown(clip_folder, caplog, capfd, recwarn):
    before = logging.root.manager.disable
    load(clip_folder)
    assert not caplog.records
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == before


@pytest.mark.parametrize("encoder", [EncoderSettings(), EncoderSettings(model="hf-hub:test/tiny", pretrained=None)])
def test_without_cache_and_network_the_error_names_three_ways_out(hub_cache, encoder):
    with pytest.raises(EncoderError, match="not in the cache and cannot be downloaded") as caught:
        load_encoder(encoder, "cpu")
    assert "--encoder MODEL --pretrained TAG" in caught.value.fix
    assert "--pretrained FILE.safetensors" in caught.value.fix
    assert "--encoder tiny" in caught.value.fix


def test_an_unreachable_hub_is_asked_once(hub_cache, monkeypatch):
    asked = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append((url, timeout))
            raise ConnectionError("no route\nmore about it")

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda config: pytest.fail("the hub was asked again"))
    with pytest.raises(EncoderError) as caught:
        load_encoder(EncoderSettings(), "cpu")
    assert asked == [(huggingface_hub.constants.ENDPOINT, 10.0)]
    assert caught.value.got == "ConnectionError: no route"
