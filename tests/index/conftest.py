"""Vectors that the tests know, in a store, by encoders that are only names."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from hybrid.images.records import ImageRecord
from hybrid.index import faiss_build
from hybrid.index.neighbors import NeighborIndex, open_index
from hybrid.index.schema import COLUMNS
from hybrid.index.store import EmbeddingStore, StoredImage

DIM = 16


def unit(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@dataclass
class Filled:
    """A store, the place of its FAISS file, and what a plain search over the same vectors must find."""

    store: EmbeddingStore
    file: Path
    encoder: str = "encoder-a"
    known: dict[str, np.ndarray] = field(default_factory=dict)
    queries: np.ndarray = field(default_factory=lambda: unit(9, seed=5))

    def add(self, names: Sequence[str], vectors: np.ndarray | int, label: str | None = None) -> None:
        if isinstance(vectors, int):
            vectors = unit(len(names), seed=vectors)
        images = [StoredImage(ImageRecord(f"/data/{name}", "/data", label, None, 1, 1), name) for name in names]
        self.store.write_batch(images, dict(zip(names, vectors, strict=True)), self.encoder)
        self.known.update(zip(names, vectors, strict=True))

    def remove(self, names: Sequence[str]) -> None:
        self.store.remove([f"/data/{name}" for name in names])
        for name in names:
            del self.known[name]

    def open(self) -> NeighborIndex:
        return open_index(self.store, self.encoder, self.file)

    def to_format_1(self) -> None:
        self.store.close()
        to_format_1(self.store.path)
        self.store = EmbeddingStore(self.store.path)

    def only(self, index: NeighborIndex, names: Sequence[str]) -> NeighborIndex:
        ids = [number for number, name in self.hashes().items() if name in names]
        return index.only_ids(np.array(ids, dtype=np.int64))

    def hashes(self) -> dict[int, str]:
        rows = self.store.rows(self.encoder)
        return rows.hashes(rows.ids())

    def nearest(self, k: int, among: Sequence[str] | None = None) -> tuple[np.ndarray, list[list[str]]]:
        """Cosines and hashes by numpy, in double precision."""
        names = list(self.known if among is None else among)
        inner = self.queries.astype(np.float64) @ np.stack([self.known[name] for name in names]).astype(np.float64).T
        order = np.argsort(-inner, axis=1)[:, :k]
        return np.take_along_axis(inner, order, axis=1), [[names[column] for column in row] for row in order]

    def check(self, index: NeighborIndex | None = None, k: int = 5, among: Sequence[str] | None = None) -> None:
        """Compare an index (default: the file's, opened now) with the plain search."""
        similarity, hashes = (index or self.open()).search(self.queries, k)
        expected, names = self.nearest(k, among)
        assert similarity.dtype == np.float32
        assert np.allclose(similarity, expected, atol=1e-6)
        assert hashes == names


def to_format_1(file: Path) -> None:
    """Make a store what hybrid 0.1.0 would have written."""
    with closing(sqlite3.connect(file)) as db, db:
        db.executescript(
            "DROP INDEX photos_by_label; DROP TABLE history; UPDATE meta SET value = 1 WHERE key = 'format'"
        )
        for table, (_, new) in COLUMNS.items():
            for column in new:
                db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the store is, in a folder that it makes."""
    return tmp_path / "run" / "store.sqlite"


@pytest.fixture
def store(file: Path) -> Iterator[EmbeddingStore]:
    with EmbeddingStore(file) as opened:
        yield opened


@pytest.fixture
def empty(store: EmbeddingStore) -> Filled:
    return Filled(store, store.path.with_name("index.faiss"))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to bring the FAISS file up to date, each time: "built" or "updated"."""
    steps: list[str] = []
    for step in ("built", "updated"):
        make = getattr(faiss_build, f"_{step}")

        def noted(*arguments: object, step: str = step, make: Callable[..., object] = make) -> object:
            result = make(*arguments)
            steps.extend([step] if result is not None else [])
            return result

        monkeypatch.setattr(faiss_build, f"_{step}", noted)
    return steps
