from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace

import faiss
import numpy as np
import pytest

from hybrid.errors import StoreError
from hybrid.index import faiss_build, gpu
from hybrid.index.neighbors import build
from hybrid.index.store import EmbeddingStore

COUNT, DIM = 60, 16
NAMES = [f"content-{number}" for number in range(COUNT)]


@pytest.fixture
def filled(empty):
    # Vectors of another encoder between them: row ids are neither dense nor equal to positions.
    empty.add(NAMES[:20], 0)
    empty.store.write_batch([], dict(zip(NAMES[:10], np.eye(10, dtype=np.float32), strict=True)), "encoder-b")
    empty.add(NAMES[20:], 1)
    return empty


@pytest.fixture
def celled(empty, monkeypatch):
    """More vectors than an exact search is for."""
    monkeypatch.setattr(faiss_build, "EXACT_UP_TO", 200)
    monkeypatch.setattr("hybrid.index.ivf.QUERIES", 50)
    monkeypatch.setattr("hybrid.index.ivf.MIN_LISTS_PER_PROBE", 1)
    empty.add([f"content-{number}" for number in range(900)], 0)
    return empty


# Search


def test_similarities_and_hashes_are_those_of_a_plain_search(filled):
    index = filled.open()
    for k in (1, 2, 17, COUNT):
        filled.check(index, k)
    # More than there are images are cut.
    filled.check(index, COUNT + 40)
    similarity, hashes = index.search(np.empty((0, DIM), dtype=np.float32), 3)
    assert (similarity.shape, hashes) == ((0, 3), [])
    assert index.notes == ()


def test_a_search_among_rows_of_the_store_is_a_plain_search_among_them(filled):
    index = filled.open()
    filled.add(["later"], 7)
    names = [NAMES[place] for place in (3, 17, 19, 20, 21, 33, 34, 35, 50, 58, 59)]
    # The row that came after the index was opened is not in it, and must not be waited for.
    among = filled.only(index, [*names, "later"])
    assert len(among) == 11
    for k in (1, 5, 11, COUNT):
        filled.check(among, k, names)
    # What it was narrowed from finds all, and the narrowed one can be narrowed again.
    filled.check(index, COUNT, NAMES)
    filled.check(filled.only(among, NAMES[:20]), COUNT, names[:3])
    none = filled.only(index, [])
    similarity, hashes = none.search(filled.queries, 5)
    assert len(none) == 0
    assert (similarity.shape, similarity.dtype) == ((len(filled.queries), 0), np.float32)
    assert hashes == [[]] * len(filled.queries)


def test_queries_may_come_in_any_form(filled):
    index, plain = filled.open(), filled.queries
    expected_similarity, expected_hashes = index.search(plain, 3)
    for queries in (plain.astype(np.float64), np.asfortranarray(plain), np.repeat(plain, 2, axis=1)[:, ::2]):
        similarity, hashes = index.search(queries, 3)
        assert np.allclose(similarity, expected_similarity, atol=1e-6)
        assert hashes == expected_hashes


def test_queries_that_do_not_fit_are_refused(filled):
    index = filled.open()
    for shape in ((DIM,), (2, DIM + 1), (1, 2, DIM)):
        with pytest.raises(StoreError, match="do not fit the index") as caught:
            index.search(np.zeros(shape, dtype=np.float32), 1)
        assert (caught.value.expected, caught.value.got) == (f"(n, {DIM})", str(shape))
    for k in (0, -1):
        with pytest.raises(StoreError, match="must ask for photos") as caught:
            index.search(filled.queries, k)
        assert caught.value.got == str(k)


def test_ids_of_the_faiss_index_are_the_ids_that_are_given():
    vectors = np.eye(4, dtype=np.float32)
    index = build(vectors, [7, 3, 2**40, 11])
    _, ids = index.search(vectors, 1)
    assert ids[:, 0].tolist() == [7, 3, 2**40, 11]
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT


# What happens to the store meanwhile


