from __future__ import annotations

import numpy as np
import pytest

from hybrid.index import ivf
from hybrid.index.ivf import build_ivf


@pytest.fixture
def rows(empty, monkeypatch):
    monkeypatch.setattr(ivf, "QUERIES", 60)
    empty.add([f"a-{number}" for number in range(500)], 0)
    empty.remove([f"a-{number}" for number in range(0, 100, 7)])
    return empty.store.rows(empty.encoder)


@pytest.mark.parametrize("chunk", [7, 4096])
def test_as_few_cells_are_probed_as_the_recall_of_a_plain_search_needs(rows, monkeypatch, chunk):
    monkeypatch.setattr(ivf, "MIN_LISTS_PER_PROBE", 1)
    ids = rows.ids()
    # By hand: queries are the vectors of the first chosen rows, each left out of its own answer.
    _, vectors = rows.vectors(ids)
    chosen = np.random.default_rng(ivf.SEED).permutation(len(ids))[:60]
    inner = vectors[chosen] @ vectors.T
    inner[np.arange(60), chosen] = -np.inf
    true = ids[np.argsort(-inner, axis=1)[:, :10]]
    monkeypatch.setattr("hybrid.index.rows.CHUNK", chunk)
    probed = []
    for wanted in (0.2, 0.6, 0.95, 1.0):
        monkeypatch.setattr(ivf, "MIN_RECALL", wanted)
        index, held, quality = build_ivf(rows, ids)
        assert np.array_equal(held.ids, ids)
        assert (quality.lists, quality.sample) == (22, 60)
        assert index.nprobe == quality.nprobe
        found = index.search(vectors[chosen], 11)[1]
        neighbors = zip(found, ids[chosen], true, strict=True)
        share = [len((set(row) - {own}) & set(near)) / 10 for row, own, near in neighbors]
        assert quality.recall == pytest.approx(np.mean(share))
        assert quality.meets_recall
        assert np.mean(share) - 2 * np.std(share) / 60**0.5 >= wanted
        probed.append(quality.nprobe)
    assert probed == sorted(probed)
    assert probed[0] < probed[2] < probed[3] <= 22


def test_the_recall_must_be_enough_beyond_chance(rows, monkeypatch):
    monkeypatch.setattr(ivf, "MIN_LISTS_PER_PROBE", 1)
    monkeypatch.setattr(ivf, "MIN_RECALL", 0.6)
    _, _, first = build_ivf(rows, rows.ids())
    # The very mean that was measured is not sure enough.
    monkeypatch.setattr(ivf, "MIN_RECALL", first.recall)
    _, _, second = build_ivf(rows, rows.ids())
    assert second.nprobe > first.nprobe


def test_what_a_sensible_share_of_the_cells_does_not_hold_is_not_enough(rows, monkeypatch):
    monkeypatch.setattr(ivf, "MIN_LISTS_PER_PROBE", 8)
    _, _, quality = build_ivf(rows, rows.ids())
    assert (quality.nprobe, quality.meets_recall) == (2, False)
    assert quality.recall < 0.95


def test_rows_that_leave_meanwhile_are_not_held(rows):
    ids = rows.ids()
    _, held, _ = build_ivf(rows, np.append(ids, ids[-1] + 5))
    assert np.array_equal(held.ids, ids)
