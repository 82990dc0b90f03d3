from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from hybrid.data.records import ImageRecord
from hybrid.errors import StoreError
from hybrid.index import neighbors
from hybrid.index.neighbors import NeighborIndex, build, open_index
from hybrid.index.store import EmbeddingStore, StoredPhoto

A, B = "encoder-a", "encoder-b"
COUNT, DIM = 60, 16


def unit_vectors(count: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def add(store: EmbeddingStore, names: list[str], vectors: np.ndarray, encoder: str = A) -> None:
    photos = [StoredPhoto(ImageRecord(f"/data/{name}", "/data", None, None, 1, 1), name) for name in names]
    store.write_batch(photos, dict(zip(names, vectors, strict=True)), encoder)


NAMES = [f"content-{number}" for number in range(COUNT)]
VECTORS = unit_vectors(COUNT)
QUERIES = unit_vectors(9, seed=5)


@pytest.fixture
def store(tmp_path) -> Iterator[EmbeddingStore]:
    with EmbeddingStore(tmp_path / "store.sqlite") as opened:
        # Vectors of another encoder between them: row ids are neither dense nor equal to positions.
        add(opened, NAMES[:20], VECTORS[:20])
        add(opened, NAMES[:10], unit_vectors(10, 5), B)
        add(opened, NAMES[20:], VECTORS[20:])
        yield opened


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "neighbors.faiss"


@pytest.fixture
def builds(monkeypatch) -> list[int]:
    """The number of vectors of each index that is built."""
    sizes: list[int] = []

    def counting(vectors: np.ndarray, ids: list[int]) -> object:
        sizes.append(len(vectors))
        return build(vectors, ids)

    monkeypatch.setattr(neighbors, "build", counting)
    return sizes


def assert_nearest(index: NeighborIndex, names: list[str], vectors: np.ndarray, k: int) -> None:
    """Compare similarities and hashes with a plain search."""
    similarity, hashes = index.search(QUERIES, k)
    inner = QUERIES.astype(np.float64) @ vectors.astype(np.float64).T
    order = np.argsort(-inner, axis=1)[:, :k]
    assert similarity.dtype == np.float32
    assert np.allclose(similarity, np.take_along_axis(inner, order, axis=1), atol=1e-6)
    assert hashes == [[names[column] for column in row] for row in order]


# Search


@pytest.mark.parametrize("k", [1, 2, 17, COUNT])
def test_similarities_and_hashes_are_those_of_a_plain_search(store, file, k):
    assert_nearest(open_index(store, A, file), NAMES, VECTORS, k)


def test_more_neighbours_than_photos_are_cut(store, file):
    index = open_index(store, A, file)
    similarity, hashes = index.search(QUERIES, COUNT + 40)
    assert similarity.shape == (len(QUERIES), COUNT)
    assert all(sorted(row) == sorted(NAMES) for row in hashes)


@pytest.mark.parametrize("k", [0, -1])
def test_no_neighbours_at_all_cannot_be_asked_for(store, file, k):
    with pytest.raises(StoreError, match="must ask for photos") as caught:
        open_index(store, A, file).search(QUERIES, k)
    assert caught.value.got == str(k)


@pytest.mark.parametrize("k", [1, 5, 11, COUNT])
def test_a_search_among_some_is_a_plain_search_among_them(store, file, k):
    index = open_index(store, A, file)
    places = [3, 17, 19, 20, 21, 33, 34, 35, 50, 58, 59]
    among = index.only({NAMES[place] for place in places} | {"unknown"})
    assert len(among) == 11
    assert_nearest(among, [NAMES[place] for place in places], VECTORS[places], k)
    # What it was narrowed from finds all, and the narrowed one can be narrowed again.
    assert_nearest(index, NAMES, VECTORS, k)
    assert_nearest(among.only(NAMES[:20]), [NAMES[3], NAMES[17], NAMES[19]], VECTORS[[3, 17, 19]], k)


def test_a_search_among_none_finds_none(store, file):
    among = open_index(store, A, file).only(["unknown"])
    similarity, hashes = among.search(QUERIES, 5)
    assert len(among) == 0
    assert (similarity.shape, similarity.dtype) == ((len(QUERIES), 0), np.float32)
    assert hashes == [[]] * len(QUERIES)


def test_a_photo_is_its_own_nearest_neighbour(store, file):
    similarity, hashes = open_index(store, A, file).search(VECTORS, 1)
    assert [row[0] for row in hashes] == NAMES
    assert np.allclose(similarity, 1, atol=1e-6)


@pytest.mark.parametrize("form", [np.float64, "fortran", "strided"])
def test_queries_may_come_in_any_form(store, file, form):
    index = open_index(store, A, file)
    queries = QUERIES.astype(np.float64) if form is np.float64 else np.asfortranarray(QUERIES)
    if form == "strided":
        queries = np.repeat(QUERIES, 2, axis=1)[:, ::2]
    similarity, hashes = index.search(queries, 3)
    expected_similarity, expected_hashes = index.search(QUERIES, 3)
    assert np.allclose(similarity, expected_similarity, atol=1e-6)
    assert hashes == expected_hashes


@pytest.mark.parametrize("shape", [(DIM,), (2, DIM + 1), (1, 2, DIM)])
def test_queries_that_do_not_fit_are_refused(store, file, shape):
    index = open_index(store, A, file)
    with pytest.raises(StoreError, match="do not fit the index") as caught:
        index.search(np.zeros(shape, dtype=np.float32), 1)
    assert (caught.value.expected, caught.value.got) == (f"(n, {DIM})", str(shape))


def test_ids_of_the_faiss_index_are_the_ids_that_are_given():
    index = build(VECTORS[:4], [7, 3, 2**40, 11])
    _, ids = index.search(VECTORS[:4], 1)
    assert ids[:, 0].tolist() == [7, 3, 2**40, 11]
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT


# When it is built


def test_a_fresh_index_is_read_not_built(store, file, builds):
    open_index(store, A, file)
    before = file.stat()
    assert_nearest(open_index(store, A, file), NAMES, VECTORS, 5)
    after = file.stat()
    assert builds == [COUNT]
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("lost", ["index", "sidecar", "both"])
def test_a_missing_file_is_built_again(store, file, builds, lost):
    open_index(store, A, file)
    for path, names in ((file, ("index", "both")), (sidecar_of(file), ("sidecar", "both"))):
        if lost in names:
            path.unlink()
    assert_nearest(open_index(store, A, file), NAMES, VECTORS, 5)
    assert_nearest(open_index(store, A, file), NAMES, VECTORS, 5)
    assert builds == [COUNT, COUNT]


def sidecar_of(file: Path) -> Path:
    return file.with_name(file.name + ".json")


@pytest.mark.parametrize("kept", [0, 3, 40, -100, -1])
def test_a_torn_index_is_built_again(store, file, builds, kept):
    open_index(store, A, file)
    file.write_bytes(file.read_bytes()[:kept])
    assert_nearest(open_index(store, A, file), NAMES, VECTORS, 5)
    assert builds == [COUNT, COUNT]


def test_another_index_in_its_place_is_built_again(store, file, builds):
    open_index(store, A, file)
    faiss.write_index(build(VECTORS[:7], range(7)), str(file))
    assert_nearest(open_index(store, A, file), NAMES, VECTORS, 5)
    assert builds == [COUNT, COUNT]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"revision": 1}', "null"])
