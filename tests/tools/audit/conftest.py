"""Runs whose images are given by their vectors alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from hybrid.config import EncoderSettings
from hybrid.encoders.precomputed import PrecomputedEncoder
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.run.files import Layout, write_run

AnyImage = tuple[str, str | None, str | None, str]
"""Path, label, split, content."""


def store_image(path: str, label: str | None, split: str | None, content: str) -> StoredImage:
    return StoredImage(ImageRecord(path, "/data", label, split, 1, 1), hashlib.sha256(content.encode()).hexdigest())


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run of images, vectors by content and names by text: `make_run(images, vectors, texts)`."""

    def make(
        images: Sequence[AnyImage], vectors: Mapping[str, np.ndarray], texts: Mapping[str, np.ndarray] | None = None
    ) -> Path:
        named = dict(texts or {"something else": next(iter(vectors.values()))})
        file = tmp_path / "vectors.npz"
        np.savez(
            file,
            path=np.array(list(vectors)),
            embedding=np.stack(list(vectors.values())),
            text=np.array(list(named)),
            text_embedding=np.stack(list(named.values())),
            logit_scale=np.float32(20),
        )
        encoder = PrecomputedEncoder(file)
        layout = Layout(tmp_path / "run")
        write_run(layout, EncoderSettings(model=f"precomputed:{file}", pretrained=None), encoder)
        by_hash = {hashlib.sha256(name.encode()).hexdigest(): vector for name, vector in vectors.items()}
        with EmbeddingStore(layout.store) as store:
            store.write_batch([store_image(*image) for image in images], by_hash, encoder.fingerprint)
        return layout.root

    return make


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def draw_clusters(counts: Sequence[int], dim: int = 12, noise: float = 0.12, seed: int = 0):
    """Images around random centers: vectors (n, dim), classes (n,), centers (c, dim)."""
    rng = np.random.default_rng(seed)
    centers = unit(rng.normal(size=(len(counts), dim)))
    target = np.repeat(np.arange(len(counts)), counts)
    return unit(centers[target] + noise * rng.normal(size=(len(target), dim))), target, centers
