from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.encoders.precomputed import ARRAYS, PrecomputedEncoder
from hybrid.errors import EncoderError
from hybrid.images.records import ImageRecord

PATHS = ["test/cup/1.jpg", "train/cup/1.jpg", "cup/1.jpg", "1.jpg", "train/sea_horse/2.jpg"]
NAMES = ["sea horse", "Cup", "crème-brûlée"]
RNG = np.random.default_rng(0)
EMBEDDING = 3 * RNG.normal(size=(len(PATHS), 8)).astype(np.float32)
TEXT = 5 * RNG.normal(size=(len(NAMES), 8)).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=-1, keepdims=True))


def write(file: Path, **changes: object) -> Path:
    """Write the vectors; an array that is changed to None is left out."""
    arrays = {"path": PATHS, "embedding": EMBEDDING, "text": NAMES, "text_embedding": TEXT, "logit_scale": 50.0}
    np.savez(file, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return file


def record(path: str) -> ImageRecord:
    return ImageRecord(path, "/data", None, None, 1, 1)


@pytest.fixture
def encoder(tmp_path) -> PrecomputedEncoder:
    return PrecomputedEncoder(write(tmp_path / "vectors.npz"))


def lookup(encoder: PrecomputedEncoder, *paths: str) -> np.ndarray:
    return encoder.encode_images([encoder.prepare(None, record(path)) for path in paths])


def test_an_image_finds_the_longest_tail_of_its_path(encoder):
    for path, row in (
        ("/data/caltech/test/cup/1.jpg", 0),
        ("/data/caltech/train/cup/1.jpg", 1),
        ("/data/caltech/other/cup/1.jpg", 2),
        ("/data/caltech/cup/other/1.jpg", 3),
        ("/train/sea_horse/2.jpg", 4),
        ("test/cup/1.jpg", 0),
        ("/data/photos.tar/train/cup/1.jpg", 1),
    ):
        encoder.check([record(path)])
        assert np.allclose(lookup(encoder, path), unit(EMBEDDING[[row]]), atol=1e-6)


def test_a_vector_belongs_to_one_image(tmp_path, encoder):
    """By the end of its path another image may find it, too: an error that lists them, unless they are copies."""
    one, two, copy = (tmp_path / place / "1.jpg" for place in ("a", "b", "c"))
    for file, data in ((one, b"one"), (two, b"two"), (copy, b"one")):
        file.parent.mkdir()
        file.write_bytes(data)
    encoder.check([record(str(one)), record(str(copy)), record("/data/test/cup/1.jpg")])
    with pytest.raises(EncoderError, match="different photos find the same vector") as caught:
        encoder.check([record(str(one)), record(str(two))])
    assert caught.value.got == f"'1.jpg' of {one}, {two}"
    for changes, message in (
        ({"path": [*PATHS[:3], "./cup//1.jpg", "cup/1.jpg"]}, r"2 paths more than once(.|\n)*got: +cup/1.jpg\n"),
        ({"text": ["a", "b", "a"]}, r"several vectors(.|\n)*got: +a\n"),
    ):
        with pytest.raises(EncoderError, match=message):
            PrecomputedEncoder(write(tmp_path / "twice.npz", **changes))


def test_vectors_are_float32_of_unit_norm_whatever_the_file_holds(tmp_path):
    for dtype in (np.float16, np.float32, np.float64, np.int32):
        embedding, text = (10 * EMBEDDING).astype(dtype), (10 * TEXT).astype(dtype)
        scale = np.array([12.5]).astype(np.float16)
        file = write(tmp_path / "vectors.npz", embedding=embedding, text_embedding=text, logit_scale=scale)
        encoder = PrecomputedEncoder(file)
        images, texts = lookup(encoder, *PATHS), encoder.encode_texts(NAMES)
        assert images.dtype == texts.dtype == np.float32
        assert np.allclose(images, unit(embedding), atol=1e-6)
        assert np.allclose(texts, unit(text), atol=1e-6)
        assert (encoder.dim, encoder.logit_scale) == (8, 12.5)
        assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, 8)