def test_a_torn_sidecar_is_built_again(store, file, builds, content):
    open_index(store, A, file)
    sidecar_of(file).write_text(content)
    assert_nearest(open_index(store, A, file), NAMES, VECTORS, 5)
    assert builds == [COUNT, COUNT]


def test_new_photos_make_it_stale(store, file, builds):
    open_index(store, A, file)
    more = unit_vectors(5, seed=9)
    names = [f"new-{number}" for number in range(5)]
    add(store, names, more)
    assert_nearest(open_index(store, A, file), NAMES + names, np.concatenate([VECTORS, more]), 6)
    assert builds == [COUNT, COUNT + 5]


def test_a_photo_gone_and_another_come_make_it_stale(store, file):
    open_index(store, A, file)
    store.remove([f"/data/{NAMES[-1]}"])
    other = unit_vectors(1, seed=11)
    add(store, ["other"], other)
    assert_nearest(open_index(store, A, file), [*NAMES[:-1], "other"], np.concatenate([VECTORS[:-1], other]), 60)


def test_another_encoder_makes_it_stale_and_has_its_own_vectors(store, file, builds):
    open_index(store, A, file)
    index = open_index(store, B, file)
    assert len(index) == 10
    own = unit_vectors(10, 5)
    _, hashes = index.search(own, 1)
    assert [row[0] for row in hashes] == NAMES[:10]
    assert_nearest(open_index(store, A, file), NAMES, VECTORS, 5)
    assert builds == [COUNT, 10, COUNT]


