from __future__ import annotations

from pathlib import Path

import faiss
import msgspec
import numpy as np
import pytest

from hybrid.errors import StoreError
from hybrid.images.records import ImageRecord
from hybrid.index import faiss_build, faiss_file, ivf
from hybrid.index.faiss_file import ids_in, read_note
from hybrid.index.neighbors import open_index
from hybrid.index.store import EmbeddingStore, StoredImage

COUNT = 60
NAMES = [f"content-{number}" for number in range(COUNT)]


@pytest.fixture
def filled(empty):
    empty.add(NAMES, 0)
    return empty


@pytest.fixture
def few(monkeypatch):
    """Cells from 300 vectors on."""
    monkeypatch.setattr(faiss_build, "EXACT_UP_TO", 300)
    monkeypatch.setattr(ivf, "QUERIES", 40)
    monkeypatch.setattr(ivf, "MIN_LISTS_PER_PROBE", 1)


def stamp(filled):
    status = filled.file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def state_of(filled):
    return filled.store.rows(filled.encoder).state()


# Taken as it is


def test_a_fresh_index_is_read_and_nothing_written(filled, done):
    filled.check()
    before = stamp(filled)
    filled.check()
    assert done == ["built"]
    assert stamp(filled) == before


def relabeled(names):
    return [StoredImage(ImageRecord(f"/data/{name}", "/other", "cat", "test", 9, 9), name) for name in names]


@pytest.mark.parametrize("change", ["labels", "copies", "encoder", "texts", "another encoder's vectors"])
def test_what_leaves_the_vectors_as_they_are_leaves_the_file_untouched(filled, done, change):
    filled.open()
    before, revision = stamp(filled), filled.store.revision
    if change == "labels":
        filled.store.write_batch(relabeled(NAMES))
    elif change == "copies":
        filled.store.write_batch([StoredImage(ImageRecord("/data/copy", "/data", None, None, 1, 1), NAMES[0])])
        filled.store.remove(["/data/copy"])
    elif change == "encoder":
        filled.store.name_encoder(filled.encoder, "another name")
    elif change == "texts":
        filled.store.write_texts({"a cat": np.zeros(3, dtype=np.float32)}, filled.encoder)
    else:
        filled.store.write_batch([], dict.fromkeys(NAMES[:9], np.ones(4, dtype=np.float32)), "encoder-b")
    assert filled.store.revision > revision or change in {"encoder", "texts"}
    filled.check()
    assert (done, stamp(filled)) == (["built"], before)


@pytest.mark.parametrize("relabel", [False, True])
def test_few_rows_are_asked_of_a_store_whose_index_is_fresh(filled, relabel):
    filled.open()
    if relabel:
        filled.store.write_batch(relabeled(NAMES[:3]))
    asked = []
    filled.store._db.set_trace_callback(asked.append)
    filled.open()
    filled.store._db.set_trace_callback(None)
    rows = [len(filled.store._db.execute(query).fetchall()) for query in asked if "SELECT" in query]
    assert 0 < len(rows) < 8
    assert max(rows) == 1
    # Rows are counted only where something was written.
    assert any("count(*)" in query for query in asked) == relabel


# Updated


def test_new_images_are_added(filled, done):
    filled.open()
    filled.add([f"new-{number}" for number in range(5)], 9)
    filled.check(k=6)
    filled.check(k=65)
    assert done == ["built", "updated"]


def test_images_that_left_are_removed(filled, done):
    filled.open()
    filled.remove([*NAMES[:4], NAMES[31], NAMES[-1]])
    filled.check(k=54)
    assert done == ["built", "updated"]
    assert len(filled.open()) == 54


@pytest.mark.parametrize("gone", [[NAMES[-1]], NAMES[-3:], [NAMES[2], NAMES[-1]]])
def test_a_row_id_of_a_removed_image_is_not_mistaken_for_it(filled, done, gone):
    """SQLite alone would give the largest ids again."""
    filled.open()
    filled.remove(gone)
    filled.add([f"other-{number}" for number in range(len(gone))], 11)
    filled.check(k=COUNT)
    assert done == ["built", "updated"]


