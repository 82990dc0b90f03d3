"""How long the gate's fit takes beside the training of the linear head, on drawn vectors.

    python -m benchmarks.gzsl.fit_time --json fit_time.json

Classes are random directions; each has 16 images, 12 to train on and 4 to validate. The fit is that of all weights,
those of support images too, with the check against zero-shot. Seconds are of the processor, by one thread of BLAS; with
two cores the episodes are gathered side by side, so that the clock shows fewer.

Figures it gave: docs/results/gate.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import table, write_json
from benchmarks.kit.product import calibrated, train_probe
from benchmarks.kit.vectors import Split, unit
from hybrid.errors import HybridError
from hybrid.gate.gate import Gate
from hybrid.gate.gaussians import LabeledEmbeddings

DIM = 512
TRAIN, VAL = 12, 4
SCALE = 100.0
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw and time each number of classes, print the table, write the JSON."""
    parser = shared.parser(__doc__, "benchmarks.gzsl.fit_time")
    parser.add_argument("--classes", type=numbers, default=[70], metavar="70,1000")
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    try:
        with threadpool_limits(1):
            rows = {f"{classes} classes": measure(draw(classes)) for classes in options.classes}
    except HybridError as error:
        sys.exit(str(error))
    write_json(options.json, {"fit_time": rows, "images": {"train": TRAIN, "val": VAL}, "dim": DIM})
    Console(width=120).print(table(rows, marked=False, title="The gate's fit and the linear head's, seconds"))


def numbers(text: str) -> list[int]:
    """Numbers of classes."""
    return shared.distinct(text, "numbers of classes from 8 on, each once", least=8)


def draw(classes: int) -> Split:
    """Draw classes that a text describes in part, with a gap between texts and images."""
    rng = np.random.default_rng(0)
    directions, gap = rng.normal(size=(classes, DIM)), 1.5 * rng.normal(size=DIM)
    texts = unit(0.5 * directions + 0.7 * rng.normal(size=directions.shape) + gap, "texts")

    def images(each: int) -> LabeledEmbeddings:
        target = np.repeat(np.arange(classes), each)
        drawn = 0.6 * directions[target] + rng.normal(size=(len(target), DIM)) - gap / 2
        return LabeledEmbeddings(unit(drawn, "images"), target)

    return Split(tuple(range(classes)), (), texts, images(TRAIN), images(VAL), images(1), SCALE)


def measure(split: Split) -> dict[str, Any]:
    """Train the head and fit the gate, once each."""
    head, trained = timed(lambda: train_probe(split))
    calibration, gathered = timed(lambda: calibrated(split, head))
    _, fitted = timed(lambda: Gate.fitted(calibration))
    fit = gathered + fitted
    return {"linear_head": trained, "episodes": gathered, "weights": fitted, "gate": fit, "ratio": fit / trained}


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What comes of it, and the processor's seconds."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


if __name__ == "__main__":
    main()
