"""An index of drawn animals with wrong labels, as a run whose vectors are in a file, and the truth about it."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.run.files import Layout, write_run


@dataclass(frozen=True, eq=False)
class World:
    """The index that a benchmark starts from.

    Attributes
    ----------
    names : tuple of str
        All classes, the trained ones first.
    seen : int
        How many are trained.
    arrays : dict
        Of `benchmarks.kit.world_vectors`.
    """

    names: tuple[str, ...]
    seen: int
    arrays: dict[str, Any]

    @classmethod
    def of(cls, arrays: dict[str, Any], seen: int) -> World:
        """Take the classes from the arrays of a file, the first `seen` of them as trained."""
        return cls(tuple(map(str, arrays["class_names"])), seen, arrays)

    @property
    def unseen(self) -> NDArray[np.bool_]:
        """Which classes are only named, (c,)."""
        return np.arange(len(self.names)) >= self.seen


@dataclass(frozen=True, eq=False)
class Scene:
    """A run to review.

    Attributes
    ----------
    layout : Layout
    truth : dict of content hash to str
        What each photo of the index shows.
    given : dict of content hash to (str or None)
        The label that it has there.
    """

    layout: Layout
    truth: dict[str, str]
    given: dict[str, str | None]

    @property
    def wrong(self) -> list[str]:
        """Contents whose label is wrong."""
        return [sha256 for sha256, label in self.given.items() if label not in (None, self.truth[sha256])]

    @property
    def labeled(self) -> list[str]:
        """Contents with a label."""
        return [sha256 for sha256, label in self.given.items() if label is not None]

    @property
    def unlabeled(self) -> list[str]:
        """Contents without one."""
        return [sha256 for sha256, label in self.given.items() if label is None]


def lay_out(world: World, folder: Path, share: float, seed: int, *, unlabeled: bool) -> Scene:
    """Write a run: the train photos of the trained classes, a `share` of them under the label of another one.

    Parameters
    ----------
    unlabeled : bool
        Put the val photos of all classes beside them, without a label.
    """
    photos = [("train", n, int(c)) for n, c in enumerate(world.arrays["train_label"]) if c < world.seen]
    if unlabeled:
        photos += [("val", n, int(c)) for n, c in enumerate(world.arrays["val_label"])]
    rng = random.Random(seed)
    labels = [world.names[c] if split == "train" else None for split, _, c in photos]
    labeled = [row for row, label in enumerate(labels) if label is not None]
    for row in rng.sample(labeled, round(share * len(labeled))):
        labels[row] = rng.choice([name for name in world.names[: world.seen] if name != labels[row]])
    paths = [f"{split}/{number:05d}.jpg" for split, number, _ in photos]
    vectors = np.stack([world.arrays[f"{split}_embedding"][number] for split, number, _ in photos])
    layout = _write(world, folder, paths, labels, vectors)
    hashes = [_content(path) for path in paths]
    truth = {sha256: world.names[c] for sha256, (_, _, c) in zip(hashes, photos, strict=True)}
    return Scene(layout, truth, dict(zip(hashes, labels, strict=True)))


def _content(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()


def _write(
    world: World, folder: Path, paths: list[str], labels: list[str | None], vectors: NDArray[np.float32]
) -> Layout:
    file, layout = folder / "vectors.npz", Layout(folder / "run")
    arrays: dict[str, Any] = {"path": np.array(paths), "embedding": vectors, "text": np.array(world.names)}
    np.savez(file, **arrays, text_embedding=world.arrays["class_text"], logit_scale=world.arrays["logit_scale"])
    settings = EncoderSettings(model=f"precomputed:{file}", pretrained=None)
    encoder = load_encoder(settings, "cpu")
    write_run(layout, settings, encoder)
    records = [ImageRecord(f"/{path}", "/", label, None, 1, 1) for path, label in zip(paths, labels, strict=True)]
    images = [StoredImage(record, _content(path)) for record, path in zip(records, paths, strict=True)]
    with EmbeddingStore(layout.store) as store:
        by_content = {image.sha256: vector for image, vector in zip(images, vectors, strict=True)}
        store.write_batch(images, by_content, encoder.fingerprint)
    return layout
