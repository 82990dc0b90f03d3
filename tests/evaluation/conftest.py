"""Results of an evaluation that never ran: drawn probabilities and small images in files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hybrid.evaluation.metrics import SystemScores, score_system
from hybrid.evaluation.results import Evaluation, ImageResults
from hybrid.images.records import ImageRecord

SYSTEMS = ("supervised", "zero_shot", "hybrid")


@pytest.fixture(scope="session")
def make_result(tmp_path_factory: pytest.TempPathFactory, image: Callable) -> Callable[..., Evaluation]:
    """Make an `Evaluation` of 60 images: of four seen and two unseen classes, if nothing else is asked for."""

    def make(
        names: tuple[str, ...] = ("ant", "bee", "cat", "dog", "elk", "fox"),
        seen: int = 4,
        systems: tuple[str, ...] = SYSTEMS,
        classes_with_images: int | None = None,
        gate: bool = True,
        images: int = 60,
        folder: str = "photos",
        **changes: object,
    ) -> Evaluation:
        rng = np.random.default_rng(0)
        place = tmp_path_factory.mktemp("result") / folder
        place.mkdir()
        files = [place / f"{k}.jpg" for k in range(images)]
        for k, file in enumerate(files):
            image(k, (300, 150)).save(file)
        records = tuple(ImageRecord(str(f), str(f.parent), None, None, f.stat().st_size, 0) for f in files)
        target = rng.integers(0, classes_with_images or len(names), images)
        unseen = np.arange(len(names)) >= seen
        probabilities = {}
        for system in systems:
            scores = np.exp(rng.normal(size=(images, len(names))) + 2 * np.eye(len(names))[target])
            if system == "supervised":
                scores[:, unseen] = 0
            probabilities[system] = scores / scores.sum(axis=1, keepdims=True)
        p_unseen = probabilities["hybrid"][:, unseen].sum(axis=1) if gate and "hybrid" in systems else None
        kept = ImageResults(names, seen, records, target, probabilities, p_unseen)
        scored: dict[str, SystemScores | None] = dict.fromkeys(SYSTEMS)
        for system, answers in probabilities.items():
            gate_scores = p_unseen if system == "hybrid" else None
            scored[system] = score_system(answers, target, unseen, p_unseen=gate_scores, images_per_second=100.0)
        values = {
            "images": images,
            "scored": images,
            "outside": 0,
            "seen": seen,
            "unseen": len(names) - seen,
            "systems": scored,
            "setup": ("device: cpu",),
            "notes": (),
            "unreadable": (),
            "per_image": kept,
        }
        return Evaluation(**{**values, **changes})

    return make
