"""Several batches under way at once: the same store as a plain loop makes, and errors at their place."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.encoders.base import unit_norm
from hybrid.errors import EncoderError, HybridWarning
from hybrid.images.pipeline import read
from hybrid.images.sources import scan
from hybrid.images.stream import IN_FLIGHT, ahead
from hybrid.index.build import IndexSummary, build_index
from hybrid.index.store import EmbeddingStore

SIZES = [(300, 200), (201, 301), (64, 64), (30, 90), (641, 427)]


@pytest.fixture
def images(tmp_path, image) -> Path:
    """23 contents of many sizes, two copies (one much later), a PNG, a turned image and a torn one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(23):
        picture: Image.Image = image(number, SIZES[number % len(SIZES)])
        if number == 7:
            picture.save(folder / f"{number:02d}.png")
            continue
        exif = Image.Exif()
        exif[0x0112] = number % 8 + 1
        picture.save(folder / f"{number:02d}.jpg", quality=90, exif=exif)
    shutil.copy(folder / "01.jpg", folder / "01 copy.jpg")
    shutil.copy(folder / "02.jpg", folder / "22 copy.jpg")
    (folder / "10 torn.jpg").write_bytes((folder / "10.jpg").read_bytes()[:400])
    return folder


def clip(folder: Path, precision: str):
    return load_encoder(EncoderSettings(model=str(folder), precision=precision), "cpu")


def plain_loop(encoder, folder: Path, batch_size: int) -> dict[str, bytes]:
    """Vectors by hash: one thread, batch after batch, in the order of the paths."""
    contents: dict[str, object] = {}
    for record in scan([folder], labeled=False).records:
        image = read(record, encoder.prepare, min_side=encoder.min_side)
        if not image.reason:
            contents.setdefault(image.sha256, image.prepared)
    names, prepared = list(contents), list(contents.values())
    starts = range(0, len(names), batch_size)
    vectors = np.concatenate([encoder.encode_images(prepared[start : start + batch_size]) for start in starts])
    return {name: vector.tobytes() for name, vector in zip(names, vectors, strict=True)}


def stored(store: EmbeddingStore, fingerprint: str) -> dict[str, bytes]:
    hashes = [image.sha256 for image in store.images()]
    return {name: row.tobytes() for name, row in zip(hashes, store.embeddings(hashes, fingerprint), strict=True)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_store_is_that_of_a_plain_loop_for_any_number_of_workers(tmp_path, images, clip_folder, precision):
    expected = plain_loop(clip(clip_folder, precision), images, 8)
    contents = []
    for workers in (1, 2, 5):
        database = tmp_path / f"{workers}.sqlite"
        encoder = clip(clip_folder, precision)
        with EmbeddingStore(database) as store:
            summary = build_index(scan([images]), encoder, store, batch_size=8, workers=workers)
            assert stored(store, encoder.fingerprint) == expected
            contents.append([(image.record, image.sha256) for image in store.images()])
            # Rows lie in the order of the batches, whoever was ready first.
            order = store._db.connection.execute("SELECT sha256 FROM embeddings ORDER BY id").fetchall()
        assert [row[0] for row in order] == list(expected)
        assert (summary.encoded, summary.reused, len(summary.unreadable)) == (23, 2, 1)
    assert contents[0] == contents[1] == contents[2]


def test_too_little_memory_makes_the_batches_smaller_not_the_store(tmp_path, images, clip_folder):
    encoder = clip(clip_folder, "fp32")
    expected = plain_loop(encoder, images, 23)
    embed, sizes = encoder._embed, []

    def small(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return embed(batch)

    encoder._embed = small
    with EmbeddingStore(tmp_path / "store.sqlite") as store:
        with pytest.warns(HybridWarning, match="the encoder goes on with"):
            summary = build_index(scan([images]), encoder, store, batch_size=16)
        found = stored(store, encoder.fingerprint)
    assert summary.encoded == 23
    # Which of the two batches under way finds out first is chance.
    fitting = [size for size in sizes if size <= 5]
    assert sizes[0] == 16
    assert sum(fitting) == 23
    assert len(sizes) - len(fitting) <= 3, "no size is tried again once it did not fit"
    assert found.keys() == expected.keys()
    for name, vector in found.items():
        assert np.allclose(np.frombuffer(vector, np.float32), np.frombuffer(expected[name], np.float32), atol=1e-5)


# What is under way


class Watched:
    """Embeds the place of an image in its folder; calls `watch` with every batch of places before that."""

    name = identity = fingerprint = "watched"
    dim, logit_scale, uses_templates, notes = 2, 1.0, True, ()
    min_side, batch_size = 1, 4

    def __init__(self, watch: Callable[[list[int]], None] = lambda places: None) -> None:
        self.watch = watch
        self.prepared = 0

    def check(self, records) -> None:
        pass

    def prepare(self, image, record) -> int:
        self.prepared += 1
        return int(Path(record.path).stem)

    def encode_images(self, prepared: Sequence[int]) -> np.ndarray:
        self.watch(list(prepared))
        return unit_norm(np.array([[1 + place, 1] for place in prepared]).reshape(-1, 2))


@pytest.fixture
def row(tmp_path) -> Callable[[int], Path]:
    """A folder of small images that are all different."""

    def make(count: int) -> Path:
        folder = tmp_path / "row"
        folder.mkdir()
        for number in range(count):
            Image.new("RGB", (4, 4), (number % 256, number // 256, 0)).save(folder / f"{number:04d}.png")
        return folder

    return make


def build(folder: Path, encoder: Watched, store: EmbeddingStore, **more: object) -> IndexSummary:
    return build_index(scan([folder]), encoder, store, batch_size=4, workers=2, **more)


def test_two_batches_are_under_way_at_once(row, store):
    together = threading.Barrier(2, timeout=20)
    build(row(16), Watched(lambda places: together.wait()), store)
    assert len(store.images()) == 16


def test_images_wait_in_bounded_number(row, store, monkeypatch):
    """Never more than the batches under way, the one being written, and what is read ahead for the next."""
    encoder, written, waiting = Watched(), [0], []
    write = EmbeddingStore.write_batch

    def noted(self, images, *rest):
        waiting.append(encoder.prepared - written[0])
        write(self, images, *rest)
        written[0] += len(images)

    monkeypatch.setattr(EmbeddingStore, "write_batch", noted)
    build(row(120), encoder, store)
    assert written == [120]
    assert max(waiting) <= (IN_FLIGHT + 1) * 4 + ahead(4, 2)


def test_an_error_in_flight_surfaces_and_the_batches_before_it_are_kept(row, store):
    refused = 0

    def watch(places: list[int]) -> None:
        if refused in places:
            raise EncoderError("not finite", got=str(refused))

    folder = row(16)
    for refused, committed in ((0, 0), (9, 8), (15, 12)):
        with pytest.raises(EncoderError, match="not finite") as caught:
            build(folder, Watched(watch), store)
        assert caught.value.got == str(refused)
        assert len(store.images()) == len(store.embedded("watched")) == committed
    summary = build(folder, Watched(), store)
    assert (summary.unchanged, summary.encoded) == (12, 4)


def test_an_error_while_writing_ends_the_run(row, store, monkeypatch):
    batches = []
    write = EmbeddingStore.write_batch

    def fail(self, images, *rest):
        batches.append(images)
        if len(batches) == 3:  # the first writes new labels, of which there are none
            raise OSError("no space left on device")
        write(self, images, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingStore, "write_batch", fail)
        with pytest.raises(OSError, match="no space left"):
            build(row(40), Watched(), store)
    assert len(store.images()) == 4
