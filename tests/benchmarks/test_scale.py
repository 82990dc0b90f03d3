"""benchmarks.scale: what is drawn, what is measured, and when it refuses."""

from __future__ import annotations

import json
from collections import namedtuple

import numpy as np
import pytest

from benchmarks.scale import __main__ as scale
from benchmarks.scale import measure
from benchmarks.scale.measure import Run, draw
from hybrid.index import faiss_build
from hybrid.index.store import EmbeddingStore


@pytest.fixture
def few(monkeypatch):
    """A run in a second."""
    monkeypatch.setattr(measure, "SMALL_ROWS", 64)
    monkeypatch.setattr(measure, "REPEATS", 1)
    monkeypatch.setattr(measure, "ROUNDS", 1)


def all_of(*arguments, **options):
    return np.concatenate(list(draw(*arguments, **options)))


def test_vectors_are_the_same_each_time_and_those_of_another_seed_lie_among_them():
    vectors = all_of(1500, 32, 10)
    assert (vectors.shape, vectors.dtype) == ((1500, 32), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(all_of(1500, 32, 10), vectors)
    assert np.array_equal(all_of(1000, 32, 10), vectors[:1000])
    others = all_of(300, 32, 10, seed=1)
    assert (others @ vectors.T).max() < 0.99999
    # Of the same classes: much nearer to some than to most.
    cosines = others @ vectors.T
    assert np.median(cosines.max(axis=1)) > np.median(cosines) + 0.2


def test_a_run_measures_all_that_the_table_shows(few, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.json"
    (tmp_path / "stores").mkdir()
    scale.main(["--rows", "1000,1200", "--dim", "16", "--json", str(out), "--folder", str(tmp_path / "stores")])
    result = json.loads(out.read_text())
    assert result["ratios"] == {"search_1m_vs_plain_faiss": None}
    assert "faiss" in result["device"]
    assert set(result["rows"]) == {"1000", "1200"}
    for values in result["rows"].values():
        assert {key for _, key, _ in scale.TABLE} <= set(values)
        assert values["kind"] == "exact"
        assert values["recall_at_10"] == 1
        assert values["search_vs_plain_faiss"] == values["search_100_hybrid_s"] / values["search_100_plain_faiss_s"]
        assert values["open_peak_mib"] >= values["imports_mib"] > 0
    printed = capsys.readouterr().out
    assert all(title.strip() in printed for title, _, _ in scale.TABLE)
    # It cleans up behind itself.
    assert list((tmp_path / "stores").iterdir()) == []


def test_a_million_rows_give_the_ratio(monkeypatch, tmp_path, few):
    monkeypatch.setattr(scale, "MILLION", 1000)
    scale.main(["--rows", "1000", "--dim", "16", "--json", str(tmp_path / "out.json")])
    ratios = json.loads((tmp_path / "out.json").read_text())["ratios"]
    assert ratios["search_1m_vs_plain_faiss"] > 0


def test_the_store_holds_the_rows_and_cells_are_measured_too(few, tmp_path, monkeypatch):
    monkeypatch.setattr(faiss_build, "EXACT_UP_TO", 900)
    monkeypatch.setattr("hybrid.index.ivf.MIN_LISTS_PER_PROBE", 1)
    run = Run(tmp_path, 1500, 16)
    measure.fill(run)
    with EmbeddingStore(run.store) as store:
        assert len(store.rows(measure.ENCODER).ids()) == len(store.images()) == 1500
    found = measure.searches(run)
    assert measure.read_note(run.index).kind == "cells"
    assert 0.9 < found["recall_at_10"] < 1
    measure.changes(run)
    with EmbeddingStore(run.store) as store:
        assert len(store.rows(measure.ENCODER).ids()) == 1500


def test_no_room_is_said_before_anything_is_made(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(measure.shutil, "disk_usage", lambda place: usage(10**10, 0, 10**6))
    with pytest.raises(SystemExit, match=r"100,000 rows need 0\.7 GB in .*, and 0\.0 GB are free"):
        scale.main(["--rows", "100000", "--folder", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit, match="there is no folder"):
        scale.main(["--rows", "100000", "--folder", str(tmp_path / "nothing")])
