"""Plain colored images, an encoder that sees and names colors, and a run of six of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import ColorEncoder, give_head
from PIL import Image

from hybrid.config import EncoderSettings
from hybrid.encoders.base import unit_norm
from hybrid.errors import EncoderError
from hybrid.images.records import ImageRecord
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore
from hybrid.run.files import Layout, write_run

COLORS = {
    "red": (250, 10, 10),
    "green": (10, 250, 10),
    "blue": (10, 10, 250),
    "yellow": (250, 250, 10),
    "cyan": (10, 250, 250),
    "magenta": (250, 10, 250),
    "orange": (250, 130, 10),
    "purple": (130, 10, 250),
    "grey": (128, 128, 128),
    "brown": (120, 70, 30),
    "navy": (10, 10, 110),
    "pink": (250, 160, 190),
}
SEEN = ("red", "green", "blue", "yellow", "cyan", "magenta")


def embed(rgb) -> np.ndarray:
    """Color and darkness."""
    return np.append(np.asarray(rgb, dtype=np.float64) - 100, 30.0)


class NamedColors(ColorEncoder):
    """Sees how dark a color is too, and finds the vector of a text by the color in it."""

    dim = 4

    def __init__(self, identity: str = "colors", fingerprint: str = "colors fp32") -> None:
        super().__init__(identity, fingerprint)

    def embed(self, color: np.ndarray) -> np.ndarray:
        return embed(color)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        words = [next((w for w in re.findall(r"\w+", text) if w in COLORS), "") for text in texts]
        if missing := self.unknown & set(texts):
            raise EncoderError(f"no text vector for {len(missing)} names", got=", ".join(sorted(missing)))
        return unit_norm(np.stack([embed(COLORS[w]) if w else np.array([1.0, -1.0, 1.0, -9.0]) for w in words]))


@pytest.fixture
def make_encoder() -> type[NamedColors]:
    return NamedColors


@pytest.fixture
def encoder() -> NamedColors:
    return NamedColors()


@pytest.fixture
def vector_of():
    """The unit vector of a color by its name."""
    return lambda color: unit_norm(embed(COLORS[color])[None])[0]


@pytest.fixture
def images(tmp_path):
    """Paint class folders: `images("more", orange=3)`; records without labels, and those of `index` with them.

    An image is nearly of one color, and its bytes are given by no other seed.
    """

    def make(folder: str, seed: int = 0, **classes: int) -> tuple[ImageRecord, ...]:
        for number, (name, count) in enumerate(classes.items()):
            color = next(COLORS[word] for word in name.split("_") if word in COLORS)
            (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = np.random.default_rng(seed * 10_000 + number * 100 + i)
                pixels = np.clip(color + rng.integers(-8, 8, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{i}.png")
        return scan([tmp_path / folder], labeled=False).records

    return make


@pytest.fixture
def index(layout, encoder):
    """What `hybrid build-index` does with folders."""

    def build(*folders: Path, labeled: bool = True, replace: bool = False, by: NamedColors = encoder):
        write_run(layout, EncoderSettings(), by)
        with EmbeddingStore(layout.store) as store:
            return build_index(scan(folders, labeled=labeled), by, store, replace=replace)

    return build


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "run")


@pytest.fixture
def run(layout, images, index, tmp_path) -> Layout:
    """An index of three images of each seen color, in train; no head."""
    images("data/train", seed=1, **dict.fromkeys(SEEN, 3))
    index(tmp_path / "data")
    return layout


@pytest.fixture
def headed(run, encoder) -> Layout:
    """The same with a head of all its labels, as far as the classes of a run are concerned."""
    give_head(run, encoder, SEEN)
    return run