def test_every_image_is_another_one(filled, done):
    filled.open()
    filled.remove(NAMES)
    filled.add([f"other-{number}" for number in range(COUNT)], 12)
    filled.check(k=COUNT)


def test_an_image_that_left_and_came_back_changes_nothing_but_its_id(filled):
    filled.open()
    vector = filled.known[NAMES[-1]]
    filled.remove([NAMES[-1]])
    filled.add([NAMES[-1]], vector[None])
    filled.check(k=COUNT)


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_changes_gives_what_a_build_anew_gives(filled, seed):
    rng = np.random.default_rng(seed)
    for step in range(8):
        if rng.random() < 0.6:
            filled.add([f"{step}-{number}" for number in range(rng.integers(1, 9))], 100 * seed + step)
        else:
            filled.remove(list(rng.choice(list(filled.known), size=rng.integers(1, 9), replace=False)))
        if rng.random() < 0.6:
            filled.check(k=7)
    updated = filled.open()
    held = np.sort(ids_in(updated._index))
    filled.check(updated, 12)
    filled.file.unlink()
    anew = filled.open()
    assert np.array_equal(held, np.sort(ids_in(anew._index)))
    for one, other in zip(updated.search(filled.queries, 12), anew.search(filled.queries, 12), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("first", ["built", "updated"])
def test_rows_that_leave_while_others_are_read_make_the_file_stale(filled, done, monkeypatch, first):
    if first == "updated":
        filled.open()
        filled.add(["new"], 3)
    chunks = faiss_build.VectorRows.chunks

    def interrupted(rows, ids):
        with EmbeddingStore(filled.store.path) as other:
            other.remove([f"/data/{NAMES[7]}"])
        yield from chunks(rows, ids)

    with monkeypatch.context() as busy:
        busy.setattr(faiss_build.VectorRows, "chunks", interrupted)
        filled.open()
    del filled.known[NAMES[7]]
    assert done[-1] == first
    # What was read before it left is still in the file, and its note says so.
    assert (read_note(filled.file).count, len(filled.known)) == ((61, 60) if first == "updated" else (59, 59))
    filled.check(k=COUNT - 1)
    assert read_note(filled.file).count == len(filled.known)


# Built anew


@pytest.mark.parametrize("kept", [None, 0, 3, 16, 40, -100, -16, -1])
def test_a_missing_or_torn_index_is_built_again(filled, done, kept):
    filled.open()
    content = filled.file.read_bytes()
    filled.file.unlink()
    if kept is not None:
        filled.file.write_bytes(content[:kept])
    filled.check()
    filled.check()
    assert done == ["built", "built"]
    assert [path.name for path in filled.file.parent.glob("index*")] == ["index.faiss"]


@pytest.mark.parametrize("lost", ["the middle", "all vectors"])
@pytest.mark.parametrize("stale", [False, True])
def test_a_torn_index_with_a_whole_note_is_built_again(filled, done, lost, stale):
    filled.open()
    content = filled.file.read_bytes()
    kept = content[:900] if lost == "the middle" else b""
    filled.file.write_bytes(kept + content[-400:])
    if stale:
        filled.add(["new"], 3)
    filled.check()
    assert done == ["built", "built"]


def test_another_index_in_its_place_is_built_again(filled, done):
    filled.open()
    note = filled.file.read_bytes()[-400:]
    other = faiss_build.exact_index(16)
    other.add_with_ids(np.eye(16, dtype=np.float32)[:7], np.arange(7))
    faiss.write_index(other, str(filled.file))
    filled.check()
    faiss.write_index(other, str(filled.file))
    with filled.file.open("ab") as file:
        file.write(note)
    filled.check()
    assert done == ["built"] * 3


def test_the_files_of_the_first_version_are_replaced(filled, done):
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(16))
    index.add_with_ids(np.stack(list(filled.known.values())), np.arange(1, COUNT + 1))
    faiss.write_index(index, str(filled.file))
    sidecar = filled.file.with_name("index.faiss.json")
    sidecar.write_text("{}")
    filled.check()
    assert done == ["built"]
    assert not sidecar.exists()


