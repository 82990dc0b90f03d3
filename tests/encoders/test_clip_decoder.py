"""Which decoder an encoder takes, and how vectors of both kinds of pixels stay apart in a run."""

from __future__ import annotations

import dataclasses

import pytest

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.encoders.base import decoder_of
from hybrid.errors import ConfigError, DeviceError
from hybrid.images import decoders
from hybrid.images.decoders import LibjpegTurbo
from hybrid.images.nvjpeg import NvJpeg, torchvisions_decoders
from hybrid.index.store import EmbeddingStore
from hybrid.run.run import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torchvision")


@pytest.fixture
def encoder(clip_folder, monkeypatch):
    """On a GPU, as far as the choice of a decoder goes: a stand-in takes nvJPEG's name."""
    stand_in = {decoders.NVJPEG: lambda device: NvJpeg("cpu", LibjpegTurbo(), torchvisions_decoders()[1])}
    monkeypatch.setattr(decoders, "DECODERS", {**decoders.DECODERS, **stand_in})
    encoder = load_encoder(EncoderSettings(model=str(clip_folder), precision="fp32"), "cpu")
    encoder._compute = dataclasses.replace(encoder._compute, device="cuda")
    return encoder


def test_pixels_of_their_own_have_a_fingerprint_of_their_own(encoder):
    plain, nvjpeg = encoder.decoding_by("cpu"), encoder.decoding_by("nvjpeg")
    assert plain.fingerprint == encoder.fingerprint != nvjpeg.fingerprint
    assert plain.identity == nvjpeg.identity
    assert [decoder_of(one).name for one in (plain, nvjpeg)] == ["libjpeg-turbo", "nvjpeg"]
    assert nvjpeg.notes[-1] == "images are decoded by nvjpeg"
    assert encoder.decoding_by("pillow").fingerprint == plain.fingerprint


def test_auto_goes_on_with_the_pixels_of_the_runs_index(encoder):
    plain, nvjpeg = encoder.decoding_by("cpu").fingerprint, encoder.decoding_by("nvjpeg").fingerprint
    best, as_before = (
        "images are decoded by nvjpeg",
        "images are decoded by libjpeg-turbo, as those of the run's index were",
    )
    # Of a CPU in another precision: its vectors cannot be joined anyway.
    laptops = encoder._fingerprint("bf16", "")
    for index, expected, note in (
        (None, nvjpeg, best),
        (nvjpeg, nvjpeg, best),
        ("another encoder", nvjpeg, best),
        (plain, plain, f"{as_before} (build-index --decoder nvjpeg may be faster, and encodes them anew)"),
        (
            laptops,
            nvjpeg,
            f"{best}; the run's index was made of images decoded by the CPU: its vectors and those made ",
        ),
    ):
        chosen = encoder.decoding_by("auto", index)
        assert chosen.fingerprint == expected
        assert chosen.notes[-1] == note or (index == laptops and chosen.notes[-1].startswith(note))
    asked = encoder.decoding_by("cpu", nvjpeg)
    assert "libjpeg-turbo; the run's index was made of images decoded by nvjpeg" in asked.notes[-1]
    encoder._compute = dataclasses.replace(encoder._compute, device="cpu")
    laptop = encoder.decoding_by("auto", encoder._fingerprint("fp16", "nvjpeg"))
    assert laptop.fingerprint == plain
    assert "libjpeg-turbo; the run's index was made of images decoded by nvjpeg" in laptop.notes[-1]


def test_a_run_made_on_a_gpu_answers_on_a_laptop(encoder, clip_folder, image_folder, tmp_path):
    photos, said = image_folder({"cat": 3, "dog": 2}), []
    options = {"encoder": str(clip_folder), "precision": "fp32", "device": "cpu", "say": said.append}
    made = Run(tmp_path / "run", decoder="nvjpeg", **options)
    assert made.index(photos).encoded == 5
    assert said.count("images are decoded by nvjpeg") == 1
    said.clear()
    here = Run(tmp_path / "run", device="cpu", say=said.append)
    probabilities = here.classifier(prompts=["cat", "dog"]).predict_proba(photos)
    assert "made of images decoded by nvjpeg" in "".join(said)
    assert made.classifier(prompts=["cat", "dog"]).predict_proba(photos) == pytest.approx(probabilities, abs=1e-4)
    assert here.index(photos).encoded == 5, "an index never holds vectors of both for one encoder"
    with EmbeddingStore(tmp_path / "run" / "index.sqlite") as store:
        assert len(store.encoders()) == 2
        assert [len(store.embedded(fingerprint)) for fingerprint in store.encoders()] == [5, 5]
    assert Run(tmp_path / "run", device="cpu").index(photos).encoded == 0


def test_a_decoder_that_cannot_be_had_is_an_error(clip_folder, tmp_path):
    settings = EncoderSettings(model=str(clip_folder))
    with pytest.raises(DeviceError, match="nvJPEG decodes on CUDA alone"):
        load_encoder(settings, "cpu", "nvjpeg")
    with pytest.raises(ConfigError, match="unknown decoder"):
        load_encoder(settings, "cpu", "opencv")
