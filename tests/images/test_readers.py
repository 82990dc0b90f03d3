"""Reading processes: the same images as threads read, and threads where a process is not there."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid.images import pipeline, readers
from hybrid.images.boxes import Box
from hybrid.images.decode import Scaled
from hybrid.images.decoders import LibjpegTurbo
from hybrid.images.inputs import to_records
from hybrid.images.nvjpeg import NvJpeg, grouped, plan_of
from hybrid.images.pipeline import read_each
from hybrid.images.readers import CHUNK_BYTES, SLOTS, Found, Readers, by_size
from hybrid.images.records import BoxRecord, ImageRecord

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memory without a name on this system")


def stand_in(data, device) -> list[torch.Tensor]:
    """Of an image of the device its first bytes, so that a mixture of two would be seen."""
    return [
        torch.from_numpy(LibjpegTurbo().decode(one.numpy().tobytes()).rgb).permute(2, 0, 1).contiguous() for one in data
    ]


@pytest.fixture
def files(tmp_path, picture, encode) -> Path:
    """40 files: JPEGs for the device, others for the CPU, some that cannot be read."""
    for number in range(40):
        kind, options = ("PNG", {}) if number % 9 == 4 else ("JPEG", {"quality": 90})
        data = encode(picture(60 + number, 50, seed=number), kind, **options)
        (tmp_path / f"{number:02d}.jpg").write_bytes(data[: 300 if number in (7, 20) else None])
    (tmp_path / "21.jpg").write_bytes(b"")
    (tmp_path / "22.jpg").write_bytes((tmp_path / "23.jpg").read_bytes())
    return tmp_path


@pytest.fixture
def decoder(monkeypatch) -> Iterator[NvJpeg]:
    monkeypatch.setattr(pipeline, "MANY", 1)
    made = NvJpeg("cpu", LibjpegTurbo(), grouped(stand_in))
    made.readers = Readers(2)
    yield made
    made.readers.close()


def begun(made: Readers) -> Readers:
    made.start()
    while made._starting:
        reader = made._starting.popleft()
        assert readers._receive(reader._answers) == b""
        made._idle.append(reader)
    return made


def pixels(image: Scaled, record: ImageRecord) -> bytes:
    return np.asarray(image.rgb).tobytes()


def test_a_process_gives_what_threads_give(files, decoder, monkeypatch):
    boxes = (Box.of(0.1, 0.1, 0.5, 0.5), Box.of(0.2, 0, 0.2, 1))
    parts = {n: [BoxRecord.of(record, box, "", 1) for box in boxes] for n, record in enumerate(to_records(files))}
    records = [one for n, record in enumerate(to_records(files)) for one in (parts[n] if n % 4 == 3 else [record])]
    (files / "11.jpg").unlink()
    (files / "12.jpg").unlink()
    os.mkfifo(files / "12.jpg")
    alone = list(read_each(records, pixels, decoder=LibjpegTurbo(), min_side=None))
    begun(decoder.readers)
    here = []
    fetch = pipeline._fetch
    monkeypatch.setattr(pipeline, "_fetch", lambda record, *rest: here.append(record) or fetch(record, *rest))
    known = {alone[30].sha256, alone[31].sha256}
    for options in ({}, {"workers": 1}, {"batch_size": 7}):
        found = list(read_each(records, pixels, decoder=decoder, min_side=None, known=known, **options))
        assert [one.record for one in found] == records
        for one, expected in zip(found, alone, strict=True):
            assert (one.sha256, one.size, one.reason) == (expected.sha256, expected.size, expected.reason)
            assert one.prepared == (None if one.sha256 in known else expected.prepared)
        assert sorted(decoder.readers._free) == list(range(SLOTS)), "all memory is free again"
    assert len(here) < 3 * len(records), "processes read some of them"


def test_what_a_process_answers(files, tmp_path):
    made = begun(Readers(1))
    names = ["00.jpg", "04.jpg", "21.jpg", "22.jpg"]
    large, member = tmp_path / "large.jpg", tmp_path / "shard.tar"
    with large.open("wb") as file:
        file.truncate(CHUNK_BYTES)
    member.write_bytes(b"head" + (files / "00.jpg").read_bytes() + b"tail")
    size = (files / "00.jpg").stat().st_size
    records = [ImageRecord(str(files / name), "", None, None, 0, 0) for name in names]
    records += [ImageRecord(str(large), "", None, None, 0, 0), ImageRecord("gone.jpg", "", None, None, 0, 0)]
    records.append(ImageRecord("shard.tar/00.jpg", "", None, None, size, 0, str(member), 4))
    answers, slot = made.read(records) or pytest.fail("no process")
    assert answers[4] is None, "it does not fit beside the others"
    assert answers[5] == os.strerror(2)
    for record, answer in zip(records, answers, strict=True):
        if isinstance(answer, Found):
            data = record.read_bytes()
            assert slot.memory[answer.start : answer.start + answer.size] == data
            assert answer.sha256 == hashlib.sha256(data).hexdigest()
            assert answer.plan == plan_of(data)
    assert answers[0].plan is not None
    assert answers[1].plan is None
    assert answers[0].plan == answers[6].plan
    assert made.read(to_records([np.zeros((4, 4, 3), np.uint8)])) is None, "not a file"
    held = [made.read(records[:1]) for _ in range(SLOTS - 1)]
    assert None not in held
    assert made.read(records[:1]) is None, "no memory: the caller reads"
    del held
    assert made.read(records[:1]) is not None
    processes = [reader.process for reader in made._idle]
    made.close()
    assert [process.returncode for process in processes] == [0]
    assert made.read(records[:1]) is None


def test_a_process_that_is_killed_is_done_without(files, decoder):
    records = to_records(files)
    begun(decoder.readers)
    for reader in decoder.readers._idle:
        os.kill(reader.process.pid, signal.SIGKILL)
        reader.process.wait()
    found = list(read_each(records, pixels, decoder=decoder, min_side=None))
    alone = list(read_each(records, pixels, decoder=LibjpegTurbo(), min_side=None))
    assert [one.prepared for one in found] == [one.prepared for one in alone]
    assert not decoder.readers._idle


def test_requests_fit_into_their_memory():
    sizes = [3, 3, 3, 20, 5, 5, 1]
    records = [ImageRecord(str(n), "", None, None, size * CHUNK_BYTES // 10, 0) for n, size in enumerate(sizes)]
    chunks = [[[record] for record in some] for some in (records[:5], records[5:])]
    parts = [[int(record.path) for (record,) in part] for part in by_size(chunks)]
    assert parts == [[0, 1, 2], [3], [4], [5, 6]]