def test_a_store_of_the_first_version_still_works(filled, done):
    """It has neither the index by encoder nor the keys `loose` and `last_id`."""
    db = filled.store._db
    with db:
        db.execute("DROP INDEX embeddings_by_encoder")
        db.execute("DELETE FROM meta WHERE key IN ('loose', 'last_id')")
    filled.check()
    filled.remove([NAMES[-1], NAMES[3]])
    filled.add(["new"], 5)
    filled.check(k=COUNT)
    assert done == ["built", "updated"]
    assert ("embeddings_by_encoder",) in db.execute("SELECT name FROM sqlite_master").fetchall()


def test_a_first_version_that_gave_ids_again_is_noticed(filled, done):
    filled.open()
    with filled.store._db:
        filled.store._db.execute("UPDATE embeddings SET sha256 = 'other' WHERE id = ?", (COUNT,))
        filled.store._db.execute("UPDATE photos SET sha256 = 'other' WHERE sha256 = ?", (NAMES[-1],))
        filled.store._db.execute("UPDATE meta SET value = value + 2 WHERE key = 'revision'")
    filled.known["other"] = filled.known.pop(NAMES[-1])
    filled.check(k=COUNT)
    assert done == ["built", "built"]


def test_another_encoder_has_its_own_vectors(filled, done):
    filled.check()
    own = np.eye(10, dtype=np.float32)
    filled.store.write_batch([], dict(zip(NAMES[:10], own, strict=True)), "encoder-b")
    _, hashes = open_index(filled.store, "encoder-b", filled.file).search(own, 1)
    assert [row[0] for row in hashes] == NAMES[:10]
    filled.check()
    assert done == ["built"] * 3


def test_a_store_built_anew_in_its_place_makes_it_stale(empty, done):
    first, second = empty.file.parent / "1.sqlite", empty.file.parent / "2.sqlite"
    for path, seed in ((first, 1), (second, 2)):
        # As many images, in as many batches: only the database itself is another.
        with EmbeddingStore(path) as store:
            empty.store = store
            empty.add(NAMES[:10], seed)
            empty.check(k=4)
    assert done == ["built", "built"]


# Written


@pytest.mark.parametrize("crash", ["before the note", "before it is in place"])
def test_a_crash_leaves_the_file_before_it(filled, done, monkeypatch, crash):
    filled.open()
    before = filled.file.read_bytes()
    filled.add(["new"], 9)

    class Killed(BaseException):
        pass

    def kill(*arguments):
        raise Killed

    with monkeypatch.context() as killed:
        if crash == "before the note":
            killed.setattr(faiss, "write_index", kill)
        else:
            killed.setattr(faiss_file.Path, "replace", kill)
        with pytest.raises(Killed):
            filled.open()
    assert filled.file.read_bytes() == before
    filled.check(k=COUNT + 1)
    assert done == ["built", "updated", "updated"]


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(filled):
    filled.file.mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        filled.open()
    assert sorted(path.name for path in filled.file.parent.glob("index*")) == ["index.faiss"]


def test_whoever_has_the_file_open_keeps_what_it_was(filled):
    index = filled.open()
    expected = filled.nearest(5)
    filled.add(["new"], filled.queries[:1])
    filled.check()
    similarity, hashes = index.search(filled.queries, 5)
    assert np.allclose(similarity, expected[0], atol=1e-6)
    assert hashes == expected[1]


@pytest.mark.parametrize("emptied", [False, True], ids=["never filled", "emptied"])
def test_an_empty_index_is_an_error_with_its_fix(empty, emptied):
    if emptied:
        empty.add(NAMES[:1], 0)
        empty.open()
        empty.remove(NAMES[:1])
    with pytest.raises(StoreError, match="the index is empty") as caught:
        empty.open()
    assert "build-index" in caught.value.fix


def test_vectors_of_another_encoder_alone_are_said(filled):
    filled.store.name_encoder("encoder-a", "ViT-B")
    with pytest.raises(StoreError, match="no vectors of this encoder in this precision") as caught:
        open_index(filled.store, "encoder-c", filled.file)
    assert caught.value.got == "vectors by ViT-B"
    assert "build-index" in caught.value.fix


# The kind of index


