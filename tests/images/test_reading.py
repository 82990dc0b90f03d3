from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid.images import reading
from hybrid.images.decode import Scaled, decode
from hybrid.images.reading import largest_min_side, read
from hybrid.images.records import ImageRecord


def record_of(file: Path) -> ImageRecord:
    return ImageRecord(str(file), str(file.parent), None, None, 0, 0)


@pytest.fixture
def file(tmp_path, image) -> Path:
    image(1, (320, 240)).save(tmp_path / "ä b.jpg", quality=95)
    return tmp_path / "ä b.jpg"


def test_a_image_with_its_hash_and_what_is_made_of_it(file):
    record = record_of(file)
    seen = []

    def prepare(image: Scaled, of: ImageRecord) -> str:
        seen.append((image, of))
        return "prepared"

    found = read(record, prepare, min_side=None)
    assert (found.record, found.prepared, found.reason) == (record, "prepared", "")
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    ((image, of),) = seen
    assert of is record
    assert np.array_equal(image.rgb, np.asarray(decode(file.read_bytes())))


@pytest.mark.parametrize(("cover", "height"), [(None, 240), (240, 240), (120, 120), (31, 60), (1, 30)])
def test_the_cover_is_handed_on(file, min_side, height):
    found = read(record_of(file), lambda image, record: image.rgb.shape, min_side=min_side)
    assert found.prepared[0] == height


def test_the_bytes_are_read_and_decoded_once(file, monkeypatch):
    calls = []
    for owner, name in ((ImageRecord, "read_bytes"), (reading, "decode_scaled")):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, name=name, call=call: calls.append(name) or call(*given))
    read(record_of(file), lambda image, record: (image, image))
    assert calls == ["read_bytes", "decode_scaled"]


def test_a_known_content_is_not_decoded(file, monkeypatch):
    monkeypatch.setattr(reading, "decode_scaled", lambda *given: pytest.fail("decoded"))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    found = read(record_of(file), lambda image, record: pytest.fail("prepared"), known={sha256})
    assert (found.sha256, found.prepared, found.reason) == (sha256, None, "")


def test_by_default_a_image_is_only_found_to_be_readable(file):
    found = read(record_of(file))
    assert (found.prepared, found.reason) == (None, "")
    file.write_bytes(file.read_bytes()[:500])
    assert read(record_of(file)).reason


def test_reasons_instead_of_errors(tmp_path, file):
    whole = file.read_bytes()
    cases = {
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"not an image", "not an image, or damaged"),
        "torn.jpg": (whole[: len(whole) // 2], "the image is"),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        found = read(record_of(tmp_path / name), lambda image, record: pytest.fail("prepared"))
        assert found.reason.startswith(reason)
        assert (found.record.path, found.sha256, found.prepared) == (str(tmp_path / name), "", None)
    assert read(record_of(tmp_path / "missing.jpg")).reason == os.strerror(2)
    assert read(record_of(tmp_path)).reason == os.strerror(21)


def test_an_error_without_a_number_has_its_words(file, monkeypatch):
    def refuse(self: ImageRecord) -> bytes:
        raise OSError("the shard is cut off")

    monkeypatch.setattr(ImageRecord, "read_bytes", refuse)
    assert read(record_of(file)).reason == "the shard is cut off"


def test_errors_of_prepare_are_no_ones_image(file):
    """A fault of ours must not look like a damaged image."""

    def fail(image: Scaled, record: ImageRecord) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read(record_of(file), fail)


def test_other_formats_are_read_too(tmp_path):
    Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    found = read(record_of(tmp_path / "clear.png"), lambda image, record: image.rgb, min_side=2)
    assert (found.prepared == 255).all()
    assert found.prepared.shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("covers", "cover"),
    [([], 1), ([1], 1), ([448, 64], 448), ([64, 448, 1], 448), ([None], None), ([448, None], None), ([None, 1], None)],
)
def test_one_cover_for_several(min_sides, min_side):
    assert largest_min_side(min_sides) == min_side
    assert largest_min_side(iter(min_sides)) == min_side