def test_a_name_is_found_as_a_class_whatever_its_spelling(encoder):
    spellings = {"sea horse": 0, "sea_horse": 0, "Sea-Horse": 0, "cup": 1, "CUP": 1, "Crème Bru\u0302le\u0301e": 2}
    for name, row in spellings.items():
        assert np.allclose(encoder.encode_texts([name]), unit(TEXT[[row]]), atol=1e-6)
        assert encoder.can_encode([name, "zebra", name]) == [True, False, True]
        # In the order asked, and again.
        assert np.allclose(encoder.encode_texts(["cup", name, "cup"]), unit(TEXT[[1, row, 1]]), atol=1e-6)


def test_missing_images_and_names_are_counted_and_listed(encoder):
    known = record("/data/test/cup/1.jpg")
    # A tail is of whole names.
    missing = [record(f"/data/new/{number}1.jpg") for number in range(12)]
    with pytest.raises(EncoderError, match="no vector for 12 of 13 photos") as caught:
        encoder.check([known, *missing])
    assert caught.value.got.startswith("/data/new/01.jpg, /data/new/11.jpg")
    assert caught.value.got.endswith("and 2 more")
    with pytest.raises(EncoderError, match="no vector for 1 of 1 photos") as caught:
        encoder.prepare(None, record("/data/new.png"))
    assert caught.value.got == "/data/new.png"
    with pytest.raises(EncoderError, match="no text vector for 2 of 3 names") as caught:
        encoder.encode_texts(["zebra", "cup", "sea lion"])
    assert caught.value.got == "zebra, sea lion"


def test_it_is_loaded_by_its_prefix_and_says_what_the_file_is(tmp_path, monkeypatch):
    file = write(tmp_path / "vectors.npz", model="ViT-B-32/openai")
    monkeypatch.setenv("HOME", str(tmp_path))
    encoder = load_encoder(EncoderSettings(model="precomputed:~/vectors.npz"))
    assert encoder.name == f"precomputed:{file}"
    assert encoder.notes == (f"encoder: vectors from {file}, computed by ViT-B-32/openai; 5 photos, 3 names",)
    assert not encoder.uses_templates
    # The fingerprint follows the content, not the place.
    (tmp_path / "copy.npz").write_bytes(file.read_bytes())
    assert PrecomputedEncoder(tmp_path / "copy.npz").fingerprint == encoder.fingerprint
    other = write(tmp_path / "other.npz", model="ViT-B-32/openai", logit_scale=51.0)
    assert PrecomputedEncoder(other).fingerprint != encoder.fingerprint


def test_a_missing_file_is_named():
    for name in ("nowhere.npz", "~~~/nowhere.npz"):
        with pytest.raises(EncoderError, match="does not exist") as caught:
            load_encoder(EncoderSettings(model=f"precomputed:{name}"))
        assert caught.value.got == name


def test_arrays_that_do_not_fit_are_shown_with_their_shapes(tmp_path):
    for name, value in (
        ("path", PATHS[:-1]),
        ("path", "one"),
        ("path", [PATHS]),
        ("embedding", EMBEDDING[0]),
        ("embedding", EMBEDDING[:, :5]),
        ("text", NAMES * 2),
        ("text_embedding", TEXT[:1]),
        ("logit_scale", [50.0, 60.0]),
    ):
        with pytest.raises(EncoderError, match="do not fit together") as caught:
            PrecomputedEncoder(write(tmp_path / "vectors.npz", **{name: value}))
        assert f"{name} {np.shape(value)}" in caught.value.got


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_arrays_with_impossible_values_are_refused(tmp_path):
    for name, array in (("embedding", EMBEDDING), ("text_embedding", TEXT), ("logit_scale", np.array(50.0))):
        for broken, fault in (
            (array * np.nan, "with values that are not finite"),
            (array / 0, "with values that are not finite"),
            (array.astype(str), "that is not of numbers"),
            (array * 0, "with vectors of length zero"),
        ):
            if array.ndim and broken.dtype == array.dtype:
                broken[:-1] = array[:-1]  # only the last vector
            if array.ndim or "zero" not in fault:
                with pytest.raises(EncoderError, match=f"array {name} {fault}"):
                    PrecomputedEncoder(write(tmp_path / "vectors.npz", **{name: broken}))


