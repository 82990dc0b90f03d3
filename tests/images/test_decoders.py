"""The registry of decoders; one that takes batches of bytes and leaves pixels on its device serves every caller."""

from __future__ import annotations

import sys

import pytest

from hybrid.classifier import HybridClassifier
from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.errors import ConfigError, DeviceError
from hybrid.images import decoders
from hybrid.images.decoders import BatchDecoder, Decoder, LibjpegTurbo, Pillow, choose_decoder
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore


@pytest.fixture
def register(monkeypatch):
    """Put decoders before all others."""
    return lambda **new: monkeypatch.setattr(decoders, "DECODERS", {**new, **decoders.DECODERS})


def test_a_batch_decoder_serves_index_and_classifier(clip_folder, image_folder, tmp_path, register, batch_decoder):
    folder = image_folder({"cat": 9, "dog": 8})
    (folder / "cat" / "copy.jpg").write_bytes((folder / "cat" / "001.jpg").read_bytes())
    settings = EncoderSettings(model=str(clip_folder), precision="fp32")

    def outcome(name: str) -> tuple[object, ...]:
        encoder = load_encoder(settings, "cpu")
        classifier = HybridClassifier.from_run(tmp_path / "none", prompts=["a", "b"], encoder=settings, device="cpu")
        probabilities = classifier.predict_proba(folder, batch_size=4).tolist()
        (folder / "torn.jpg").write_bytes((folder / "cat" / "000.jpg").read_bytes()[:300])
        with EmbeddingStore(tmp_path / f"{name}.sqlite") as store:
            summary = build_index(scan([folder]), encoder, store, batch_size=4)
            images = list(store.images())
            vectors = store.embeddings([image.sha256 for image in images], encoder.fingerprint).tolist()
        (folder / "torn.jpg").unlink()
        return probabilities, summary, images, vectors

    expected = outcome("default")
    register(on_device=lambda device: batch_decoder)
    assert outcome("batches") == expected
    assert batch_decoder.sizes == [4, 4, 4, 4, 2, 4, 4, 4, 4, 3]
    # The kinds are told apart.
    assert [isinstance(LibjpegTurbo(), kind) for kind in (Decoder, BatchDecoder)] == [True, False]
    assert [isinstance(batch_decoder, kind) for kind in (Decoder, BatchDecoder)] == [False, True]


def test_the_first_that_can_be_loaded_is_chosen_and_named(register, batch_decoder):
    decoder, note = choose_decoder()
    assert (type(decoder), note) == (LibjpegTurbo, "images are decoded by libjpeg-turbo")

    def for_cuda(device: str) -> BatchDecoder:
        if device != "cuda":
            raise DeviceError(f"no decoder for {device}")
        return batch_decoder

    register(on_device=for_cuda)
    assert choose_decoder(device="cuda") == (batch_decoder, "images are decoded by on_device")
    decoder, note = choose_decoder(device="mps")
    assert type(decoder) is LibjpegTurbo
    assert note == "images are decoded by libjpeg-turbo (not on_device: no decoder for mps)"
    decoder, note = choose_decoder("pillow", device="cuda")
    assert (type(decoder), note) == (Pillow, "images are decoded by pillow")
    with pytest.raises(DeviceError, match="no decoder for mps"):
        choose_decoder("on_device", "mps")
    with pytest.raises(ConfigError, match="unknown decoder") as caught:
        choose_decoder("opencv")
    assert caught.value.expected == "auto, cpu, on_device, nvjpeg, libjpeg-turbo, pillow"


def test_without_simplejpeg_pillow_decodes_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    decoder, note = choose_decoder()
    assert type(decoder) is Pillow
    assert note == "images are decoded by pillow (not libjpeg-turbo: simplejpeg is not installed)"
    with pytest.raises(ConfigError, match="simplejpeg is not installed") as caught:
        choose_decoder("libjpeg-turbo")
    assert caught.value.fix == "pip install simplejpeg"
    monkeypatch.setattr(decoders, "DECODERS", {"libjpeg-turbo": LibjpegTurbo})
    with pytest.raises(ConfigError, match="no decoder can be loaded") as caught:
        choose_decoder()
    assert caught.value.got == "not libjpeg-turbo: simplejpeg is not installed"
