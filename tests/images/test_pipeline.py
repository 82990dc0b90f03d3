"""Records to prepared images: by one image in a reading thread or by batches, with the same result."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest
from PIL import Image

from hybrid.errors import HybridWarning, UnreadableImageError
from hybrid.images.decode import Scaled, decode
from hybrid.images.decoders import AnyDecoder, BatchDecoder, Pillow
from hybrid.images.pipeline import (
    ReadImage,
    largest_min_side,
    read,
    read_and_decode,
    read_batches,
    read_each,
    read_image,
)
from hybrid.images.records import ImageRecord
from hybrid.images.stream import ahead


@pytest.fixture(params=["default", "one", "batch"])
def decoder(request) -> AnyDecoder | None:
    return {"default": None, "one": Pillow(), "batch": request.getfixturevalue("batch_decoder")}[request.param]


def record_of(file: Path) -> ImageRecord:
    return ImageRecord(str(file), str(file.parent), None, None, 0, 0)


def gray(image: Scaled, record: ImageRecord) -> int:
    return int(image.rgb[0, 0, 0])


@pytest.fixture
def file(tmp_path, image) -> Path:
    image(1, (320, 240)).save(tmp_path / "ä b.jpg", quality=95)
    return tmp_path / "ä b.jpg"


@pytest.fixture
def grays(tmp_path) -> list[ImageRecord]:
    for number in range(40):
        Image.new("RGB", (6, 4), (number,) * 3).save(tmp_path / f"{number:02d}.png")
    return [record_of(tmp_path / f"{number:02d}.png") for number in range(40)]


def test_an_image_with_its_hash_and_what_is_made_of_it(file, decoder):
    record = record_of(file)
    seen = []

    def prepare(image: Scaled, of: ImageRecord) -> str:
        seen.append((image, of))
        return "prepared"

    data = file.read_bytes()
    expected = ReadImage(record, hashlib.sha256(data).hexdigest(), len(data), "prepared")
    assert read(record, prepare, min_side=None, decoder=decoder) == expected
    assert read_image(record, prepare, min_side=None, decoder=decoder) == expected
    assert list(read_each([record], prepare, min_side=None, decoder=decoder)) == [expected]
    for image, of in seen:
        assert of is record
        assert np.array_equal(image.rgb, np.asarray(decode(data)))
    assert np.array_equal(read_and_decode(record), np.asarray(decode(data)))
    for min_side, height in ((None, 240), (240, 240), (120, 120), (31, 60), (1, 30)):
        image = read(record, lambda image, record: image.rgb.shape, min_side=min_side, decoder=decoder)
        assert image.prepared[0] == height


def test_the_bytes_are_read_and_decoded_once(file, decodes, monkeypatch):
    reads, read_bytes = [], ImageRecord.read_bytes
    monkeypatch.setattr(ImageRecord, "read_bytes", lambda record: reads.append(record) or read_bytes(record))
    read(record_of(file), lambda image, record: (image, image))
    assert (len(reads), len(decodes)) == (1, 1)


def test_what_is_not_decoded(file, decodes, batch_decoder):
    data = file.read_bytes()
    expected = ReadImage(record_of(file), hashlib.sha256(data).hexdigest(), len(data))
    never = lambda *given: pytest.fail("prepared")  # noqa: E731
    for decoder in (None, batch_decoder):
        known = read_each([record_of(file)], never, known={expected.sha256}, decoder=decoder)
        assert list(known) == list(read_each([record_of(file)], None, decoder=decoder)) == [expected]
    assert not decodes
    assert not batch_decoder.sizes


def test_reasons_instead_of_errors(tmp_path, file, decoder):
    assert (read(record_of(file)).prepared, read(record_of(file)).reason) == (None, "")
    whole = file.read_bytes()
    cases = {
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"not an image", "not an image but text"),
        "torn.jpg": (whole[: len(whole) // 2], "the image is"),
        "missing.jpg": (None, os.strerror(2)),
        "": (None, os.strerror(21)),
    }
    for name, (data, reason) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        record = record_of(tmp_path / name)
        image = read(record, lambda image, record: pytest.fail("prepared"), decoder=decoder)
        assert image.reason.startswith(reason)
        assert image == ReadImage(record, reason=image.reason)
        assert read(record).reason == image.reason, "by default it is only found to be readable"
        assert bool(read(record, None).reason) == (data is None), "what is only hashed need not be an image"
        with pytest.raises(UnreadableImageError, match=f"cannot read {record.path}") as caught:
            read_image(record, decoder=decoder)
        assert caught.value.got == image.reason
    assert image.error().fix
    with patch.object(ImageRecord, "read_bytes", side_effect=OSError("the shard is cut off")):
        assert read(record_of(file)).reason == "the shard is cut off"


def test_errors_of_prepare_are_no_images_fault(file, decoder):
    """A fault of ours must not look like a damaged image."""
    for error in (ZeroDivisionError("ours"), UnreadableImageError("ours"), OSError("ours")):
        with pytest.raises(type(error), match="ours"):
            list(read_each([record_of(file)], Mock(side_effect=error), decoder=decoder))


def test_one_min_side_for_several():
    for min_sides, min_side in (([], 1), ([448, 64, 1], 448), ([None], None), ([448, None], None), ([None, 1], None)):
        assert largest_min_side(min_sides) == largest_min_side(iter(min_sides)) == min_side


def test_batches_come_in_order_with_the_unreadable_at_their_places(grays, decoder):
    unreadable = {0, 7, 8, 9, 10, 11, 20, 39}
    for number in unreadable:
        Path(grays[number].path).write_bytes(b"torn")
    Path(grays[20].path).unlink()
    for workers in (None, 1, 3):
        batches = list(read_batches(iter(grays), gray, batch_size=4, workers=workers, decoder=decoder))
        assert [len(batch) for batch in batches] == [4] * 10
        images = [image for batch in batches for image in batch]
        assert [image.record for image in images] == grays
        assert [image.prepared for image in images] == [None if n in unreadable else n for n in range(40)]
        assert {n for n, image in enumerate(images) if image.reason} == unreadable
    if isinstance(decoder, BatchDecoder):
        assert decoder.sizes == [*[4] * 5, 3, *[4] * 4] * 3, "what has no bytes is not decoded"
        assert len(decoder.threads) <= 3, "one at a time"


def test_known_contents_may_grow_while_reading(grays, decoder):
    """As an index does that meets the same content again."""
    for number in range(20, 40):
        Path(grays[number].path).write_bytes(Path(grays[number - 20].path).read_bytes())
    known: set[str] = set()
    decoded = 0
    for image in read_each(grays, gray, known=known, batch_size=2, workers=1, decoder=decoder):
        decoded += image.prepared is not None
        known.add(image.sha256)
    assert decoded == 20


def test_memory_is_bounded(grays, decoder):
    taken = 0

    def records() -> Iterator[ImageRecord]:
        nonlocal taken
        for record in grays * 5:
            taken += 1
            yield record

    images = read_each(records(), gray, batch_size=4, workers=2, decoder=decoder)
    assert taken == 0
    for count, _ in enumerate(images, 1):
        # A decoder of batches has one batch at work, one that waits for it and one that is being taken.
        assert taken <= count + ahead(4, 2) + (3 * 4 if isinstance(decoder, BatchDecoder) else 0)
    assert taken == 200


def test_reading_goes_on_while_the_caller_computes(grays, decoder):
    """The caller holds its first batch until the next one has been prepared."""
    prepared = threading.Semaphore(0)

    def prepare(image: Scaled, record: ImageRecord) -> None:
        prepared.release()

    batches = read_batches(grays, prepare, batch_size=4, workers=2, decoder=decoder)
    next(batches)
    for _ in range(8):
        assert prepared.acquire(timeout=10)


def test_what_is_not_a_file_or_too_large_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(2**33)
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "kernel.jpg").symlink_to("/proc/kmsg")
    for name, reason in (
        ("pipe.jpg", "not a file but a named pipe"),
        ("device.jpg", "not a file but a device"),
        ("sparse.jpg", "the file is too large for an image: 8.0 GiB, the limit is 1.3 GiB"),
        ("kernel.jpg", ("the file is empty", os.strerror(1), os.strerror(2), os.strerror(13))),
    ):
        assert read(record_of(tmp_path / name)).reason.startswith(reason), name
    # A member that claims more than its shard holds.
    record = ImageRecord("s.tar/a.jpg", "s", None, None, 2**40, 0, str(tmp_path / "s.tar"), 4)
    (tmp_path / "s.tar").write_bytes(b"headJPEG")
    assert record.read_bytes() == b"JPEG"
    assert read(record).reason.startswith("not an image")


def test_notes_are_warned_of_once_at_the_end(tmp_path, file):
    for number in range(7):
        (tmp_path / f"{number}.jpg").write_bytes(file.read_bytes()[:-2])
    records = [record_of(tmp_path / f"{number}.jpg") for number in range(7)]
    with pytest.warns(
        HybridWarning, match=r"7 photos read with a note: .*0\.jpg \(its last bytes.* and 2 more"
    ) as caught:
        images = list(read_each(records, batch_size=2))
    assert len(caught) == 1
    assert all(image.note and not image.reason for image in images)


def test_an_error_in_the_middle_of_a_chunk_comes_at_its_turn(grays, decoder):
    """After the images before it, and without any behind it."""

    def prepare(image: Scaled, record: ImageRecord) -> int:
        if (level := gray(image, record)) == 29:
            raise ZeroDivisionError("ours")
        return level

    seen = []
    images = read_each(grays, prepare, batch_size=32, workers=1, decoder=decoder)
    with pytest.raises(ZeroDivisionError, match="ours"):
        [seen.append(image.prepared) for image in images]
    assert seen == list(range(29))


def test_an_abandoned_reader_ends_its_threads(grays, decoder):
    before = set(threading.enumerate())
    images = read_each(grays, gray, batch_size=4, workers=3, decoder=decoder)
    next(images)
    assert set(threading.enumerate()) - before
    images.close()
    assert not set(threading.enumerate()) - before
