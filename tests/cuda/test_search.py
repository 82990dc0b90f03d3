"""Exact search on the GPU finds what the CPU finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybrid.index import gpu
from hybrid.index.neighbors import NeighborIndex, build

pytestmark = pytest.mark.cuda
ROWS, DIM, K = 50_000, 64, 10


@pytest.fixture(scope="module")
def vectors():
    made = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def test_many_queries_on_the_gpu_find_what_the_cpu_finds(vectors, monkeypatch, device):
    monkeypatch.setattr(gpu, "MIN_WORK", 0)
    torch.zeros(1, device=device)  # as a process does whose encoder computes there
    index = NeighborIndex(build(vectors, range(ROWS)), lambda ids: {n: str(n) for n in ids.tolist()})
    queries = vectors[::500] + 0.05
    similarity, found = index.search(queries, K)
    assert any("on the GPU" in note for note in index.notes), index.notes
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    order = np.argsort(-exact, axis=1)[:, :K]
    np.testing.assert_allclose(similarity, np.take_along_axis(exact, order, axis=1), atol=1e-4)
    same = [len({*map(int, mine)} & {*theirs.tolist()}) / K for mine, theirs in zip(found, order, strict=True)]
    assert np.mean(same) > 0.999


def test_faiss_on_the_gpu_finds_what_it_finds_on_the_cpu(vectors):
    faiss = pytest.importorskip("faiss")
    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        pytest.skip("this faiss has no GPU: faiss-gpu is not installed")
    index = build(vectors, range(ROWS))
    copy = faiss.index_cpu_to_all_gpus(index)
    similarity, ids = copy.search(vectors[:200], K)
    expected, expected_ids = index.search(vectors[:200], K)
    np.testing.assert_allclose(similarity, expected, atol=1e-4)
    assert (ids == expected_ids).mean() > 0.99
