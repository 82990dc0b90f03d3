"""`NeighborIndex`: nearest images by FAISS, derived from the store and updated when stale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.errors import StoreError
from hybrid.index import faiss_build, gpu
from hybrid.index.faiss_build import exact_index, up_to_date
from hybrid.index.faiss_file import Note, ids_in
from hybrid.index.rows import Ids
from hybrid.index.store import EmbeddingStore


class NeighborIndex:
    """Inner-product search over the unit-norm vectors of one encoder.

    Parameters
    ----------
    index : faiss index
        Inner product, with ids of its own.
    hashes : callable
        Content hash by id of those of the given ids (m,) int64 whose images there are (still).
    ids : (m,) int64, optional
        The only rows that may be found. Default: all.
    notes : tuple of str
        What to tell people of the search.
    """

    def __init__(
        self,
        index: Any,
        hashes: Callable[[Ids], dict[int, str]],
        ids: Ids | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._index = index
        self._hashes = hashes
        self._ids = ids
        self._notes = notes

    def __len__(self) -> int:
        return int(self._index.ntotal) if self._ids is None else len(self._ids)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell people of the search, and of where it ran."""
        copy = vars(self).get("_on_gpu")
        return self._notes if copy is None else (*self._notes, copy.note)

    def only_ids(self, ids: Ids) -> NeighborIndex:
        """Narrow the search to some rows of the store; those that the index does not hold are passed over."""
        return NeighborIndex(self._index, self._hashes, np.intersect1d(ids, self._searched_ids), self._notes)

    @property
    def _searched_ids(self) -> Ids:
        return ids_in(self._index) if self._ids is None else self._ids

    def search(self, embeddings: FloatArray, k: int) -> tuple[FloatArray, list[list[str]]]:
        """Find the k nearest images of each embedding.

        Parameters
        ----------
        embeddings : (n, dim) float32, unit norm
        k : int
            At least 1; cut to the number of images.

        Returns
        -------
        similarity : (n, k) float32, cosine, highest first
        hashes : n lists of k content hashes

        Raises
        ------
        StoreError
            If `k` is below 1, the embeddings are of another length than those of the index, or the store has gone.
        """
        if k < 1:
            raise StoreError(
                "a search must ask for photos",
                expected="at least 1",
                got=str(k),
                fix="give a higher number: --top-k 10",
            )
        queries = np.ascontiguousarray(embeddings, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._index.d:
            raise StoreError(
                "query vectors do not fit the index",
                expected=f"(n, {self._index.d})",
                got=str(queries.shape),
                fix="embed the query with the encoder of this run",
            )
        k = min(k, len(self))
        if not k or not len(queries):
            return np.empty((len(queries), k), dtype=np.float32), [[] for _ in queries]
        similarity, ids = self._nearest(queries, k)
        unique = np.unique(ids)
        hashes = self._hashes(unique)
        if len(hashes) < len(unique):
            # Images were removed since the index was opened: they are left out, and others found in their place.
            rest = np.setdiff1d(self._searched_ids, [number for number in unique.tolist() if number not in hashes])
            return NeighborIndex(self._index, self._hashes, rest, self._notes).search(queries, k)
        return similarity, [[hashes[number] for number in row] for row in ids.tolist()]

    def _nearest(self, queries: FloatArray, k: int) -> tuple[FloatArray, Ids]:
        # FAISS on a GPU knows no selection of ids.
        worth = self._ids is None and gpu.is_worth_a_copy(len(queries), self._index, k)
        if worth and self._on_gpu is not None:
            similarity, ids = self._on_gpu.search(queries, k)
        else:
            similarity, ids = self._index.search(queries, k, params=self._parameters)
        # The lists that were probed may hold fewer than k images.
        short = np.flatnonzero((ids < 0).any(axis=1))
        if len(short):
            similarity[short], ids[short] = self._index.search(queries[short], k, params=self._all_lists)
        return similarity, ids

    @cached_property
    def _parameters(self) -> Any:
        """FAISS skips other ids while it searches, so that k images are found however few of them there are."""
        if self._ids is None:
            return None
        if not hasattr(self._index, "nprobe"):
            return _parameters(self._ids)
        # Where few images count, the nearest lists may hold none of them.
        if len(self) <= faiss_build.EXACT_UP_TO:
            return self._all_lists
        nprobe = -(-self._index.nprobe * self._index.ntotal // len(self))
        return _parameters(self._ids, min(nprobe, self._index.nlist))

    @cached_property
    def _all_lists(self) -> Any:
        return _parameters(self._ids, self._index.nlist)

    @cached_property
    def _on_gpu(self) -> gpu.GpuCopy | None:
        return gpu.copy_to_gpu(self._index)


def open_index(store: EmbeddingStore, fingerprint: str, file: Path) -> NeighborIndex:
    """Read the FAISS file of a run, updated from the store where vectors came or left; see `up_to_date`.

    The vectors are not read but mapped, and the content hash of an image is looked up in the store once it is found.
    The store itself may be closed before the search.

    Parameters
    ----------
    file : Path
        The FAISS file; the note at its end says which encoder and which vectors of the store it holds.

    Raises
    ------
    StoreError
        If the store holds no vector of this encoder.
    """
    index, note, said = up_to_date(store, fingerprint, file)
    return NeighborIndex(index, partial(_stored_hashes, store.path, note), notes=(*said, *note.lines))


def build(vectors: FloatArray, ids: Sequence[int]) -> Any:
    """Build an exact inner-product FAISS index over (n, dim) vectors with the given ids."""
    index = exact_index(vectors.shape[1])
    index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), np.asarray(ids, dtype=np.int64))
    return index


def _stored_hashes(path: Path, note: Note, ids: Ids) -> dict[int, str]:
    """Look up rows in the store when they are found, by a connection of the thread that asks."""
    with EmbeddingStore(path, read_only=True) as store:
        if store.identity != note.store:
            raise StoreError(f"{path} was built anew while it was searched", fix="search again")
        hashes = store.rows(note.fingerprint).hashes(ids)
        if len(hashes) < len(ids):
            store.check_vectors_found()
        return hashes


def _parameters(ids: Ids | None, nprobe: int | None = None) -> Any:
    import faiss

    # Fields given by keyword are kept alive, unlike those that are set later; the type stubs do not know of them.
    kind: Any = faiss.SearchParameters if nprobe is None else faiss.SearchParametersIVF
    fields: dict[str, Any] = {} if ids is None else {"sel": faiss.IDSelectorBatch(ids)}
    return kind(**fields) if nprobe is None else kind(nprobe=nprobe, **fields)
