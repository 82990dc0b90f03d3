"""Which way through the ViT-B/32 image tower is quickest on a CPU, and how many images at once; random weights.

    python -m benchmarks.throughput.encoder_variants [--compile] [--json OUT]

All variants take the same ready tensors in turn; a ratio is the median over the rounds of one variant over open_clip's
own in the same round. --compile adds torch.compile, whose first call takes up to a minute. Figures it gave:
docs/results/speed.md.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

import hybrid.cli.main  # noqa: F401  sets what the command line sets, before torch is loaded
from benchmarks.kit import arguments as shared
from benchmarks.kit.output import write_json
from hybrid.device import resolve
from hybrid.encoders import fast_path as vit

ROUNDS, BATCH, SIZE = 7, 32, 224
BATCHES = (1, 8, 16, 32, 64, 128)
OWN = "open_clip's own"
Tower = Callable[[torch.Tensor], torch.Tensor]


def towers(compiled: bool) -> tuple[dict[str, Tower], dict[str, float], torch.dtype]:
    """Variants by name, seconds that some take before their first answer, and the precision."""
    import open_clip

    logging.disable(logging.WARNING)  # that the weights are random
    compute = resolve("cpu")
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", precision=compute.precision).eval().requires_grad_(False)
    with mock.patch.object(vit, "_can_pack", return_value=False):
        plain = vit.FastViT(model.visual, compute)
    found: dict[str, Tower] = {OWN: model.visual, "class token alone in the last block": plain}
    if vit._can_pack(compute):
        found["and packed weights, GELU fused (kept)"] = vit.FastViT(model.visual, compute)
    warm: dict[str, float] = {}
    for freezing in (False, True) if compiled else ():
        name = f"torch.compile{', freezing' if freezing else ''}"
        found[name], warm[name] = _compiled(model.visual, freezing, compute.dtype)
    return found, warm, compute.dtype


def _compiled(tower: Any, freezing: bool, dtype: torch.dtype) -> tuple[Tower, float]:
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    made: Any = torch.compile(tower)
    start = time.perf_counter()
    with inductor.patch(freezing=freezing), torch.no_grad():
        made(torch.zeros(BATCH, 3, SIZE, SIZE, dtype=dtype))
    return made, time.perf_counter() - start


def rates(work: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Images per second of each, round by round."""
    found: dict[str, list[float]] = {name: [] for name in work}
    with torch.no_grad():
        for number in range(rounds + 1):
            for name, run in work.items():
                start = time.perf_counter()
                images = run()
                if number:  # the first round warms up
                    found[name].append(images / (time.perf_counter() - start))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the ways and the batch sizes, print the table, write the JSON."""
    parser = shared.parser(__doc__, "benchmarks.throughput.encoder_variants")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of every way in turn (default: {ROUNDS})")
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    found, warm, dtype = towers(options.compile)
    batches = {size: torch.randn(size, 3, SIZE, SIZE).to(dtype) for size in BATCHES}

    def on(tower: Tower, size: int) -> Callable[[], int]:
        return lambda: len(tower(batches[size]))

    ways = rates({name: on(tower, BATCH) for name, tower in found.items()}, options.rounds)
    kept = list(found.values())[min(2, len(found) - 1)]
    sizes = rates({f"{size} at once": on(kept, size) for size in BATCHES}, options.rounds)
    table = Table("way", "photos/s", "over open_clip's", "first call, s", title=f"ViT-B/32, {dtype}, {BATCH} at once")
    for name, own in ways.items():
        ratio = statistics.median(a / b for a, b in zip(own, ways[OWN], strict=True))
        seconds = f"{warm[name]:.0f}" if name in warm else ""
        table.add_row(name, f"{statistics.median(own):.1f}", f"{ratio:.2f}", seconds)
    for name, own in sizes.items():
        table.add_row(f"kept, {name}", f"{statistics.median(own):.1f}")
    Console(width=110).print(table)
    write_json(options.json, {"ways": ways, "batches": sizes, "first_call_seconds": warm})


if __name__ == "__main__":
    main()
