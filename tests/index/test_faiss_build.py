from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import faiss
import msgspec
import numpy as np
import pytest

from hybrid.errors import StoreError
from hybrid.images.records import ImageRecord
from hybrid.index import faiss_build, faiss_tail, ivf
from hybrid.index.faiss_file import MAGIC, ids_in, read_note, seal
from hybrid.index.faiss_tail import tail_of
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


# Taken as it is


def relabeled(names):
    return [StoredImage(ImageRecord(f"/data/{name}", "/other", "cat", "test", 9, 9), name) for name in names]


def test_what_leaves_the_vectors_as_they_are_leaves_the_file_untouched(filled, done):
    filled.check()
    before, store = stamp(filled), filled.store
    copy = StoredImage(ImageRecord("/data/copy", "/data", None, None, 1, 1), NAMES[0])
    for change in (
        lambda: None,
        lambda: store.write_batch(relabeled(NAMES)),
        lambda: store.write_batch([copy]),
        lambda: store.remove(["/data/copy"]),
        lambda: store.name_encoder(filled.encoder, "another name"),
        lambda: store.write_texts({"a cat": np.zeros(3, dtype=np.float32)}, filled.encoder),
        lambda: store.write_batch([], dict.fromkeys(NAMES[:9], np.ones(4, dtype=np.float32)), "encoder-b"),
    ):
        change()
        filled.check()
        assert (done, stamp(filled)) == (["built"], before)


def test_few_rows_are_asked_of_a_store_whose_index_is_fresh(filled):
    filled.open()
    for written in ([], relabeled(NAMES[:3])):
        filled.store.write_batch(written)
        asked = []
        filled.store._db.connection.set_trace_callback(asked.append)
        filled.open()
        filled.store._db.connection.set_trace_callback(None)
        rows = [len(filled.store._db.connection.execute(query).fetchall()) for query in asked if "SELECT" in query]
        assert 0 < len(rows) < 8
        assert max(rows) <= 3  # identity, revision and token
        # Rows are counted only where something was written.
        assert any("count(*)" in query for query in asked) == bool(written)


# Updated


def test_a_row_id_of_a_removed_image_is_not_mistaken_for_it(filled):
    """SQLite alone would give the largest ids again."""
    filled.open()
    for seed, gone in enumerate(([NAMES[-1]], NAMES[-4:-1], [NAMES[2], NAMES[-5]], None)):
        gone = gone or list(filled.known)
        filled.remove(gone)
        filled.add([f"other-{seed}-{number}" for number in range(len(gone))], 11 + seed)
        filled.check(k=COUNT)
    # One that left and came back has another id.
    last, vector = list(filled.known.items())[-1]
    filled.remove([last])
    filled.add([last], vector[None])
    filled.check(k=COUNT)


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_changes_gives_what_a_build_anew_gives(filled, done, seed):
    filled.open()
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
    assert done == ["built", *["updated"] * (len(done) - 1)]
    assert len(updated) == len(filled.known)
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


def test_a_missing_torn_or_foreign_index_is_built_again(filled, done):
    filled.open()
    content = filled.file.read_bytes()
    note = content[-400:]
    other = faiss_build.exact_index(16)
    other.add_with_ids(np.eye(16, dtype=np.float32)[:7], np.arange(7))
    faiss.write_index(other, str(filled.file))
    foreign = filled.file.read_bytes()
    torn = [content[:kept] for kept in (0, 3, 16, 40, -100, -16, -1)]
    for number, broken in enumerate([None, *torn, content[:900] + note, note, foreign, foreign + note]):
        filled.file.unlink()
        if broken is not None:
            filled.file.write_bytes(broken)
        filled.check()
        filled.check()
        assert done == ["built"] * (number + 2)
        assert [path.name for path in filled.file.parent.glob("index*")] == ["index.faiss"]


def test_a_torn_index_with_a_whole_note_is_built_again_where_it_is_stale_too(filled, done):
    for kept in (900, 0):
        filled.open()
        content = filled.file.read_bytes()
        filled.file.write_bytes(content[:kept] + content[-400:])
        filled.add([f"new-{kept}"], kept)
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
    """It may have neither the index by encoder nor the keys `loose` and `last_id`."""
    filled.to_format_1()
    db = filled.store._db.connection
    with filled.store._db.transaction():
        db.execute("DROP INDEX embeddings_by_encoder")
        db.execute("DELETE FROM meta WHERE key IN ('loose', 'last_id')")
    filled.check()
    filled.remove([NAMES[-1], NAMES[3]])
    filled.add(["new"], 5)
    filled.check(k=COUNT)
    # By now it is of the present format, and has a history that the file does not fit.
    assert done == ["built", "built"]
    db = filled.store._db.connection
    assert ("embeddings_by_encoder",) in db.execute("SELECT name FROM sqlite_master").fetchall()