def test_the_store_may_be_closed_and_any_thread_may_search(filled):
    index, errors = filled.open(), []
    filled.store.close()

    def search() -> None:
        try:
            filled.check(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("narrowed", [False, True])
def test_images_removed_since_are_left_out_and_others_found_in_their_place(filled, narrowed):
    index = filled.open()
    index = filled.only(index, NAMES[:40]) if narrowed else index
    gone = filled.nearest(1)[1][0] + filled.nearest(3)[1][4]
    with EmbeddingStore(filled.store.path) as other:
        other.remove([f"/data/{name}" for name in gone])
    filled.add(["new"], 30)  # and a new row does not get the id of a removed one
    among = [name for name in NAMES[: 40 if narrowed else COUNT] if name not in gone]
    filled.check(index, 6, among)
    filled.check(index, 10**6, among)


def test_a_store_that_was_built_anew_meanwhile_is_not_searched(filled):
    index = filled.open()
    filled.store.close()
    filled.store.path.unlink()
    with pytest.raises(StoreError, match="there is no index at"):
        index.search(filled.queries, 1)
    with EmbeddingStore(filled.store.path):
        pass
    with pytest.raises(StoreError, match="was built anew while it was searched"):
        index.search(filled.queries, 1)


# Many images: cells


def test_an_approximate_search_finds_nearly_all_and_says_so(celled):
    celled.queries = np.stack([celled.known[f"content-{number}"] for number in range(0, 900, 9)])
    index = celled.open()
    similarity, hashes = index.search(celled.queries, 10)
    names = celled.nearest(10)[1]
    found = [len(set(row) & set(own)) / 10 for row, own in zip(hashes, names, strict=True)]
    assert 0.9 < np.mean(found) <= 1
    for row, cosines, query in zip(hashes, similarity, celled.queries, strict=True):
        assert np.allclose([celled.known[name] @ query for name in row], cosines, atol=1e-6)
        assert (np.diff(cosines) <= 0).all()
    (line,) = index.notes
    assert line.startswith("approximate search: ")
    assert "of 30 IVF lists are searched" in line
    assert "(measured on 50 of 900 vectors)" in line
    assert celled.only(index, ["content-3"]).notes == index.notes


def test_few_images_among_many_are_never_missed(celled):
    index = celled.open()
    index._index.nprobe = 1
    for count in (1, 3, 40, 200):
        names = [f"content-{number}" for number in range(0, 900, 900 // count)][:count]
        celled.check(celled.only(index, names), 10, names)


def test_many_images_among_more_are_searched_in_as_many_more_cells(celled):
    index = celled.open()
    for nprobe, count, expected in ((4, 300, 12), (4, 899, 5), (20, 300, 30)):
        index._index.nprobe = nprobe
        among = celled.only(index, [f"content-{number}" for number in range(count)])
        assert among._parameters.nprobe == expected


def test_more_neighbors_than_the_cells_hold_are_found_all_the_same(celled):
    index = celled.open()
    index._index.nprobe = 1
    for k in (200, 900, 10**6):
        celled.check(index, min(k, 900))


def test_removed_images_are_left_out_among_cells_too(celled):
    index = celled.open()
    celled.remove(celled.nearest(2)[1][0])
    index._index.nprobe = index._index.nlist
    celled.check(index, 10)


# GPUs: a stand-in, for there is none here


@pytest.mark.parametrize("fits", [True, False])
def test_many_queries_go_to_a_gpu_and_few_do_not(filled, monkeypatch, fits):
    copies, searches = [], []

    class Copy:
        def __init__(self, index: object) -> None:
            copies.append(index)
            if not fits:
                raise RuntimeError("out of memory")

        def search(self, queries: np.ndarray, k: int) -> object:
            searches.append(len(queries))
            return copies[0].search(queries, k)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", Copy)
    monkeypatch.setattr(gpu, "MIN_WORK", 108 * COUNT * DIM)
    index = filled.open()
    filled.check(index)
    assert copies == []
    filled.queries = np.tile(filled.queries, (12, 1))
    filled.check(index)
    assert index.notes == ((gpu.FaissCopy.note,) if fits else ())
    filled.check(index)
    # FAISS on a GPU knows no selection of ids.
    filled.check(filled.only(index, NAMES[:7]), 3, NAMES[:7])
    assert (len(copies), searches) == (1, [108, 108] if fits else [])
    monkeypatch.setattr(gpu, "MIN_WORK", 108 * COUNT * DIM + 1)
    filled.check(filled.open())
    assert len(copies) == 1, "a search this small is not worth a copy"


def test_torch_finds_the_same_where_it_computes_on_a_gpu_that_faiss_has_not(filled, monkeypatch):
    monkeypatch.setattr(gpu, "MIN_WORK", 0)
    filled.queries = np.tile(filled.queries, (12, 1))
    index = filled.open()
    filled.check(index)
    assert index.notes == (), "no GPU is in use"
    monkeypatch.setattr(gpu, "torch_gpu", lambda: "cpu")
    monkeypatch.setattr(gpu, "SCORES", COUNT * 25)  # several blocks, the last one shorter
    index = filled.open()
    filled.check(index)
    assert index.notes == (gpu.TorchCopy.note,)
    filled.check(filled.only(index, NAMES[:7]), 3, NAMES[:7])


def test_torch_takes_no_lists(celled, monkeypatch):
    monkeypatch.setattr(gpu, "MIN_WORK", 0)
    monkeypatch.setattr(gpu, "torch_gpu", lambda: "cpu")
    assert gpu.copy_to_gpu(celled.open()._index) is None


# Other processes

SEARCH = """
import sys, json, numpy as np; from pathlib import Path
from hybrid.index.neighbors import open_index
from hybrid.index.store import EmbeddingStore
folder = Path(sys.argv[1])
with EmbeddingStore(folder / 'store.sqlite') as store:
    print('ready', flush=True)
    sys.stdin.readline()
    index = open_index(store, 'encoder-a', folder / 'index.faiss')
similarity, hashes = index.search(np.load(folder / 'queries.npy', allow_pickle=False), 5)
print(json.dumps([similarity.tobytes().hex(), hashes]))
"""


def test_a_file_that_another_process_puts_there_meanwhile_is_not_read_by_the_note_of_the_former(filled, monkeypatch):
    filled.open()
    filled.add([f"new-{number}" for number in range(30)], 11)
    filled.remove(NAMES[5:20])
    theirs, read_keys = filled.file.with_name("theirs"), faiss_build.read_keys
    replace(filled, file=theirs).open()
    calls = iter(range(9))

    def read_late(*asked):
        if next(calls) == 1:  # not as it is mapped, but as it is updated
            theirs.replace(filled.file)
        return read_keys(*asked)

    monkeypatch.setattr(faiss_build, "read_keys", read_late)
    assert filled.open().search(filled.queries, 5)[1] == filled.nearest(5)[1]
    filled.check()


def test_fresh_processes_find_the_same_and_two_that_open_at_once_the_right_images(filled):
    np.save(filled.file.parent / "queries.npy", filled.queries)
    similarity, hashes = filled.open().search(filled.queries, 5)
    before = filled.file.stat()
    command = [sys.executable, "-c", SEARCH, filled.file.parent]
    result = subprocess.run(command, input="\n", capture_output=True, text=True, check=True)
    assert json.loads(result.stdout.splitlines()[1]) == [similarity.tobytes().hex(), hashes]
    assert (filled.file.stat().st_ino, filled.file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    filled.add(["new"], 11)
    filled.remove([NAMES[5]])
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in "ab"
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
    printed = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert [hashes for _, hashes in printed] == [filled.nearest(5)[1]] * 2
    assert [path.name for path in filled.file.parent.glob("index*")] == ["index.faiss"]
    filled.check()
