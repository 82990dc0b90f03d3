"""Why a head computes in bf16 on CPUs that have it, and why the command line sets OMP_WAIT_POLICY=PASSIVE.

    python -m benchmarks.throughput.cpu_settings

Each row is a fresh process; ratios are within one run. Figures it gave: docs/results/speed.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import write_json

NAME = "benchmarks.throughput.cpu_settings"
REPEATS, IMAGES, SIZE = 3, 16, 224
BACKBONES = ("mobilenetv2_100", "resnet18", "convnext_tiny")


def measure(backbone: str, precision: str, what: str) -> float:
    """Images per second of a training step (last two stages unfrozen) or a forward pass, median of repeats."""
    import torch

    from hybrid.config import ModelSettings
    from hybrid.device import Compute
    from hybrid.heads.nets.backbone import build_model
    from hybrid.heads.training.stages import freeze

    compute = Compute("cpu", precision, "benchmark")
    model = build_model(ModelSettings(backbone=backbone, pretrained=False), 50).to(memory_format=torch.channels_last)
    freeze(model, "2")
    model.train(what == "train")
    images = torch.randn(IMAGES, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    target = torch.arange(IMAGES)

    def step() -> None:
        with torch.set_grad_enabled(what == "train"), compute.autocast():
            logits = model(images)
        if what == "train":
            torch.nn.functional.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]

    step()
    rates = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step()
        rates.append(IMAGES / (time.perf_counter() - start))
    return statistics.median(rates)


def in_fresh_process(backbone: str, precision: str, what: str, policy: str, busy: bool) -> float:
    command = [sys.executable, "-m", NAME, "--measure", backbone, precision, what]
    spin = [sys.executable, "-c", "while True: pass"]
    competitor = subprocess.Popen(spin) if busy else None
    try:
        env = os.environ | {"OMP_WAIT_POLICY": policy}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return float(done.stdout)
    finally:
        if competitor is not None:
            competitor.kill()
            competitor.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each row, print the table, write the JSON."""
    parser = shared.parser(__doc__, NAME)
    parser.add_argument("--measure", nargs=3, metavar=("BACKBONE", "PRECISION", "WHAT"), help=argparse.SUPPRESS)
    parser.add_argument("--backbones", default=",".join(BACKBONES), help="timm's names, between commas")
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    if options.measure:
        sys.stdout.write(str(measure(*options.measure)))
        return
    rows = {}
    for backbone in options.backbones.split(","):
        for what in ("train", "forward"):
            rates = [in_fresh_process(backbone, p, what, "PASSIVE", busy=False) for p in ("fp32", "bf16")]
            rows[f"{backbone} {what}: fp32, bf16"] = rates
    first = options.backbones.partition(",")[0]
    for busy in (False, True):
        rates = [in_fresh_process(first, "bf16", "train", policy, busy) for policy in ("ACTIVE", "PASSIVE")]
        rows[f"{first} train, {'one core busy' if busy else 'idle'}: active, passive waits"] = rates
    write_json(options.json, {"photos_per_second": rows})
    table = Table(
        "measured", "photos/s", "photos/s", "ratio", title=f"{IMAGES} photos of {SIZE} px, {os.cpu_count()} cores"
    )
    for name, rates in rows.items():
        table.add_row(name, *(f"{rate:.1f}" for rate in rates), f"{rates[1] / rates[0]:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
