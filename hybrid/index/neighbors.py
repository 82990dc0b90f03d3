"""`NeighborIndex`: nearest images by FAISS, derived from the store and updated when stale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.errors import StoreError
from hybrid.index import faiss_build, gpu
from hybrid.index.faiss_build import Opened, exact_index, up_to_date
from hybrid.index.faiss_file import ids_in
from hybrid.index.faiss_tail import Tail
from hybrid.index.keys import without
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
    tail : Tail, optional
        Rows that are searched too, and rows of the index that are not.
    """

    def __init__(
        self,
        index: Any,
        hashes: Callable[[Ids], dict[int, str]],
        ids: Ids | None = None,
        notes: tuple[str, ...] = (),
        tail: Tail | None = None,
    ) -> None:
        self._index = index
        self._hashes = hashes
        self._ids = ids
        self._notes = notes
        self._tail = tail

    def __len__(self) -> int:
        if self._ids is not None:
            return len(self._ids)
        return int(self._index.ntotal) if self._tail is None else self._tail.state.count

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell people of the search, and of where it ran."""
        copy = vars(self).get("_on_gpu")
        return self._notes if copy is None else (*self._notes, copy.note)

    def only_ids(self, ids: Ids) -> NeighborIndex:
        """Narrow the search to some rows of the store; those that the index does not hold are passed over."""
        return self._narrowed(np.intersect1d(ids, self._searched_ids))

    def _narrowed(self, ids: Ids) -> NeighborIndex:
        return NeighborIndex(self._index, self._hashes, ids, self._notes, self._tail)

    @property
    def _searched_ids(self) -> Ids:
        if self._ids is not None:
            return self._ids
        held = ids_in(self._index)
        return held if self._tail is None else self._tail.ids(np.sort(held))

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
            return self._narrowed(rest).search(queries, k)
        return similarity, [[hashes[number] for number in row] for row in ids.tolist()]

    def _nearest(self, queries: FloatArray, k: int) -> tuple[FloatArray, Ids]:
        if self._tail is None:
            return self._nearest_of_index(queries, k)
        similarity, ids = self._nearest_of_tail(queries, k)
        if most := min(k, len(self) - self._in_tail):
            of_index, in_index = self._nearest_of_index(queries, most)
            similarity, ids = np.concatenate([of_index, similarity], axis=1), np.concatenate([in_index, ids], axis=1)
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(similarity, best, axis=1), np.take_along_axis(ids, best, axis=1)

    def _nearest_of_index(self, queries: FloatArray, k: int) -> tuple[FloatArray, Ids]:
        # FAISS on a GPU knows no selection of ids.
        worth = self._ids is None and gpu.is_worth_a_copy(len(queries), self._index, k)
        if worth and self._on_gpu is not None:
            similarity, ids = self._on_gpu.search(queries, k)
        else:
            similarity, ids = self._index.search(queries, k, params=self._parameters)
        # The lists that were probed may hold fewer than k images, and some may have been removed: a selection of all
        # others would make every search of an exact index three times as long.
        short = np.flatnonzero((ids < 0).any(axis=1) | self._are_removed(ids))
        if len(short):
            similarity[short], ids[short] = self._index.search(queries[short], k, params=self._all_lists)
        return similarity, ids

    def _are_removed(self, ids: Ids) -> NDArray[np.bool_]:
        """Which rows (n, k) hold an id that was removed since the file was written; none where ids are selected."""
        if self._tail is None or self._ids is not None or not len(self._tail.removed):
            return np.zeros(len(ids), dtype=np.bool_)
        return np.asarray(np.isin(ids, self._tail.removed).any(axis=1))

    def _nearest_of_tail(self, queries: FloatArray, k: int) -> tuple[FloatArray, Ids]:
        import faiss

        keys, vectors = self._tail_rows
        if not len(keys):
            return np.empty((len(queries), 0), dtype=np.float32), np.empty((len(queries), 0), dtype=np.int64)
        similarity, places = faiss.knn(queries, vectors, min(k, len(keys)), metric=faiss.METRIC_INNER_PRODUCT)
        return similarity, keys[places]

    @property
    def _in_tail(self) -> int:
        return len(self._tail_rows[0])

    @cached_property
    def _tail_rows(self) -> tuple[Ids, FloatArray]:
        """Ids and vectors of the tail that may be found."""
        assert self._tail is not None  # noqa: S101  for the type checker
        ids, vectors = self._tail.keys.ids, self._tail.vectors
        if self._ids is None:
            return ids, vectors
        selected = ~without(ids, self._ids)
        return ids[selected], vectors[selected]

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
        nprobe = getattr(self._index, "nlist", None)
        if self._ids is None and self._tail is not None and len(self._tail.removed):
            return _parameters(self._tail.removed, nprobe, but=True)
        return _parameters(self._ids, nprobe)

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
    opened, said = up_to_date(store, fingerprint, file)
    hashes = partial(_stored_hashes, store.path, opened)
    return NeighborIndex(opened.index, hashes, notes=(*said, *opened.note.lines), tail=opened.tail)


def build(vectors: FloatArray, ids: Sequence[int]) -> Any:
    """Build an exact inner-product FAISS index over (n, dim) vectors with the given ids."""
    index = exact_index(vectors.shape[1])
    index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), np.asarray(ids, dtype=np.int64))
    return index


def _stored_hashes(path: Path, opened: Opened, ids: Ids) -> dict[int, str]:
    """Look up what rows are of when they are found, and whether they are there, by a connection of this thread."""
    with EmbeddingStore(path, read_only=True) as store:
        now = store.state
        if now.identity != opened.note.store:
            raise StoreError(f"{path} was built anew while it was searched", fix="search again")
        rows = store.rows(opened.note.fingerprint)
        if opened.keys is None:
            hashes = rows.hashes(ids)
        else:
            present = ids if now == opened.at else rows.present(ids)
            hashes = opened.keys.find(present)
            if opened.tail is not None:
                hashes |= opened.tail.keys.find(present)
        if len(hashes) < len(ids):
            store.check_vectors_found()
        return hashes


def _parameters(ids: Ids | None, nprobe: int | None = None, *, but: bool = False) -> Any:
    """Search among some ids (None: all), or among all `but` some."""
    import faiss

    # Fields given by keyword are kept alive, unlike those that are set later; the type stubs do not know of them.
    kind: Any = faiss.SearchParameters if nprobe is None else faiss.SearchParametersIVF
    fields: dict[str, Any] = {} if ids is None else {"sel": faiss.IDSelectorBatch(ids)}
    if but:
        fields = {"sel": faiss.IDSelectorNot(fields["sel"])}
    return kind(**fields) if nprobe is None else kind(nprobe=nprobe, **fields)