def test_a_few_vectors_are_searched_exactly_and_many_by_cells(empty, few, done):
    empty.add([f"a-{number}" for number in range(300)], 0)
    empty.check()
    assert read_note(empty.file).kind == "exact"
    empty.add(["one more"], 1)
    empty.open()
    note = read_note(empty.file)
    assert (note.kind, note.count, note.planned, note.lists) == ("cells", 301, 301, 17)
    assert (note.sample, note.changes) == (40, 0)
    assert note.recall > 0.9
    assert done == ["built", "built"]


def test_cells_are_updated_until_too_much_has_changed(empty, few, done):
    empty.add([f"a-{number}" for number in range(400)], 0)
    empty.open()
    note = read_note(empty.file)
    empty.add([f"b-{number}" for number in range(150)], 1)
    empty.open()
    empty.remove([f"a-{number}" for number in range(50)])
    index = empty.open()
    index._index.nprobe = index._index.nlist
    empty.check(index, 8)
    assert done == ["built", "updated", "updated"]
    expected = msgspec.structs.replace(note, count=500, last=550, sha256="b-149", changes=200, revision=3)
    assert read_note(empty.file) == expected
    assert state_of(empty) == expected.state
    # The row that is one too many.
    empty.add(["c"], 2)
    empty.open()
    assert done == ["built", "updated", "updated", "built"]
    assert (read_note(empty.file).planned, read_note(empty.file).changes) == (501, 0)


def test_cells_that_shrank_are_kept_until_then_too(empty, few, done):
    empty.add([f"a-{number}" for number in range(400)], 0)
    empty.open()
    empty.remove([f"a-{number}" for number in range(150)])
    empty.open()
    assert read_note(empty.file).kind == "cells"
    empty.remove([f"a-{number}" for number in range(150, 250)])
    empty.check()
    assert read_note(empty.file).kind == "exact"
    assert done == ["built", "updated", "built"]


def test_vectors_that_cells_cannot_find_are_searched_exactly_and_that_is_said(empty, few, done, monkeypatch):
    monkeypatch.setattr(ivf, "MIN_LISTS_PER_PROBE", 10**6)
    empty.add([f"a-{number}" for number in range(400)], 0)
    empty.check()
    note = read_note(empty.file)
    assert (note.kind, note.nprobe, note.lists) == ("exact", 1, 20)
    assert note.recall < 0.9
    (line,) = empty.open().notes
    assert line.startswith("exact search, which is slow among 400 vectors: 1 of 20 IVF lists hold only ")
    # It is not tried again for every new image.
    empty.add(["one more"], 1)
    empty.check()
    assert done == ["built", "updated"]
    empty.add([f"b-{number}" for number in range(200)], 2)
    empty.check()
    assert done == ["built", "updated", "built"]


def test_the_same_store_gives_the_same_index(empty, few):
    empty.add([f"a-{number}" for number in range(400)], 0)
    empty.open()
    first = empty.file.read_bytes()
    empty.file.unlink()
    empty.open()
    assert empty.file.read_bytes() == first


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
@pytest.mark.parametrize("count", [200, 400])
def test_the_file_is_mapped_not_read(empty, few, count):
    empty.add([f"a-{number}" for number in range(count)], 0)
    for _ in ("just built", "found"):
        index = empty.open()
        assert str(empty.file) in Path("/proc/self/maps").read_text()
        assert len(index) == count
        del index


def test_plain_faiss_reads_the_file_and_searches_as_many_cells(empty, few):
    empty.add([f"a-{number}" for number in range(400)], 0)
    similarity, _ = empty.open().search(empty.queries, 5)
    plain = faiss.read_index(str(empty.file))
    assert plain.nprobe == read_note(empty.file).nprobe > 1
    found, _ = plain.search(empty.queries, 5)
    assert np.array_equal(found, similarity)
    assert np.array_equal(np.unique(ids_in(plain)), empty.store.rows(empty.encoder).ids())


def test_an_index_of_flat_vectors_is_read_without_the_flag_of_newer_versions(filled, monkeypatch):
    filled.open()
    monkeypatch.delattr(faiss, "IO_FLAG_MMAP_IFC", raising=False)
    filled.check()
