"""Bundles that are damaged, of another version or asked for what they lack say so; and what a bundle does not tell."""

import json
import shutil
import sys
import zipfile

import numpy as np
import pytest

from hybrid.errors import ArtifactError, DeviceError, EncoderError, HybridError
from hybrid.index.store import EmbeddingStore
from hybrid.lite import load
from hybrid.lite.bundle import MANIFEST, Bundle


def read_all(file):
    bundle = Bundle(file)
    return {name: bytes(bundle.read(name)) for name in bundle.manifest.members}


@pytest.fixture
def bundle(linear, tmp_path):
    """A copy, to damage."""
    return shutil.copy(linear.bundle, tmp_path / "copy.hybrid")


def fault_of(file):
    """The error that reading all of a bundle ends with; None if there is none."""
    try:
        read_all(file)
    except ArtifactError as error:
        return error
    return None


def test_every_changed_byte_is_found_or_changes_nothing(network, tmp_path):
    bundle = shutil.copy(network.bundle, tmp_path / "copy.hybrid")
    whole, members = bundle.read_bytes(), read_all(bundle)
    with zipfile.ZipFile(bundle) as archive:
        headers = [info.header_offset for info in archive.infolist()]
        directory = archive.start_dir
    places = {*range(0, directory, len(whole) // 20), *range(directory, len(whole), 17)}
    places |= {start + offset for start in headers for offset in range(0, 60, 7)}
    found = 0
    for place in sorted(places):
        bundle.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        fault = fault_of(bundle)
        if fault is None:
            assert read_all(bundle) == members
        else:
            found += 1
            assert str(bundle) in fault.what
            assert fault.fix
    assert found > len(places) / 3


def test_a_changed_byte_of_each_network_is_named_by_the_one_who_loads_it(bundle, lite, photos):
    whole = bundle.read_bytes()
    for name in ("image/weights.safetensors", "text/weights.safetensors", "gate/memory.safetensors"):
        with zipfile.ZipFile(bundle) as archive:
            place = archive.getinfo(name).header_offset + 5000
        bundle.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        said = lite(bundle, photos[0], "--prompts", "okapi,zebra", rc=1).stderr
        assert f"{name} is damaged" in said
        assert "fix:" in said
        # Who names no new class does not read the text tower.
        lite(bundle, photos[0], rc=0 if name.startswith("text/") else 1)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_bundle_that_was_cut_off(bundle, share):
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ArtifactError, match="not a whole bundle"):
        load(bundle)


def test_other_files_and_versions(bundle, tmp_path, photos):
    with pytest.raises(ArtifactError, match="not a whole bundle"):
        load(photos[0])
    with pytest.raises(HybridError, match="does not exist"):
        load(tmp_path / "nothing.hybrid")
    with pytest.raises(HybridError, match="folder"):
        load(tmp_path)
    newer = tmp_path / "newer.hybrid"
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(newer, "w") as new:
        new.writestr(MANIFEST, json.dumps(json.loads(old.read(MANIFEST)) | {"format": 2, "hybrid_version": "9.0"}))
    with pytest.raises(ArtifactError, match=r"format 2, of hybrid 9\.0"):
        load(newer)


def test_what_a_bundle_does_not_tell(linear, animals):
    everything = b"\n".join(read_all(linear.bundle).values())
    with EmbeddingStore(linear.run / "index.sqlite", read_only=True) as store:
        images = store.images()
    assert len(images) > 80
    for secret in (str(animals), str(linear.run), "site-packages", *(image.sha256 for image in images)):
        assert secret.encode() not in everything
    assert not [name for name in Bundle(linear.bundle).manifest.members if name.endswith((".pkl", ".pt", ".bin"))]


def test_an_unpacked_bundle_holds_plain_onnx(linear, tmp_path):
    """Weights are found where each graph says that they lie, by whatever reads ONNX."""
    onnxruntime = pytest.importorskip("onnxruntime")
    zipfile.ZipFile(linear.bundle).extractall(tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "image/model.onnx"), providers=["CPUExecutionProvider"])
    encoder = load(linear.bundle).fitted.encoder
    pixels = np.random.default_rng(0).integers(0, 256, (2, *session.get_inputs()[0].shape[1:]), np.uint8)
    (embeddings,) = session.run(None, {"pixels": pixels})
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, encoder.encode_images(list(pixels)), atol=1e-5)
    with zipfile.ZipFile(linear.bundle) as archive:
        starts = [info.header_offset + 30 + len(info.filename) + len(info.extra) for info in archive.infolist()]
        assert not [start for start, info in zip(starts, archive.infolist(), strict=True) if info.extra and start % 64]


def test_what_cannot_be_done(linear, network, tmp_path, monkeypatch):
    with pytest.raises(EncoderError, match="without its text tower"):
        load(network.bundle, prompts=["okapi"])
    with pytest.raises(ArtifactError, match="cannot be saved as a run"):
        load(linear.bundle).save(tmp_path / "run")
    with pytest.raises(DeviceError, match="no execution provider Nonsense"):
        load(linear.bundle, provider="Nonsense")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(HybridError, match="onnxruntime, which is not installed"):
        load(linear.bundle)


def test_only_bundles_are_replaced(linear, hybrid, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("mine")
    assert "did not write" in hybrid("export", note, "--run", linear.run, rc=1).err
    assert note.read_text() == "mine"
