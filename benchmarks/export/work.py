"""What each side of benchmarks.export does, in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the demo's animals: classes to learn and to name, photos of each to train and to calibrate on.
LEARNED, NAMED, TRAIN, VAL = 8, 4, 6, 4
# Random weights, so that nothing is downloaded; what is learned is the classifier on top.
NETWORK: dict[str, Any] = {"unfreeze": "none", "pretrained": False, "epochs": 1, "workers": 0}


def make(folder: Path, encoder: str, weights: str | None, backbone: str) -> dict[str, float]:
    """Draw photos, make a run with a linear head and one with a network, and export both; gives sizes in megabytes."""
    from hybrid import Run
    from hybrid.demo.animals import demo_classes
    from hybrid.demo.painting import draw

    demo = demo_classes()
    learned = demo.seen[:LEARNED]
    for split, count in (("train", TRAIN), ("val", VAL)):
        for animal in learned:
            place = folder / split / animal.name
            place.mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng((len(split), number, *animal.name.encode()))
                draw(animal, rng).save(place / f"{number}.jpg", quality=90)
    sizes = {}
    for head in ("linear", "network"):
        run = Run(folder / head, encoder=encoder, pretrained=weights, precision="fp32", device="cpu")
        run.index([folder / "train", folder / "val"])
        if head == "linear":
            run.train(head="linear")
        else:
            run.train(backbone=backbone, **NETWORK)
        summary = run.export(folder / f"{head}.hybrid", names(), text=head == "linear")
        sizes[head] = summary.size / 1e6
    return sizes


def names() -> list[str]:
    """Classes that are named."""
    from hybrid.demo.animals import demo_classes

    return [animal.name for animal in demo_classes().unseen[:NAMED]]


@cache
def classifier(folder: Path, head: str, side: str) -> Any:
    """Load a side: ``torch fp32``, ``torch auto`` (what `hybrid predict` does by itself) or ``lite``."""
    if side == "lite":
        from hybrid.lite import load

        return load(folder / f"{head}.hybrid")
    import hybrid.device
    from hybrid import Run

    if side == "torch fp32":  # of the head too, whose precision is the machine's own choice
        hybrid.device.cpu_has_native_bf16 = lambda: False
    precision = "fp32" if side == "torch fp32" else "auto"
    return Run(folder / head, precision=precision, device="cpu", decoder="cpu").classifier(names())


def seconds(folder: Path, head: str, side: str, photos: Sequence[str], batch: int) -> float:
    """Seconds that a side takes for photos; it is loaded and warm."""
    loaded = classifier(folder, head, side)
    loaded.predict_proba(photos[:batch], batch_size=batch)
    start = time.perf_counter()
    assert len(loaded.predict_proba(photos, batch_size=batch)) == len(photos)
    return time.perf_counter() - start


def answers(
    folder: Path, head: str, side: str, photos: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities (n, c) and embeddings (n, dim)."""
    batches = list(classifier(folder, head, side).classify(photos))
    found = (np.concatenate([batch.answers.hybrid for batch in batches]), [batch.embeddings for batch in batches])
    return found[0], np.concatenate(found[1]).astype(np.float64)