def test_a_first_version_that_gave_ids_again_is_noticed(filled, done):
    filled.to_format_1()
    filled.open()
    with filled.store._db.transaction():
        filled.store._db.connection.execute("UPDATE embeddings SET sha256 = 'other' WHERE id = ?", (COUNT,))
        filled.store._db.connection.execute("UPDATE photos SET sha256 = 'other' WHERE sha256 = ?", (NAMES[-1],))
        filled.store._db.connection.execute("UPDATE meta SET value = value + 2 WHERE key = 'revision'")
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


def test_a_file_that_cannot_be_written_is_a_note_and_leaves_what_was_there(filled, monkeypatch):
    filled.open()
    before = filled.file.read_bytes()
    filled.add(["new"], 9)

    def fill_the_disk(index, part):
        Path(part).write_bytes(before[:100])
        raise RuntimeError("no space left")

    with monkeypatch.context() as full:
        full.setattr(faiss, "write_index", fill_the_disk)
        index = filled.open()
    assert index.notes == ("index.faiss cannot be written, so that the next search makes it again: no space left",)
    filled.check(index, k=COUNT + 1)
    assert filled.file.read_bytes() == before
    assert [path.name for path in filled.file.parent.glob("index*")] == ["index.faiss"]
    filled.check(k=COUNT + 1)
    filled.file.unlink()
    filled.file.mkdir()
    filled.check(k=COUNT + 1)
    assert "cannot be written" in filled.open().notes[-1]


def test_whoever_has_the_file_open_keeps_what_it_was(filled):
    index = filled.open()
    expected = filled.nearest(5)
    filled.add(["new"], filled.queries[:1])
    filled.check()
    similarity, hashes = index.search(filled.queries, 5)
    assert np.allclose(similarity, expected[0], atol=1e-6)
    assert hashes == expected[1]


def test_an_empty_index_is_an_error_with_its_fix(empty):
    for _ in ("never filled", "emptied"):
        with pytest.raises(StoreError, match="the index is empty") as caught:
            empty.open()
        assert "build-index" in caught.value.fix
        empty.add(NAMES[:1], 0)
        empty.open()
        with pytest.raises(StoreError, match="no vectors of this encoder in this precision") as caught:
            open_index(empty.store, "encoder-c", empty.file)
        assert caught.value.got == "vectors by encoder-a"
        assert "build-index" in caught.value.fix
        empty.remove(NAMES[:1])


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
    own = {name: getattr(read_note(empty.file), name) for name in ("token", "size", "digest")}
    assert read_note(empty.file) == msgspec.structs.replace(expected, **own)
    assert own["token"] == empty.store.state.token
    assert empty.store.rows(empty.encoder).state() == expected.state
    # The row that is one too many.
    empty.add(["c"], 2)
    empty.open()
    assert done == ["built", "updated", "updated", "built"]
    assert (read_note(empty.file).planned, read_note(empty.file).changes) == (501, 0)


def test_cells_that_shrank_are_kept_until_then_too(empty, few, done):
    empty.add([f"a-{number}" for number in range(400)], 0)
    for left, kind in ((400, "cells"), (250, "cells"), (150, "exact")):
        empty.remove([name for name in empty.known if int(name[2:]) >= left])
        empty.open()
        assert read_note(empty.file).kind == kind
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


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_the_file_is_mapped_not_read(empty, few):
    for name, count in (("a", 200), ("b", 400)):
        empty.add([f"{name}-{number}" for number in range(200)], count)
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
    assert np.array_equal(plain.search(empty.queries, 5)[0], similarity)
    assert np.array_equal(np.unique(ids_in(plain)), empty.store.rows(empty.encoder).ids())
    # The same store gives the same index.
    first = empty.file.read_bytes()
    empty.file.unlink()
    empty.open()
    assert empty.file.read_bytes() == first


def test_an_index_of_flat_vectors_is_read_without_the_flag_of_newer_versions(filled, monkeypatch):
    filled.open()
    monkeypatch.delattr(faiss, "IO_FLAG_MMAP_IFC", raising=False)
    filled.check()


