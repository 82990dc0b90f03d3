"""Figures of one head: how right, how large, how fast. Arrays and callables in, numbers out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybrid.evaluation.arrays import Ints, check_target
from hybrid.tools.compare.results import ClassFigures

Predict = Callable[[Sequence[Any]], Any]
BATCH = 32
REPEATS = 5


@dataclass(frozen=True)
class Scores:
    """How right the predictions for some images are; the macro figures are means over the classes with images."""

    accuracy: float
    macro_precision: float
    macro_recall: float
    classes: tuple[ClassFigures, ...]


def score(predicted: Ints, target: Ints, names: Sequence[str]) -> Scores:
    """Score class indices (n,) against the true ones with scikit-learn; a share of nothing counts 0.

    Raises
    ------
    MetricError
        If the arrays do not fit together or hold anything but class indices.
    """
    from sklearn.metrics import precision_recall_fscore_support

    check_target(target, len(target), len(names))
    check_target(predicted, len(target), len(names))
    precision, recall, _, support = precision_recall_fscore_support(
        target, predicted, labels=np.arange(len(names)), zero_division=0
    )
    present = support > 0
    rows = zip(names, precision.tolist(), recall.tolist(), support.tolist(), strict=True)
    return Scores(
        accuracy=float(np.mean(predicted == target)),
        macro_precision=float(precision[present].mean()),
        macro_recall=float(recall[present].mean()),
        classes=tuple(ClassFigures(name=name, precision=p, recall=r, support=int(s)) for name, p, r, s in rows),
    )


def count_operations(predict: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions in a call; a multiply-add counts as two."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter knows neither torch's fused transformer block nor its fused attention on every processor; the plain
    # way around both is matrix products.
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            predict()
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return int(counter.get_total_flops())


def count_parameters(predict: Callable[[], Any]) -> int:
    """Parameters of every torch module whose forward pass runs in a call, shared ones once.

    For an encoder: of its two towers, only the one for images.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    sizes: dict[int, int] = {}

    def note(module: Any, _inputs: Any) -> None:
        sizes.update((id(p), p.numel()) for p in module.parameters())

    handle = register_module_forward_pre_hook(note)
    try:
        predict()
    finally:
        handle.remove()
    return sum(sizes.values())


def images_per_second(predict: Predict, prepared: Sequence[Any], repeats: int = REPEATS) -> float:
    """Speed of a batch of `BATCH` prepared images: a warm-up, then the median of the repeats.

    Fewer images than a batch are taken several times.
    """
    batch = [prepared[place % len(prepared)] for place in range(BATCH)]
    predict(batch)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        predict(batch)
        seconds.append(time.perf_counter() - start)
    return BATCH / max(statistics.median(seconds), 1e-9)
