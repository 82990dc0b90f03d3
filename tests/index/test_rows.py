from __future__ import annotations

import numpy as np
import pytest

from hybrid.images.records import ImageRecord
from hybrid.index import rows as module
from hybrid.index.rows import RowState
from hybrid.index.store import StoredImage

NAMES = [f"c{number}" for number in range(30)]


@pytest.fixture
def filled(empty):
    empty.add(NAMES[:10], 0, "cat")
    empty.store.write_batch([], {"c3": np.ones(3, dtype=np.float32)}, "encoder-b")
    empty.add(NAMES[10:20], 1, 'it\'s "odd"')
    empty.add(NAMES[20:], 2)
    return empty


@pytest.fixture
def rows(filled):
    return filled.store.rows(filled.encoder)


# Row 11 is the other encoder's.
IDS = [*range(1, 11), *range(12, 32)]


def test_ids_and_hashes_are_of_one_encoder(filled, rows):
    assert rows.ids().tolist() == IDS
    assert rows.ids().dtype == np.int64
    assert rows.hashes([31, 11, 4, 99]) == {4: "c3", 31: "c29"}
    assert filled.store.rows("encoder-b").hashes(range(99)) == {11: "c3"}
    assert filled.store.rows("encoder-c").ids().tolist() == []


def test_vectors_come_in_chunks_by_id(filled, rows, monkeypatch):
    expected = np.stack(list(filled.known.values()))
    for chunk in (1, 7, 30, 4096):
        monkeypatch.setattr(module, "CHUNK", chunk)
        chunks = list(rows.chunks(rows.ids()))
        assert max(len(chunk.ids) for chunk in chunks) <= chunk
        assert np.concatenate([chunk.ids for chunk in chunks]).tolist() == IDS
        assert np.array_equal(np.concatenate([chunk.vectors for chunk in chunks]), expected)
    # Of some rows, those that there are.
    ids, vectors = rows.vectors([4, 11, 12, 99])
    assert ids.tolist() == [4, 12]
    assert np.array_equal(vectors, [filled.known["c3"], filled.known["c10"]])
    ids, vectors = rows.vectors([11, 99])
    assert (len(ids), len(vectors), vectors.dtype) == (0, 0, np.float32)


def test_rows_of_labels(filled, rows):
    copy = StoredImage(ImageRecord("/data/copy", "/data", "cat", None, 1, 1), "c25")
    bare = StoredImage(ImageRecord("/data/bare", "/data", "cat", None, 1, 1), "without a vector")
    filled.store.write_batch([copy, bare])
    assert rows.ids_labeled(["cat"]).tolist() == [*range(1, 11), 27]
    assert rows.ids_labeled(['it\'s "odd"', "nothing"]).tolist() == list(range(12, 22))
    assert rows.ids_labeled([*(f"none {i}" for i in range(1200)), "cat"]).tolist() == [*range(1, 11), 27]
    assert rows.ids_labeled().tolist() == [*range(1, 11), *range(12, 22), 27]
    assert rows.ids_labeled([]).tolist() == []


def test_the_state_tells_one_set_of_rows_from_every_other(filled, rows):
    seen = [rows.state()]
    assert seen[0] == RowState(30, 31, "c29")
    assert filled.store.rows("encoder-c").state() == RowState(0, 0, "")
    for change, name in (("remove", "c29"), ("add", "new"), ("remove", "c4"), ("add", "newer")):
        filled.remove([name]) if change == "remove" else filled.add([name], 5)
        seen.append(rows.state())
    assert len(set(seen)) == len(seen)
    # The same set is the same state.
    filled.remove(["newer"])
    assert rows.state() == seen[-2]