def test_a_restored_store_does_not_take_the_newer_file_for_its_own(filled, done, tmp_path):
    """Also where it reached the same number of writes, vectors and ids by another way."""
    with closing(sqlite3.connect(tmp_path / "backup")) as backup:
        filled.store._db.connection.backup(backup)
    known = dict(filled.known)
    filled.add(["only here", "last"], 7)
    filled.check()
    filled.store.close()
    filled.store = EmbeddingStore(tmp_path / "backup")
    filled.known = known
    filled.add(["only there"], 8)
    filled.store._db.change("UPDATE meta SET value = value - 1 WHERE key = 'revision'")
    filled.add(["last"], 7)
    filled.check(k=COUNT)
    assert done == ["built", "built"]


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_any_flipped_bit_of_the_file_is_noticed_and_mended(filled, done, place):
    filled.check()
    content = bytearray(filled.file.read_bytes())
    content[int(len(content) * place)] ^= 0x10
    filled.file.write_bytes(content)
    assert filled.open().notes == ("index.faiss is damaged: made again from the store",)
    filled.check()
    assert done == ["built", "built"]


# The tail of a large file


@pytest.fixture
def tailed(monkeypatch):
    """Every file is large enough for a tail, of up to half its rows."""
    monkeypatch.setattr(faiss_tail, "TAIL_FROM", 0)
    monkeypatch.setattr(faiss_tail, "MAX_TAIL", 0.5)


@pytest.mark.parametrize(("seed", "kind"), [(seed, kind) for seed in range(4) for kind in ("exact", "cells")])
def test_a_file_and_its_tail_give_what_a_build_anew_gives(filled, tailed, done, monkeypatch, seed, kind):
    if kind == "cells":
        monkeypatch.setattr(faiss_build, "EXACT_UP_TO", 30)
        monkeypatch.setattr(ivf, "MIN_LISTS_PER_PROBE", 1)
        monkeypatch.setattr(ivf, "MIN_RECALL", 1.0)  # so that all lists are probed
    filled.open()
    before = stamp(filled)
    rng = np.random.default_rng(seed)
    for step in range(5):
        if step != 3:
            filled.add([f"{step}-{number}" for number in range(rng.integers(1, 4))], 99 + 10 * seed + step)
        # The nearest ones, so that a search that finds them must look further.
        filled.remove(list(dict.fromkeys([filled.nearest(1)[1][step][0], *rng.choice(list(filled.known), size=2)])))
        filled.check(k=9)
        index = filled.open()
        among = list(rng.choice(list(filled.known), size=12, replace=False))
        filled.check(filled.only(index, among), 12, among)
        filled.check(index, k=COUNT)
    assert (done, stamp(filled)) == (["built"], before)
    assert tail_of(filled.file).exists()


def test_a_tail_is_merged_once_it_is_long(filled, tailed, done):
    filled.open()
    filled.add([f"a-{number}" for number in range(30)], 1)
    filled.check()
    filled.remove([NAMES[0]])
    filled.check()
    assert done == ["built", "updated"]
    assert not tail_of(filled.file).exists()
    # The row of the largest id leaves, from the tail and from the file.
    for gone in ("b", "a-29", "a-28"):
        if gone == "b":
            filled.add(["b"], 2)
            filled.check()
        filled.remove([gone])
        filled.check(k=COUNT)
    assert done == ["built", "updated"]


def test_a_tail_that_is_torn_or_of_another_file_is_made_again(filled, tailed, done):
    filled.open()
    filled.add(["new", "newer"], 1)
    filled.remove([NAMES[4]])
    filled.check()
    tail = tail_of(filled.file)
    content = tail.read_bytes()
    middle = len(content) // 3
    for broken in (content[:middle] + b"?" + content[middle + 1 :], content[:-1], b"", content[10:]):
        tail.write_bytes(broken)
        filled.check()
        assert tail.read_bytes() == content
    # An earlier version knows no tails, and writes the file again.
    filled.file.unlink()
    tail.rename(tail.with_name("kept"))
    filled.check()
    tail.with_name("kept").rename(tail)
    filled.check()
    assert done == ["built", "built"]


def test_a_tail_that_cannot_be_written_is_a_note(filled, tailed):
    filled.open()
    tail_of(filled.file).mkdir()
    filled.add(["new"], 1)
    index = filled.open()
    assert index.notes[0].startswith("index.faiss.tail cannot be written, so that the next search makes it again: ")
    filled.check(index, k=COUNT)


def test_a_file_without_keys_is_searched_and_gets_them_when_it_is_written_again(filled, tailed, done):
    filled.open()
    note = read_note(filled.file)
    content = filled.file.read_bytes()
    size = note.size - note.count * (8 + note.key_bytes)
    filled.file.write_bytes(content[:size])
    seal(filled.file, msgspec.structs.replace(note, key_bytes=0), MAGIC)
    filled.check()
    filled.add(["new"], 1)
    filled.check()
    assert done == ["built", "updated"]
    assert read_note(filled.file).key_bytes == len("content-59")
    filled.add(["newer"], 2)
    filled.check(k=COUNT)
    assert done == ["built", "updated"]
