"""Why a head computes in bf16 on CPUs that have it, and why the command line sets OMP_WAIT_POLICY=PASSIVE.

    python benchmarks/cpu_settings.py

Each row is a fresh process; ratios are within one run. Figures it gave: benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

REPEATS, IMAGES, SIZE = 3, 16, 224


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
    command = [sys.executable, __file__, "--measure", backbone, precision, what]
    spin = [sys.executable, "-c", "while True: pass"]
    competitor = subprocess.Popen(spin) if busy else None  # noqa: S603
    try:
        env = os.environ | {"OMP_WAIT_POLICY": policy}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)  # noqa: S603
        return float(done.stdout)
    finally:
        if competitor is not None:
            competitor.kill()
            competitor.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=3, metavar=("BACKBONE", "PRECISION", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(str(measure(*options.measure)))
        return
    table = Table(
        "measured", "photos/s", "photos/s", "ratio", title=f"{IMAGES} photos of {SIZE} px, {os.cpu_count()} cores"
    )
    for backbone in ("mobilenetv2_100", "resnet18", "convnext_tiny"):
        for what in ("train", "forward"):
            rates = [in_fresh_process(backbone, p, what, "PASSIVE", busy=False) for p in ("fp32", "bf16")]
            table.add_row(f"{backbone} {what}: fp32, bf16", *(f"{r:.1f}" for r in rates), f"{rates[1] / rates[0]:.2f}")
    for busy in (False, True):
        rates = [in_fresh_process("mobilenetv2_100", "bf16", "train", p, busy) for p in ("ACTIVE", "PASSIVE")]
        name = "mobilenetv2_100 train, " + ("one core busy" if busy else "idle") + ": active, passive waits"
        table.add_row(name, *(f"{r:.1f}" for r in rates), f"{rates[1] / rates[0]:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
