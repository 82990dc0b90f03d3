"""What many tests share: a tiny CLIP in a folder, small images, the command line, and no way to the network."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.run.files import Layout

if TYPE_CHECKING:
    from hybrid.demo.animals import Animal

# Before anything imports torch or the hub's client; tests that start processes hand it on.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.3, 0.2], "interpolation": "bicubic", "resize_mode": "shortest"}
TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs from this process and those that it starts, unless their tests were asked for, which run alone.

    So ``auto`` means the CPU in all other tests, on every machine.
    """
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests marked `cuda` where no GPU is to be seen."""
    if item.get_closest_marker("cuda") is None:
        return
    if item.config.option.markexpr != "cuda":
        pytest.skip("a test of the GPU: pytest -m cuda")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")


def write_clip(folder: Path, seed: int = 0, config: Mapping[str, object] = TINY_CLIP) -> Path:
    """Write an open_clip model folder with random weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS}))
    return folder


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    return write_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny open_clip model with random weights; read-only, copy it to change it."""
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


def draw_image(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A smooth random image: unlike noise, it still differs from the next one when made small."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def image() -> Callable[..., Image.Image]:
    return draw_image


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int | None, tuple[int, ...]]]:
    """The `min_side` and the shape of every image that is decoded, as it is."""
    from hybrid.images import decoders

    calls: list[tuple[int | None, tuple[int, ...]]] = []
    default, _ = decoders.choose_decoder()

    class Watched:
        name = "watched"

        def decode(self, data: bytes, min_side: int | None) -> decoders.Scaled:
            scaled = default.decode(data, min_side)
            calls.append((min_side, scaled.rgb.shape))
            return scaled

    monkeypatch.setattr(decoders, "DECODERS", {"watched": lambda device: Watched()})
    return calls


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write class folders of distinct JPEG images: `image_folder({"cat": 3, "dog": 2}, "train")`."""

    def write(classes: Mapping[str, int], name: str = "photos", seed: int = 0) -> Path:
        folder = tmp_path / name
        for number, (label, count) in enumerate(classes.items()):
            (folder / label).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                picture = draw_image(seed * 1_000_000 + number * 1000 + index)
                picture.save(folder / label / f"{index:03d}.jpg", quality=95)
        return folder

    return write


@dataclass
class Known:
    """An encoder that is only a name, which is all that a search needs."""

    fingerprint: str = "known"
    uses_templates: bool = True


@dataclass
class KnownRun:
    """A run of images that are their vectors: content ``c3`` lies at ``/data/3.jpg`` and has ``vectors[3]``."""

    layout: Layout
    encoder: Known
    vectors: np.ndarray
    queries: np.ndarray

    def add(self, labels: Sequence[str | None], *, without_vector: Sequence[int] = ()) -> KnownRun:
        images = [StoredImage(record_at(f"/data/{n}.jpg", label), f"c{n}") for n, label in enumerate(labels)]
        vectors = {f"c{n}": self.vectors[n] for n in range(len(labels)) if n not in without_vector}
        with EmbeddingStore(self.layout.store) as store:
            store.write_batch(images, vectors, self.encoder.fingerprint)
        return self

    def copy(self, number: int, path: str, label: str | None) -> None:
        with EmbeddingStore(self.layout.store) as store:
            store.write_batch([StoredImage(record_at(path, label), f"c{number}")])

    def ranked(self, query: np.ndarray, allowed: Sequence[int]) -> list[tuple[int, float]]:
        """What a plain search finds: numbers of the allowed images and their cosines, highest first."""
        cosine = self.vectors.astype(np.float64) @ query.astype(np.float64)
        return [(n, cosine[n]) for n in np.argsort(-cosine) if n in set(allowed)]


def record_at(path: str, label: str | None, split: str | None = "train") -> ImageRecord:
    return ImageRecord(path, "/data", label, split, 1, 1)


def unit_vectors(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 12))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def known(tmp_path: Path) -> KnownRun:
    return KnownRun(Layout(tmp_path / "run"), Known(), unit_vectors(40, 0), unit_vectors(7, 1))


@dataclass(frozen=True)
class Done:
    """What a command wrote."""

    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of stdout as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


def run_command(*arguments: object, rc: int = 0, columns: int = 200) -> Done:
    """Run ``hybrid ARGUMENTS`` as a terminal of so many columns would, up to the exit code `rc`."""
    from hybrid.cli.main import main

    out, err, code, collected = io.StringIO(), io.StringIO(), 0, gc.get_threshold()
    with (
        patch.object(sys, "argv", ["hybrid", *map(str, arguments)]),
        patch.object(warnings, "formatwarning", warnings.formatwarning),
        patch.dict(os.environ, COLUMNS=str(columns)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            gc.set_threshold(*collected)
    assert code == rc, err.getvalue()
    return Done(out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def hybrid() -> Callable[..., Done]:
    return run_command


@pytest.fixture(scope="session")
def write_animals() -> Callable[[Path, Iterable[Animal], int], None]:
    from hybrid.demo.painting import draw

    def write(folder: Path, animals: Iterable[Animal], count: int) -> None:
        """Draw `count` images of each animal of the demo into class folders."""
        for animal in animals:
            (folder / animal.name).mkdir(parents=True)
            for i in range(count):
                rng = np.random.default_rng((len(folder.name), i, *animal.name.encode()))
                draw(animal, rng).save(folder / animal.name / f"{i}.jpg")

    return write
