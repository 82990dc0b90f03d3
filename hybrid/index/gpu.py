"""Many queries at once on a GPU: a copy of an index there, by faiss-gpu or by torch, where the search is worth it.

The copy takes about as long as the CPU does for some hundred queries, however many vectors there are.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.index.faiss_file import ids_in
from hybrid.index.rows import Ids

# So many queries are worth a copy, if they are so many multiply-adds: a tenth of a second on 16 cores.
MIN_QUERIES, MIN_WORK = 100, 10**10
# What FAISS on a GPU has room for: neighbors, and lists that are probed.
MOST = 2048
# Similarities that torch holds at once (512 MB), and the share of the free memory that a copy may take.
SCORES, SHARE = 2**27, 0.25


class GpuCopy(Protocol):
    """An index on a GPU.

    Attributes
    ----------
    note : str
        For people: what searches there.
    """

    note: str

    def search(self, queries: FloatArray, k: int) -> tuple[FloatArray, Ids]:
        """Find the k nearest as FAISS does: similarity and ids, both (n, k)."""


def is_worth_a_copy(queries: int, index: Any, k: int) -> bool:
    """Tell whether a search repays the copy of the index; the copy stays for later ones."""
    fits = k <= MOST and getattr(index, "nprobe", 1) <= MOST
    return fits and queries >= MIN_QUERIES and queries * int(index.ntotal) * int(index.d) >= MIN_WORK


def copy_to_gpu(index: Any) -> GpuCopy | None:
    """Copy an index to the GPUs by faiss-gpu, else, if it is exact, to the one that torch computes on; None for none.

    torch's GPU is taken only where this process computes on it already: not if ``--device cpu`` was asked for.
    """
    import faiss

    if getattr(faiss, "get_num_gpus", lambda: 0)():
        try:
            return FaissCopy(faiss.index_cpu_to_all_gpus(index))
        except RuntimeError:  # it does not fit, or FAISS has no such index there
            return None
    device = torch_gpu()
    return None if device is None or hasattr(index, "nprobe") else torch_copy(index, device)


def torch_gpu() -> str | None:
    """The GPU that this process computes on by torch."""
    torch = sys.modules.get("torch")
    return "cuda" if torch is not None and torch.cuda.is_initialized() else None


class FaissCopy:
    """An index on all GPUs, by faiss-gpu."""

    note = "many photos at once are searched on the GPU, by FAISS"

    def __init__(self, index: Any) -> None:
        self._index = index

    def search(self, queries: FloatArray, k: int) -> tuple[FloatArray, Ids]:
        """See `GpuCopy`."""
        similarity, ids = self._index.search(queries, k)
        return similarity, ids


def torch_copy(index: Any, device: str) -> TorchCopy | None:
    """Copy the vectors of an exact index; None where they do not fit beside what the GPU holds."""
    import faiss
    import torch

    flat: Any = faiss.downcast_index(index.index)
    count, dim = int(index.ntotal), int(index.d)
    if device != "cpu" and 4 * count * dim > SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    vectors = faiss.rev_swig_ptr(flat.get_xb(), count * dim).reshape(count, dim)
    try:
        return TorchCopy(torch.from_numpy(vectors).to(device, copy=True), ids_in(index))
    except torch.cuda.OutOfMemoryError:
        return None


class TorchCopy:
    """The vectors (count, dim) of an exact index on a device, and their ids."""

    note = "many photos at once are searched on the GPU, by torch (faiss-gpu is not installed)"

    def __init__(self, vectors: Any, ids: Ids) -> None:
        self._vectors, self._ids = vectors, ids

    def search(self, queries: FloatArray, k: int) -> tuple[FloatArray, Ids]:
        """See `GpuCopy`; in float32, as many queries at once as there is room for."""
        import torch

        size = max(1, SCORES // len(self._vectors))
        found = []
        for start in range(0, len(queries), size):
            part = torch.tensor(queries[start : start + size], device=self._vectors.device)
            found.append([one.cpu().numpy() for one in (part @ self._vectors.T).topk(k, dim=1)])
        similarity, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return similarity, self._ids[places]
