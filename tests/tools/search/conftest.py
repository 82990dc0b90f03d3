"""A run whose store holds vectors that the tests know, by an encoder that is only a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.run.files import Layout

DIM = 12


@dataclass
class Known:
    """Its name is all that a search needs of an encoder."""

    fingerprint: str = "known"
    uses_templates: bool = True
    asked: list[str] = field(default_factory=list)


@dataclass
class World:
    """A run of `count` images: content ``c3`` lies at ``/data/3.jpg`` and has the vector ``vectors[3]``."""

    layout: Layout
    encoder: Known
    vectors: np.ndarray

    def add(self, labels: Sequence[str | None], *, without_vector: Sequence[int] = ()) -> World:
        images = [StoredImage(record(f"/data/{n}.jpg", label), f"c{n}") for n, label in enumerate(labels)]
        vectors = {f"c{n}": self.vectors[n] for n in range(len(labels)) if n not in without_vector}
        with EmbeddingStore(self.layout.store) as store:
            store.write_batch(images, vectors, self.encoder.fingerprint)
        return self

    def copy(self, number: int, path: str, label: str | None) -> None:
        with EmbeddingStore(self.layout.store) as store:
            store.write_batch([StoredImage(record(path, label), f"c{number}")])

    def ranked(self, query: np.ndarray, allowed: Sequence[int]) -> list[tuple[int, float]]:
        """What a plain search finds: numbers of the allowed images and their cosines, highest first."""
        cosine = self.vectors.astype(np.float64) @ query.astype(np.float64)
        return [(n, cosine[n]) for n in np.argsort(-cosine) if n in set(allowed)]


def record(path: str, label: str | None, split: str | None = "train") -> ImageRecord:
    return ImageRecord(path, "/data", label, split, 1, 1)


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Layout(tmp_path / "run"), Known(), unit(40, 0))


@pytest.fixture
def queries() -> np.ndarray:
    return unit(7, 1)
