"""Exact search on the CPU and on the GPU: seconds, and whether both find the same neighbors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu_check import names
from benchmarks.gpu_check.report import Report
from hybrid.encoders.base import FloatArray

if TYPE_CHECKING:
    from hybrid.index.neighbors import NeighborIndex

DIM, NEAREST, REPEATS = 512, 10, 3


def search(report: Report, device: str, rows: int, queries: int) -> None:
    """Measure FAISS on the CPU, the product as it chooses, torch on the device, and FAISS on the GPU if it has one."""
    vectors, asked = unit_vectors(rows, 0), unit_vectors(queries, 1)
    import faiss

    start_cuda(device)
    index = product(vectors)
    size = f"{queries} queries, {rows:,} x {DIM}"
    plain = faiss.IndexFlatIP(DIM)
    plain.add(vectors)
    _, expected = plain.search(asked, NEAREST)
    report.figure(f"FAISS on the CPU, {size}", 1000 * seconds(lambda: plain.search(asked, NEAREST)), "ms")
    start = time.perf_counter()
    _, found = index.search(asked, NEAREST)
    report.figure("the product, its first search", 1000 * (time.perf_counter() - start), "ms")
    report.figure("the product, later searches", 1000 * seconds(lambda: index.search(asked, NEAREST)), "ms")
    report.figure("the product, one query", 1000 * seconds(lambda: index.search(asked[:1], NEAREST)), "ms")
    report.figure(names.SAME_NEIGHBORS, same(np.array([[int(one) for one in row] for row in found]), expected))
    for note in index.notes:
        report.note(note)
    with_torch(report, device, vectors, asked, expected)
    if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus():
        start = time.perf_counter()
        copy = faiss.index_cpu_to_all_gpus(plain)
        report.figure("FAISS, copy to the GPU", 1000 * (time.perf_counter() - start), "ms")
        report.figure("FAISS on the GPU", 1000 * seconds(lambda: copy.search(asked, NEAREST)), "ms")
    else:
        report.note("this faiss has no GPU: faiss-gpu was not measured")


def with_torch(report: Report, device: str, vectors: FloatArray, asked: FloatArray, expected: Any) -> None:
    """An exact search by a matrix product in fp32."""
    import torch

    start = time.perf_counter()
    copy = torch.from_numpy(vectors).to(device)
    report.figure(f"torch, copy to {device}", 1000 * (time.perf_counter() - start), "ms")

    def find() -> Any:
        return (torch.from_numpy(asked).to(device) @ copy.T).topk(NEAREST, dim=1).indices.cpu().numpy()

    report.figure(f"torch on {device}", 1000 * seconds(find), "ms")
    report.figure("neighbors that torch finds too", same(find(), expected))


def start_cuda(device: str) -> None:
    """Compute something, as a process does whose encoder is on the device."""
    import torch

    torch.zeros(1, device=device).sum().item()


def product(vectors: FloatArray) -> NeighborIndex:
    """The product's index over vectors whose hashes are their numbers."""
    from hybrid.index.neighbors import NeighborIndex, build

    return NeighborIndex(build(vectors, range(len(vectors))), lambda ids: {n: str(n) for n in ids.tolist()})


def seconds(work: Callable[[], object]) -> float:
    """Median of some calls, after one that warms up."""
    work()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def same(found: Any, expected: Any) -> float:
    """Share of the expected neighbors (n, k) that were found, in any order."""
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)]))


def unit_vectors(rows: int, seed: int) -> FloatArray:
    """Random directions."""
    vectors = np.random.default_rng(seed).standard_normal((rows, DIM), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
