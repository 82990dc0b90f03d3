"""What the requests are held against: predict by Python on the photos as files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _classifier(folder: Path, encoder: tuple[str, ...], names: tuple[str, ...]) -> Any:
    from hybrid import Run

    pretrained = encoder[1] if len(encoder) > 1 else None
    run = Run(folder / "ceiling", encoder=encoder[0], pretrained=pretrained, say=lambda line: None)
    return run.classifier(prompts=list(names))


def predict(folder: Path, encoder: tuple[str, ...], names: tuple[str, ...], paths: Sequence[str]) -> float:
    """Seconds that Python takes for the files; the classifier is loaded once."""
    classifier = _classifier(folder, encoder, names)
    start = time.perf_counter()
    found = sum(len(classifier.predictions(batch)) for batch in classifier.classify(paths))
    assert found == len(paths)
    return time.perf_counter() - start