def test_a_store_built_anew_in_its_place_makes_it_stale(tmp_path, file):
    for seed in (1, 2):
        # As many photos, in as many batches: only the database itself is another.
        vectors = unit_vectors(10, seed=seed)
        with EmbeddingStore(tmp_path / "new.sqlite") as store:
            add(store, NAMES[:10], vectors)
            assert_nearest(open_index(store, A, file), NAMES[:10], vectors, 4)
        (tmp_path / "new.sqlite").unlink()


def test_a_crash_between_index_and_sidecar_leaves_no_file_that_claims_to_fit(store, file, monkeypatch):
    open_index(store, A, file)
    add(store, ["new"], unit_vectors(1, seed=9))
    with monkeypatch.context() as crash:
        crash.setattr(json, "dumps", lambda state: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_index(store, A, file)
    assert not sidecar_of(file).exists()
    assert len(open_index(store, A, file)) == COUNT + 1


def test_no_part_file_is_left(store, file):
    open_index(store, A, file)
    assert sorted(path.name for path in file.parent.glob("neighbors*")) == [file.name, file.name + ".json"]


@pytest.mark.parametrize("emptied", [False, True], ids=["never filled", "emptied"])
def test_an_empty_index_is_an_error_with_its_fix(tmp_path, file, emptied):
    with EmbeddingStore(tmp_path / "new.sqlite") as store:
        if emptied:
            add(store, NAMES[:1], VECTORS[:1])
            open_index(store, A, file)
            store.remove([f"/data/{NAMES[0]}"])
        with pytest.raises(StoreError, match="the index is empty") as caught:
            open_index(store, A, file)
    assert "build-index" in caught.value.fix


def test_vectors_of_another_encoder_alone_are_said(store, file):
    store.name_encoder(B, "ViT-B")
    with pytest.raises(StoreError, match="no vectors of this encoder in this precision") as caught:
        open_index(store, "encoder-c", file)
    assert caught.value.got == "vectors by ViT-B, encoder-a"
    assert "build-index" in caught.value.fix


def test_a_fresh_process_finds_the_same(store, file):
    similarity, hashes = open_index(store, A, file).search(QUERIES, 5)
    before = file.stat()
    np.save(file.parent / "queries.npy", QUERIES)
    code = (
        "import sys, json, numpy as np; from pathlib import Path\n"
        "from hybrid.index import neighbors; from hybrid.index.store import EmbeddingStore\n"
        "folder = Path(sys.argv[1])\n"
        "with EmbeddingStore(folder / 'store.sqlite') as store:\n"
        "    index = neighbors.open_index(store, 'encoder-a', folder / 'neighbors.faiss')\n"
        "similarity, hashes = index.search(np.load(folder / 'queries.npy'), 5)\n"
        "print(json.dumps([similarity.tobytes().hex(), hashes]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, file.parent], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [similarity.tobytes().hex(), hashes]
    assert file.stat().st_mtime_ns == before.st_mtime_ns
