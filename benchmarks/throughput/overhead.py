"""What build-index costs in Python: photos per second and CPU of this process, where decoding and encoding are free.

    python -m benchmarks.throughput.overhead --json overhead.json

Rows: one photo decoded at a time in reading threads; batches whose files are read by threads; and by processes, as for
a GPU. Photos of 640 x 480; the scan is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import write_json
from benchmarks.throughput.images import MEDIUM, read_once, write_images
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.images.decode import Scaled
from hybrid.images.decoders import AnyDecoder
from hybrid.images.nvjpeg import plan_of
from hybrid.images.readers import MANY, Readers
from hybrid.images.sources import Scan, scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore

PIXELS = Scaled.whole(np.zeros((8, 8, 3), np.uint8))
DIM, BATCH = 512, 256


class OneByOne:
    """A decoder that does nothing, in reading threads."""

    name = "nothing"

    def decode(self, data: bytes, min_side: int | None) -> Scaled:
        """Always the same pixels."""
        return PIXELS


class Batches:
    """A decoder that does nothing, in batches."""

    name, batch = "nothing", 128

    def __init__(self, processes: bool) -> None:
        self.readers = Readers()
        if processes:
            self.readers.start()
        else:
            self.readers.start = lambda: None  # type: ignore[method-assign]

    def plan(self, data: bytes | memoryview) -> Any:
        """As nvJPEG's."""
        return plan_of(data)

    def decode_batch(self, data: Sequence[Any], min_side: int | None, plans: Any = None) -> list[Scaled]:
        """Always the same pixels."""
        return [PIXELS] * len(data)


@dataclass
class Free:
    """An encoder that does nothing."""

    decoder: AnyDecoder | None
    name: str = "nothing"
    identity: str = "nothing"
    fingerprint: str = "nothing"
    dim: int = DIM
    logit_scale: float = 1.0
    uses_templates: bool = True
    min_side: int | None = 224
    batch_size: int = BATCH
    notes: tuple[str, ...] = ()
    vectors: FloatArray = field(default_factory=lambda: np.eye(BATCH, DIM, dtype=np.float32))

    def check(self, records: Collection[Any]) -> None:
        """All can be encoded."""

    def prepare(self, image: Any, record: Any) -> Any:
        """Nothing to do."""
        return image

    def encode_images(self, prepared: Sequence[Any]) -> FloatArray:
        """Vectors that are at hand."""
        return self.vectors[: len(prepared)]

    def decoding_by(self, name: str, index: str | None = None) -> Free:
        """The decoder is given."""
        return self


def measure(found: Scan, decoder: AnyDecoder, folder: Path, repeats: int) -> tuple[float, float]:
    """Photos per second, and microseconds of this process's CPU per photo: medians, the first pass not counted."""
    rates, seconds = [], []
    for number in range(repeats + 1):
        with EmbeddingStore(folder / f"{id(decoder)}-{number}.sqlite") as store:
            start, before = time.perf_counter(), time.process_time()
            build_index(found, cast(Encoder, Free(decoder)), store)
        rates.append(len(found.records) / (time.perf_counter() - start))
        seconds.append(1e6 * (time.process_time() - before) / len(found.records))
    return statistics.median(rates[1:]), statistics.median(seconds[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each row, print the table, write the JSON."""
    parser = shared.parser(__doc__, "benchmarks.throughput.overhead")
    parser.add_argument("--photos", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    rows: dict[str, Callable[[], AnyDecoder]] = {
        "one by one, threads": OneByOne,
        "batches, read by threads": lambda: Batches(False),
        f"batches, read by processes (from {MANY} photos on)": lambda: Batches(True),
    }
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        read_once(write_images(folder / "photos", options.photos, MEDIUM))
        found = scan([folder / "photos"], labeled=False)
        figures = {row: measure(found, make(), folder, options.repeats) for row, make in rows.items()}
    show(figures, options)


def show(figures: dict[str, tuple[float, float]], options: argparse.Namespace) -> None:
    table = Table("decoding and encoding are free", "photos/s", "CPU of this process, us/photo")
    for row, (rate, seconds) in figures.items():
        table.add_row(row, f"{rate:,.0f}", f"{seconds:.0f}")
    Console(width=110).print(table)
    write_json(options.json, {"photos": options.photos, "rows": {row: list(value) for row, value in figures.items()}})


if __name__ == "__main__":
    main()
