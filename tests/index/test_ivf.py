from __future__ import annotations

import numpy as np
import pytest

from hybrid.index import ivf as cells
from hybrid.index.ivf import build_cells


@pytest.fixture
def rows(empty, monkeypatch):
    monkeypatch.setattr(cells, "QUERIES", 60)
    empty.add([f"a-{number}" for number in range(500)], 0)
    empty.remove([f"a-{number}" for number in range(0, 100, 7)])
    return empty.store.rows(empty.encoder)


def test_the_measured_recall_is_that_of_a_plain_search(rows, monkeypatch):
    monkeypatch.setattr(cells, "LARGEST_SHARE", 2)
    ids = rows.ids()
    index, held, probing = build_cells(rows, ids)
    assert np.array_equal(held, ids)
    assert (probing.cells, probing.sample) == (22, 60)
    assert index.nprobe == probing.probed
    # The same by hand: queries are the vectors of the first chosen rows, each left out of its own answer.
    _, vectors = rows.vectors(ids)
    chosen = np.random.default_rng(cells.SEED).permutation(len(ids))[:60]
    inner = vectors[chosen] @ vectors.T
    inner[np.arange(60), chosen] = -np.inf
    true = ids[np.argsort(-inner, axis=1)[:, :10]]
    found = index.search(vectors[chosen], 11)[1]
    share = [len((set(row) - {own}) & set(near)) / 10 for row, own, near in zip(found, ids[chosen], true, strict=True)]
    assert probing.recall == pytest.approx(np.mean(share))
    sure = np.mean(share) - 2 * np.std(share) / 60**0.5
    assert probing.enough == (sure >= cells.RECALL)


def test_as_few_cells_are_probed_as_the_recall_needs(rows, monkeypatch):
    monkeypatch.setattr(cells, "LARGEST_SHARE", 1)
    probed = []
    for wanted in (0.2, 0.6, 0.95, 1.0):
        monkeypatch.setattr(cells, "RECALL", wanted)
        _, _, probing = build_cells(rows, rows.ids())
        assert probing.enough
        assert probing.recall >= wanted
        probed.append(probing.probed)
    assert probed == sorted(probed)
    assert probed[0] < probed[2] < probed[3] <= 22


def test_the_recall_must_be_enough_beyond_chance(rows, monkeypatch):
    monkeypatch.setattr(cells, "LARGEST_SHARE", 1)
    monkeypatch.setattr(cells, "RECALL", 0.6)
    _, _, first = build_cells(rows, rows.ids())
    # The very mean that was measured is not sure enough.
    monkeypatch.setattr(cells, "RECALL", first.recall)
    _, _, second = build_cells(rows, rows.ids())
    assert second.probed > first.probed


def test_what_a_sensible_share_of_the_cells_does_not_hold_is_not_enough(rows, monkeypatch):
    monkeypatch.setattr(cells, "LARGEST_SHARE", 8)
    _, _, probing = build_cells(rows, rows.ids())
    assert (probing.probed, probing.enough) == (2, False)
    assert probing.recall < 0.95


def test_places_of_the_cells_of_true_neighbors(rows):
    """Where a search meets each neighbor, by probing one cell more and more."""
    ids = rows.ids()
    index, _, _ = build_cells(rows, ids)
    own, queries = rows.vectors(ids[5:12])
    nearest = cells._Nearest(queries, own)
    for found, vectors in rows.chunks(ids):
        nearest.see(vectors, found)
    places = cells._places_of_cells(index, queries, nearest, rows)
    for probed in range(1, index.nlist + 1):
        index.nprobe = probed
        met = index.search(queries, len(ids))[1]
        assert ((places < probed) == [np.isin(true, row) for true, row in zip(nearest.ids, met, strict=True)]).all()


@pytest.mark.parametrize("chunk", [1, 4, 90, 4096])
def test_the_true_neighbors_however_the_vectors_pass_by(rows, monkeypatch, chunk):
    monkeypatch.setattr("hybrid.index.rows.CHUNK", chunk)
    ids, vectors = rows.vectors(rows.ids())
    own = np.array([0, 7, 200])
    nearest = cells._Nearest(vectors[own], ids[own])
    for found, some in rows.chunks(ids):
        nearest.see(some, found)
    inner = vectors[own] @ vectors.T
    inner[np.arange(3), own] = -np.inf
    assert np.array_equal(nearest.ids, ids[np.argsort(-inner, axis=1)[:, :10]])


def test_rows_that_leave_meanwhile_are_not_held(rows):
    ids = rows.ids()
    asked = np.append(ids, ids[-1] + 5)
    _, held, _ = build_cells(rows, asked)
    assert np.array_equal(held, ids)
