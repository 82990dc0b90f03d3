"""Approximate search among many vectors: an inverted file (IVF) whose nprobe is as large as the recall needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.index.keys import KeyList, Keys
from hybrid.index.rows import Ids, VectorRows

# Recall at 10 that must be met, by the lower end of the measurement's 95 % confidence interval.
MIN_RECALL, NEAREST = 0.95, 10
# Stored vectors that it is measured with.
QUERIES = 500
# Where a search must probe more than a quarter of the lists, an exact one in blocks is no slower.
MIN_LISTS_PER_PROBE = 4
POINTS_PER_LIST, KMEANS_ITERATIONS, SEED = 64, 10, 1


@dataclass(frozen=True)
class IvfRecall:
    """What a search finds.

    Attributes
    ----------
    lists, nprobe : int
        Inverted lists, and how many of them a search probes.
    recall : float
        At `NEAREST`, the mean over `sample` stored vectors.
    sample : int
    meets_recall : bool
        Whether it is surely at least `MIN_RECALL`.
    """

    lists: int
    nprobe: int
    recall: float
    sample: int
    meets_recall: bool


def build_ivf(rows: VectorRows, ids: Ids) -> tuple[Any, Keys, IvfRecall]:
    """Sort vectors into the lists of their nearest centroids (IVF, Sivic and Zisserman 2003), and choose nprobe.

    There are sqrt(n) lists. FAISS advises four times as many and more, to which n vectors take four times as long to be
    assigned. The same rows give the same index.

    Parameters
    ----------
    rows : VectorRows
    ids : (n,) int64, ascending

    Returns
    -------
    index : faiss.IndexIVFFlat
        With `nprobe` set.
    held : Keys
        Of the rows that it holds; fewer than `ids` where some were removed meanwhile.
    recall : IvfRecall
    """
    import faiss

    lists = max(1, round(len(ids) ** 0.5))
    chosen = np.random.default_rng(SEED).permutation(len(ids))[: POINTS_PER_LIST * lists]
    _, sample = rows.vectors(np.sort(ids[chosen]))
    own, queries = rows.vectors(np.sort(ids[chosen[:QUERIES]]))
    dim = sample.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.seed, index.cp.niter = True, SEED, KMEANS_ITERATIONS
    index.cp.max_points_per_centroid = POINTS_PER_LIST
    index.train(sample)
    del sample
    held = KeyList()
    nearest = Nearest(queries, own)
    for chunk in rows.chunks(ids):
        index.add_with_ids(chunk.vectors, chunk.ids)
        held.add(chunk)
        nearest.update(chunk.vectors, chunk.ids)
    ranks = _probe_ranks(index, queries, nearest, rows)
    return index, held.keys(), _choose_nprobe(index, ranks)


class Nearest:
    """The exact nearest vectors of some queries, updated with one chunk of vectors after the other.

    Parameters
    ----------
    queries : (n, dim) float32
    own : (n,) int64
        Id of each query itself, which is not its own neighbor.

    Attributes
    ----------
    ids : (n, NEAREST) int64
        Of the nearest so far, the most similar first; -1 where there are none.
    """

    def __init__(self, queries: FloatArray, own: Ids) -> None:
        self.queries, self.own = queries, own
        self._similarity = np.full((len(queries), NEAREST), -np.inf, dtype=np.float32)
        self.ids: Ids = np.full((len(queries), NEAREST), -1, dtype=np.int64)

    def update(self, vectors: FloatArray, ids: Ids) -> None:
        """Compare the queries with vectors (m, dim)."""
        import faiss

        k = min(NEAREST + 1, len(ids))
        similarity, places = faiss.knn(self.queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
        similarity[ids[places] == self.own[:, None]] = -np.inf
        similarity = np.concatenate([self._similarity, similarity], axis=1)
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :NEAREST]
        self._similarity = np.take_along_axis(similarity, best, axis=1)
        self.ids = np.take_along_axis(np.concatenate([self.ids, ids[places]], axis=1), best, axis=1)


def _probe_ranks(index: Any, queries: FloatArray, nearest: Nearest, rows: VectorRows) -> NDArray[np.int64]:
    """How many lists are probed before that of each true neighbor, (n, NEAREST).

    Within the lists that it probes, a search is exact. So these ranks tell the recall of any nprobe.
    """
    known, vectors = rows.vectors(np.unique(nearest.ids))
    _, lists = index.quantizer.search(vectors, 1)
    _, probed = index.quantizer.search(queries, index.nlist)
    ranks = np.argsort(probed, axis=1)  # of each list in the order in which they are probed
    # A neighbor that was removed meanwhile is never found.
    present = np.isin(nearest.ids, known)
    own_list = lists[np.minimum(np.searchsorted(known, nearest.ids), len(known) - 1), 0]
    return np.where(present, np.take_along_axis(ranks, own_list, axis=1), index.nlist)


def _choose_nprobe(index: Any, ranks: NDArray[np.int64]) -> IvfRecall:
    """Set the smallest nprobe that meets the recall, or the largest one that makes sense."""
    for nprobe in range(1, max(1, index.nlist // MIN_LISTS_PER_PROBE) + 1):
        recall = (ranks < nprobe).mean(axis=1)
        lower = recall.mean() - 2 * recall.std() / len(recall) ** 0.5
        if lower >= MIN_RECALL:
            break
    index.nprobe = nprobe
    return IvfRecall(index.nlist, nprobe, float(recall.mean()), len(recall), bool(lower >= MIN_RECALL))
