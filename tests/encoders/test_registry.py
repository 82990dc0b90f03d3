"""How encoders are chosen, and that a new one needs a loader and a line in the registry."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch

from hybrid.cli.main import app
from hybrid.config import EncoderSettings
from hybrid.device import resolve
from hybrid.encoders import load_encoder, registry
from hybrid.encoders.base import fingerprint, unit_norm
from hybrid.encoders.clip import HUB
from hybrid.encoders.presets import PRESETS
from hybrid.encoders.registry import EncoderEntry, split_prefix
from hybrid.errors import EncoderError, MissingExtraError
from hybrid.images.preprocess import to_picture
from hybrid.run.run import Run

LENGTH, SIDE = 16, 32


class SiglipEncoder:
    """transformers' SigLIP behind the `Encoder` protocol; its tokenizer is one token for each character."""

    uses_templates = True
    min_side, batch_size = SIDE, 8

    def __init__(self, folder: str, compute) -> None:
        from transformers import SiglipModel

        self._model = SiglipModel.from_pretrained(folder).to(compute.device).eval()
        self._device = compute.device
        self.name, self.notes = f"siglip:{folder}", (f"encoder: SigLIP on {compute}",)
        self.identity = fingerprint({"kind": "siglip", "folder": folder})
        self.fingerprint = fingerprint({"identity": self.identity, "precision": "fp32"})
        self.dim = self._model.config.text_config.hidden_size
        self.logit_scale = float(self._model.logit_scale.detach().exp())

    def can_encode(self, names):
        return [True] * len(names)

    def check(self, records):
        pass

    def prepare(self, image, record):
        return np.asarray(to_picture(image).resize((SIDE, SIDE)), np.float32) / 127.5 - 1

    @torch.inference_mode()
    def encode_images(self, prepared):
        if not len(prepared):
            return np.empty((0, self.dim), np.float32)
        pixels = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2).to(self._device)
        return unit_norm(self._model.vision_model(pixels).pooler_output.cpu().numpy())

    @torch.inference_mode()
    def encode_texts(self, texts):
        codes = [[ord(character) % 100 for character in text[:LENGTH].ljust(LENGTH)] for text in texts]
        tokens = torch.tensor(codes, dtype=torch.long, device=self._device)
        return unit_norm(self._model.text_model(tokens).pooler_output.cpu().numpy())


def load_siglip(settings, device):
    return SiglipEncoder(settings.model.partition(":")[2], resolve(device, settings.precision))


@pytest.fixture
def siglip(tmp_path, monkeypatch) -> str:
    """A tiny random SigLIP in a folder, and its line in the registry."""
    transformers = pytest.importorskip("transformers")
    if not transformers.is_torch_available():
        pytest.skip("this transformers needs a newer torch")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shape, "vocab_size": 100, "max_position_embeddings": LENGTH, "projection_size": 32}
    config = transformers.SiglipConfig(text_config=text, vision_config={**shape, "image_size": SIDE, "patch_size": 16})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.SiglipModel(config).save_pretrained(tmp_path / "siglip")
    monkeypatch.setitem(sys.modules, "siglip_file", SimpleNamespace(load=load_siglip))
    line = EncoderEntry("siglip:FOLDER", "siglip_file:load", extra="siglip")
    monkeypatch.setattr(registry, "ENCODERS", (*registry.ENCODERS, line))
    return f"siglip:{tmp_path / 'siglip'}"


def test_a_new_encoder_serves_a_run_from_index_to_zero_shot_prediction(siglip, image_folder, tmp_path, capsys):
    images, run, names = image_folder({"cat": 3, "dog": 2}), tmp_path / "run", tmp_path / "names.txt"
    names.write_text("cat\ndog\nzebra\n")
    app(["build-index", str(images), "--run", str(run), "--encoder", siglip, "--device", "cpu"], standalone_mode=False)
    assert "5 photos: 5 encoded" in capsys.readouterr().out
    # The run remembers its encoder.
    command = ["predict", str(images), "--run", str(run), "--prompts", str(names), "--device", "cpu"]
    app([*command, "--format", "jsonl"], standalone_mode=False)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    encoder = load_encoder(EncoderSettings(model=siglip), "cpu")
    assert len(rows) == 5
    assert {row["label"] for row in rows} <= {"cat", "dog", "zebra"}
    assert json.loads((run / "run.json").read_text())["encoder_identity"] == encoder.identity


def test_a_package_that_is_missing_is_named_with_its_extra(siglip, monkeypatch):
    monkeypatch.delitem(sys.modules, "siglip_file")
    with pytest.raises(MissingExtraError, match="siglip_file") as caught:
        load_encoder(EncoderSettings(model=siglip))
    assert caught.value.fix == "pip install 'hybrid-classifier[siglip]'"


def test_an_unknown_encoder_is_told_what_is_known(siglip):
    for model in ("siglop:x", "tiny:x", "Tiny"):
        with pytest.raises(EncoderError, match=f"unknown encoder {model}") as caught:
            load_encoder(EncoderSettings(model=model))
        for known in ("open_clip", "hf-hub:REPO", "tiny", "precomputed:FILE.npz", "siglip:FOLDER"):
            assert known in caught.value.expected


def test_a_name_is_split_into_prefix_and_rest():
    assert split_prefix("precomputed:a:b.npz") == ("precomputed:", "a:b.npz")
    for model in ("tiny", "hf-hub:org/repo", "ViT-B-32"):
        assert split_prefix(model) == ("", model)


@pytest.mark.parametrize("name", PRESETS)
def test_a_short_name_is_a_model_with_published_weights(name, tmp_path):
    settings = Run(tmp_path, encoder=name).settings

    assert Run(tmp_path, encoder=name, pretrained="own.safetensors").settings.pretrained == "own.safetensors"
    if settings.model.startswith(HUB):
        assert settings.pretrained is None
    else:
        assert settings.pretrained in open_clip.list_pretrained_tags_by_model(settings.model)
