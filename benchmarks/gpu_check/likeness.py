"""How close the product's vectors are to those of the model's own preprocessing and fp32, photo by photo."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.throughput.images import draw
from benchmarks.throughput.ours import hybrid_build_index
from benchmarks.throughput.peers import load_open_clip
from benchmarks.throughput.processes import Setup
from hybrid.encoders.base import FloatArray

# As cameras, phones and the web have them.
SIZES = ((640, 480), (480, 640), (500, 375), (1280, 853), (427, 640), (1024, 1024), (2048, 1536), (320, 240))
BATCH = 64


def write_photos(folder: Path, count: int, data: Path | None) -> tuple[str, ...]:
    """Write crops of scikit-learn's photos in many sizes, with some of the real photos under `data` for the half."""
    if folder.is_dir():
        return tuple(sorted(str(file) for file in folder.iterdir()))
    folder.mkdir(parents=True)
    found = sorted(data.glob("caltech101/test/*/*.jpg")) if data else []
    real = found[:: max(1, len(found) // (count // 2))][: count // 2]
    for number, file in enumerate(real):
        (folder / f"real{number:04d}.jpg").write_bytes(file.read_bytes())
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        list(pool.map(_write_crop, repeat(folder), range(count - len(real)), chunksize=8))
    return tuple(sorted(str(file) for file in folder.iterdir()))


def _write_crop(folder: Path, number: int) -> None:
    (folder / f"crop{number:04d}.jpg").write_bytes(draw(SIZES[number % len(SIZES)], number))


def cosines(setup: Setup, files: Sequence[str]) -> FloatArray:
    """Cosine of each photo's vector in a store that build-index made to that of open_clip's own way, (n,)."""
    return np.asarray((built(setup, files) * exact(setup, files)).sum(axis=1))


def built(setup: Setup, files: Sequence[str]) -> FloatArray:
    """Vectors of the files, in their order, (n, dim), as a fresh build-index leaves them."""
    from hybrid.index.store import EmbeddingStore

    hybrid_build_index(setup)(files, None)
    with EmbeddingStore(setup.work / "store0.sqlite") as store:
        contents = {image.record.path: image.sha256 for image in store.images()}
        (fingerprint,) = store.encoders()
        return store.embeddings([contents[file] for file in files], fingerprint)


def exact(setup: Setup, files: Sequence[str]) -> FloatArray:
    """Unit vectors of open_clip's model in fp32 behind its own transform, (n, dim), without the product."""
    import torch
    from PIL import Image

    model, transform = load_exact(setup)

    def pixels(file: str) -> Any:
        with Image.open(file) as image:
            return transform(image)

    found = []
    with ThreadPoolExecutor(setup.workers) as pool, torch.inference_mode():
        for start in range(0, len(files), BATCH):
            batch = torch.stack(list(pool.map(pixels, files[start : start + BATCH]))).to(setup.device)
            found.append(torch.nn.functional.normalize(model.encode_image(batch), dim=-1).cpu())
    return np.asarray(torch.cat(found).numpy(), dtype=np.float32)


def load_exact(setup: Setup) -> tuple[Any, Any]:
    """Model and transform of open_clip in fp32, for a setup's weights or the bundled tiny ones."""
    if setup.model != "tiny":
        return load_open_clip(replace(setup, precision="fp32"))
    import open_clip

    from hybrid.encoders.clip import TINY_FOLDER

    model, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{TINY_FOLDER}", precision="fp32", device=setup.device
    )
    return model.eval(), transform
