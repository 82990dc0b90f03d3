"""Parts: what is written is read again, and nothing else is."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra parquet: pip install 'hybrid-classifier[parquet]'")

from hybrid.cluster import parts
from hybrid.cluster.parts import PartInfo, PartRow, check_part, iterate_part, read_info, read_part, writing_part
from hybrid.errors import StoreError
from hybrid.images.records import ImageRecord

DIM = 8


def make_rows(count):
    vectors = np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        PartRow(ImageRecord(f"/data/{i}.jpg", "/data", "ab"[i % 2], None, 10 + i, 2**60 + i), f"{i:064x}", vectors[i])
        for i in range(count)
    ]
    rows[1] = PartRow(rows[1].record, reason="it is not an image")
    rows[2] = PartRow(
        ImageRecord("/s.tar/1.jpg", "/s.tar", None, "test", 5, 7, "/s.tar", 512, 3, 2**62), "ff", vectors[2]
    )
    return rows


def make_part(folder, count=300):
    rows = make_rows(count)
    info = PartInfo(encoder="tiny", identity="i", fingerprint="f", dim=DIM, shard=2, rows=count, manifest="m")
    with writing_part(folder / info.file_name, info) as write:
        write(rows[:100])
        write(rows[100:])
    return folder / info.file_name, info, rows


def test_rows_come_back_in_order_with_vectors_of_unit_norm(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "CHUNK", 128)
    file, info, rows = make_part(tmp_path)
    assert read_info(file) == check_part(file, "f") == info
    batches = list(read_part(file, "f"))
    assert [r for b in batches for r in b.records] == [row.record for row in rows]
    assert [h for b in batches for h in b.hashes] == [row.sha256 for row in rows]
    assert [r for b in batches for r in b.reasons] == [row.reason for row in rows]
    vectors = np.concatenate([b.vectors for b in batches])
    assert not vectors[1].any()
    vectors, expected = np.delete(vectors, 1, 0), np.stack([row.vector for row in rows if row.reason is None])
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert (vectors * expected).sum(axis=1).min() > 0.99999
    (some,) = iterate_part(file, columns=["sha256"], rows=1000)
    assert some.schema.names == ["sha256"]


def test_any_changed_byte_is_an_error(tmp_path):
    """Or it changes nothing that is read, as in the names of programs."""
    file, _, _ = make_part(tmp_path, 20)
    data = file.read_bytes()
    whole = [batch.to_pydict() for batch in iterate_part(file)]
    for place in range(0, len(data), 3):
        torn = bytearray(data)
        torn[place] ^= 1 << (place % 8)
        file.write_bytes(torn)
        with suppress(StoreError):
            assert [batch.to_pydict() for batch in iterate_part(file, "f")] == whole, place


@pytest.mark.parametrize("keep", [0, 3, 1000, -1, None])
def test_a_part_that_is_cut_off_or_missing_is_named(tmp_path, keep):
    file, _, _ = make_part(tmp_path, 20)
    data = file.read_bytes()
    file.unlink()
    if keep is not None:
        file.write_bytes(data[:keep])
    with pytest.raises(StoreError, match="embed run") as raised:
        check_part(file)
    assert str(file) in str(raised.value)


def test_vectors_of_another_encoder_and_those_that_are_none_are_refused(tmp_path):
    file, info, rows = make_part(tmp_path, 20)
    with pytest.raises(StoreError, match="fingerprint g"):
        list(iterate_part(file, "g"))
    with writing_part(file, info) as write:
        write([*rows[:5], rows[5]._replace(vector=np.full(DIM, np.nan)), *rows[6:]])
    with pytest.raises(StoreError, match=r"/data/5\.jpg"):
        check_part(file)


def test_of_two_writers_one_is_first_and_nothing_is_left(tmp_path):
    file, info, rows = make_part(tmp_path, 20)
    file.unlink()
    (tmp_path / f"{file.name}.1-1.part").write_bytes(b"a writer that was killed")
    with suppress(ZeroDivisionError), writing_part(file, info) as write:
        write(rows[: 1 // 0])
    assert not file.exists()
    with writing_part(file, info) as slower:
        slower(rows)
        for rest in tmp_path.glob("*.part"):  # as the faster one does
            rest.unlink()
        file.write_bytes(b"the faster one's")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.read_bytes() == b"the faster one's"
