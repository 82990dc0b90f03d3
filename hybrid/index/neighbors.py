"""`NeighborIndex`: exact nearest photos by FAISS, derived from the store and rebuilt when stale."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.errors import StoreError, listing
from hybrid.index.store import EmbeddingStore


class NeighborIndex:
    """Inner-product search over the unit-norm vectors of one encoder.

    Parameters
    ----------
    index : faiss index
        Inner product, its ids being the row ids of the store's embeddings.
    hashes : mapping of row id to content hash
        The photos that may be found; the index may hold more.
    """

    def __init__(self, index: Any, hashes: dict[int, str]) -> None:
        self._index = index
        self._hashes = hashes
        # FAISS skips other ids while it searches, so that k photos are found however few of them these are.
        self._parameters = _among(hashes) if len(hashes) < index.ntotal else None

    def __len__(self) -> int:
        return len(self._hashes)

    def only(self, hashes: Collection[str]) -> NeighborIndex:
        """Narrow the search to some photos; content hashes without a vector are passed over."""
        wanted = frozenset(hashes)
        return NeighborIndex(self._index, {row: name for row, name in self._hashes.items() if name in wanted})

    def search(self, embeddings: FloatArray, k: int) -> tuple[FloatArray, list[list[str]]]:
        """Find the k nearest photos of each embedding.

        Parameters
        ----------
        embeddings : (n, dim) float32, unit norm
        k : int
            At least 1; cut to the number of photos.

        Returns
        -------
        similarity : (n, k) float32, cosine, highest first
        hashes : n lists of k content hashes

        Raises
        ------
        StoreError
            If `k` is below 1 or the embeddings are of another length than those of the index.
        """
        if k < 1:
            raise StoreError("a search must ask for photos", expected="at least 1", got=str(k))
        queries = np.ascontiguousarray(embeddings, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._index.d:
            raise StoreError(
                "query vectors do not fit the index", expected=f"(n, {self._index.d})", got=str(queries.shape)
            )
        if not len(self):
            return np.empty((len(queries), 0), dtype=np.float32), [[] for _ in queries]
        similarity, ids = self._index.search(queries, min(k, len(self)), params=self._parameters)
        return similarity, [[self._hashes[int(i)] for i in row if i >= 0] for row in ids]


def open_index(store: EmbeddingStore, fingerprint: str, file: Path) -> NeighborIndex:
    """Read the FAISS file if it fits the store's state, else build it from the store and write it.

    Parameters
    ----------
    file : Path
        The FAISS file; its sidecar ``.json`` says which encoder and which state of the store it holds.

    Raises
    ------
    StoreError
        If the store holds no vector of this encoder.
    """
    import faiss

    sidecar = file.with_suffix(file.suffix + ".json")
    state = {"fingerprint": fingerprint, "store": store.identity, "revision": store.revision}
    hashes = store.embedding_ids(fingerprint)
    if _read_state(sidecar) == state and file.is_file():
        try:
            index = faiss.read_index(str(file))
        except RuntimeError:  # a torn or foreign file: derived data, so it is built again
            index = None
        if index is not None and index.ntotal == len(hashes):
            return NeighborIndex(index, hashes)
    if not hashes:
        raise _why_empty(store)
    index = build(store.embeddings(list(hashes.values()), fingerprint), list(hashes))
    # The sidecar goes first and comes last: a crash between the two leaves no file that claims to fit.
    sidecar.unlink(missing_ok=True)
    part = file.with_name(file.name + ".part")
    faiss.write_index(index, str(part))
    part.replace(file)
    part_state = sidecar.with_name(sidecar.name + ".part")
    part_state.write_text(json.dumps(state), encoding="utf-8")
    part_state.replace(sidecar)
    return NeighborIndex(index, hashes)


def build(vectors: FloatArray, ids: Sequence[int]) -> Any:
    """Build an exact inner-product FAISS index over (n, dim) vectors with the given ids."""
    import faiss

    index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
    numbers: NDArray[np.int64] = np.asarray(ids, dtype=np.int64)
    index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), numbers)
    return index


def _among(hashes: Mapping[int, str]) -> Any:
    import faiss

    # Fields given by keyword are kept alive, unlike those that are set later; the type stubs do not know of them.
    parameters: Any = faiss.SearchParameters
    return parameters(sel=faiss.IDSelectorBatch(np.fromiter(hashes, dtype=np.int64, count=len(hashes))))


def _why_empty(store: EmbeddingStore) -> StoreError:
    others = store.counts()["embeddings"]
    if not others:
        return StoreError("the index is empty", fix="add photos: hybrid build-index SOURCE --run DIR")
    return StoreError(
        "the index holds no vectors of this encoder in this precision",
        got=f"vectors by {listing(list(others))}",
        fix="hybrid build-index SOURCE again, or --device as then",
    )


def _read_state(sidecar: Path) -> Any:
    try:
        return json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