def test_a_missing_array_is_named(tmp_path):
    for lacking in ARRAYS:
        with pytest.raises(EncoderError, match="lacks arrays") as caught:
            PrecomputedEncoder(write(tmp_path / "vectors.npz", **{lacking: None}))
        assert caught.value.got == f"without {lacking}"


def test_a_file_of_another_kind_or_a_cut_off_one_is_refused(tmp_path):
    file, one_array = write(tmp_path / "vectors.npz"), io.BytesIO()
    whole = file.read_bytes()
    np.save(one_array, EMBEDDING)
    others = [b"", b"not an archive", b"PK\x03\x04 torn", one_array.getvalue(), pickle.dumps({"path": PATHS})]
    for content in (*others, *(whole[: int(share * len(whole))] for share in (0.2, 0.5, 0.9, 0.99))):
        file.write_bytes(content)
        with pytest.raises(EncoderError, match="cannot read"):
            PrecomputedEncoder(file)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    victim = tmp_path / "victim"
    paths = np.array([*PATHS[:-1], Payload(victim)], dtype=object)
    with pytest.raises(EncoderError, match="cannot read") as caught:
        PrecomputedEncoder(write(tmp_path / "vectors.npz", path=paths))
    assert caught.value.expected == "an .npz of plain arrays"
    assert not victim.exists()


def test_a_damaged_file_is_refused(tmp_path):
    arrays = {"path": PATHS, "embedding": EMBEDDING, "text": NAMES, "text_embedding": TEXT, "logit_scale": 50.0}
    for save in (np.savez, np.savez_compressed):
        file = tmp_path / "vectors.npz"
        save(file, **arrays)
        with zipfile.ZipFile(file) as archive:
            entry = archive.getinfo("embedding.npy")
        data = bytearray(file.read_bytes())
        middle = entry.header_offset + 60 + entry.compress_size // 2
        data[middle : middle + 8] = bytes(255 - byte for byte in data[middle : middle + 8])
        file.write_bytes(data)
        with pytest.raises(EncoderError, match="cannot read"):
            PrecomputedEncoder(file)


def test_what_claims_more_than_it_holds_is_refused_before_memory_is_asked_for(tmp_path, monkeypatch):
    """A header of 2 TB in a small file, and arrays that are as large as they say, but not for this machine."""
    file = write(tmp_path / "vectors.npz")
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**30, 512)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (members | {"embedding.npy": header.getvalue() + b"\0" * 4096}).items():
            archive.writestr(name, content)
    with pytest.raises(EncoderError, match="cannot read") as caught:
        PrecomputedEncoder(tmp_path / "bomb.npz")
    assert "embedding.npy of 2,199,023,255,552 bytes has 4,096" in caught.value.got
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    with pytest.raises(EncoderError, match="it claims more than the memory holds"):
        PrecomputedEncoder(file)


def test_what_is_not_an_archive_or_not_of_its_types_is_named(tmp_path):
    file = tmp_path / "vectors.npz"
    for content, got in ((b"", "an empty file"), (b"<html>no", "an HTML page"), (b"\0" * 99, "zeros alone")):
        file.write_bytes(content)
        with pytest.raises(EncoderError, match="cannot read") as caught:
            PrecomputedEncoder(file)
        assert caught.value.got.startswith(got)
        assert "numpy.savez" in caught.value.fix
    for name, array, message in (
        ("path", np.arange(len(PATHS)), "array path that is not of text"),
        ("logit_scale", np.float32(-1), "logit_scale that is not positive"),
    ):
        with pytest.raises(EncoderError, match=message):
            PrecomputedEncoder(write(file, **{name: array}))
