"""Classify photos into trained classes and into classes that are only named, in one calibrated answer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid.classifier import HybridClassifier
    from hybrid.gate.policy import Policy
    from hybrid.images.detections import Detections
    from hybrid.images.sequences import with_sequences
    from hybrid.labels.priors import ClassPriors
    from hybrid.labels.prompts import PromptSet
    from hybrid.prediction import Prediction
    from hybrid.run.run import Run

__version__ = "0.1.0"
__all__ = [
    "ClassPriors",
    "Detections",
    "HybridClassifier",
    "Policy",
    "Prediction",
    "PromptSet",
    "Run",
    "with_sequences",
]

_HOMES = {
    "ClassPriors": "hybrid.labels.priors",
    "Detections": "hybrid.images.detections",
    "HybridClassifier": "hybrid.classifier",
    "Policy": "hybrid.gate.policy",
    "Prediction": "hybrid.prediction",
    "PromptSet": "hybrid.labels.prompts",
    "Run": "hybrid.run.run",
    "with_sequences": "hybrid.images.sequences",
}


def __getattr__(name: str) -> Any:
    # The classifier imports torch, which takes seconds; `hybrid --help` must not wait for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
