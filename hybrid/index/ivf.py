"""Approximate search among many vectors: cells of a k-means clustering, as many probed as the recall needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.index.rows import Ids, VectorRows

# Of the 10 nearest vectors, this share must be found: so says the lower end of the measurement's 95 % interval.
RECALL, NEAREST = 0.95, 10
# Stored vectors that it is measured with.
QUERIES = 500
# Beyond a quarter of the cells, an exact search in blocks is no slower.
LARGEST_SHARE = 4
POINTS_PER_CELL, ROUNDS, SEED = 64, 10, 1


@dataclass(frozen=True)
class Probing:
    """How a search goes through the cells: how many it visits, what that finds, and whether it is enough."""

    cells: int
    probed: int
    recall: float
    sample: int
    enough: bool


def build_cells(rows: VectorRows, ids: Ids) -> tuple[Any, Ids, Probing]:
    """Cluster vectors into cells (IVF, Sivic and Zisserman 2003) and measure how many a search must visit.

    There are sqrt(n) cells. FAISS advises four times as many and more, to which n vectors take four times as long to be
    assigned. The same rows give the same index.

    Parameters
    ----------
    rows : VectorRows
    ids : (n,) int64, ascending

    Returns
    -------
    index : faiss.IndexIVFFlat
        With `nprobe` set.
    held : (m,) int64
        Rows that it holds; fewer than `ids` where some were removed meanwhile.
    probing : Probing
    """
    import faiss

    cells = max(1, round(len(ids) ** 0.5))
    chosen = np.random.default_rng(SEED).permutation(len(ids))[: POINTS_PER_CELL * cells]
    _, sample = rows.vectors(np.sort(ids[chosen]))
    own, queries = rows.vectors(np.sort(ids[chosen[:QUERIES]]))
    dim = sample.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.seed, index.cp.niter = True, SEED, ROUNDS
    index.cp.max_points_per_centroid = POINTS_PER_CELL
    index.train(sample)
    del sample
    held = [np.empty(0, dtype=np.int64)]
    nearest = _Nearest(queries, own)
    for found, vectors in rows.chunks(ids):
        index.add_with_ids(vectors, found)
        held.append(found)
        nearest.see(vectors, found)
    places = _places_of_cells(index, queries, nearest, rows)
    return index, np.concatenate(held), _probe(index, places)


class _Nearest:
    """The exact nearest vectors of some queries, kept while all vectors pass by.

    Parameters
    ----------
    queries : (n, dim) float32
    own : (n,) int64
        Id of each query itself, which is no neighbor of its own.
    """

    def __init__(self, queries: FloatArray, own: Ids) -> None:
        self._queries, self._own = queries, own
        self._similarity = np.full((len(queries), NEAREST), -np.inf, dtype=np.float32)
        self.ids: Ids = np.full((len(queries), NEAREST), -1, dtype=np.int64)

    def see(self, vectors: FloatArray, ids: Ids) -> None:
        import faiss

        asked = min(NEAREST + 1, len(ids))
        similarity, places = faiss.knn(self._queries, vectors, asked, metric=faiss.METRIC_INNER_PRODUCT)
        similarity[ids[places] == self._own[:, None]] = -np.inf
        similarity = np.concatenate([self._similarity, similarity], axis=1)
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :NEAREST]
        self._similarity = np.take_along_axis(similarity, best, axis=1)
        self.ids = np.take_along_axis(np.concatenate([self.ids, ids[places]], axis=1), best, axis=1)


def _places_of_cells(index: Any, queries: FloatArray, nearest: _Nearest, rows: VectorRows) -> NDArray[np.int64]:
    """How manieth cell a search visits, from 0, when it meets each of the true neighbors, (n, NEAREST).

    Within the cells that it visits, a search is exact. So these places tell what it finds by any number of cells.
    """
    known, vectors = rows.vectors(np.unique(nearest.ids))
    _, cells = index.quantizer.search(vectors, 1)
    _, visited = index.quantizer.search(queries, index.nlist)
    places = np.argsort(visited, axis=1)  # of each cell in the order of the visits
    # A neighbor that was removed meanwhile is never met.
    there = np.isin(nearest.ids, known)
    cell = cells[np.minimum(np.searchsorted(known, nearest.ids), len(known) - 1), 0]
    return np.where(there, np.take_along_axis(places, cell, axis=1), index.nlist)


def _probe(index: Any, places: NDArray[np.int64]) -> Probing:
    """Set the least number of visited cells whose recall is surely enough, or the most that is sensible."""
    most = max(1, index.nlist // LARGEST_SHARE)
    for probed in range(1, most + 1):
        recall = (places < probed).mean(axis=1)
        sure = recall.mean() - 2 * recall.std() / len(recall) ** 0.5
        if sure >= RECALL:
            break
    index.nprobe = probed
    return Probing(index.nlist, probed, float(recall.mean()), len(recall), bool(sure >= RECALL))
