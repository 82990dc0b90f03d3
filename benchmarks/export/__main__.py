"""Bundles by `hybrid.lite` beside the runs that they were made of: differences, images per second, a cold start.

    python -m benchmarks.export --json export.json
    python -m benchmarks.export --encoder tiny --backbone test_resnet --photos 8 --rounds 1    # a minute: does it run?

ViT-B/32 and ConvNeXt-Tiny with random weights; drawn animals, eight classes learned and four named, a linear head and a
network as the head. Photos are of 640x480. Each side is a process of its own, loaded and warm; in each round they take
turns, and a figure is the median over rounds. A cold start is ``python -m hybrid.lite BUNDLE PHOTO`` against ``hybrid
predict PHOTO --run RUN`` and against ``import torch, open_clip`` alone, from the start of the process to its end, the
files in the page cache; processor seconds are of all its threads, and less moved by what else computes. Figures it
gave: docs/results/export.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.export import work
from benchmarks.kit import arguments as shared
from benchmarks.kit.output import table, write_json
from benchmarks.throughput.images import elsewhere, write_images, write_weights

SIDES = ("torch auto", "torch fp32", "lite")
HEADS = ("linear", "network")
IMPORTS = "import torch, open_clip"
SIZE = (640, 480)
CONSOLE = Console(stderr=True)
Row = dict[str, float | None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parse(arguments)
    load = os.getloadavg()[0]
    if load > 1:
        CONSOLE.print(f"[bold]note: other programs compute here (load {load:.1f})[/bold]")
    with tempfile.TemporaryDirectory(prefix="hybrid-export-") as name:
        folder = Path(name)
        photos = elsewhere(write_images, folder / "photos", options.photos, SIZE)
        weights = None
        if options.encoder != "tiny":
            weights = str(elsewhere(write_weights, options.encoder, folder / "weights.safetensors"))
        sizes = elsewhere(work.make, folder, options.encoder, weights, options.backbone)
        differences = {head: difference(folder, head, photos) for head in HEADS}
        speed = speeds(folder, photos, options.rounds)
        cold = cold_starts(folder, photos[0], options.rounds)
    for found, first in ((differences, "differences"), (speed, "images/s"), (cold, "one photo, cold")):
        CONSOLE.print(table(found, first=first, digits=6 if found is differences else 2, marked=False))
    tables: dict[str, Any] = {
        "megabytes": sizes,
        "differences": differences,
        "images_per_second": speed,
        "cold_start": cold,
    }
    write_json(options.json, {"photos": options.photos, "rounds": options.rounds, "load": load, **tables})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = shared.parser(__doc__, "benchmarks.export")
    parser.add_argument("--encoder", default="ViT-B-32", help="ViT-B-32 (random weights) or tiny")
    parser.add_argument("--backbone", default="convnext_tiny", help="of timm, for the head that is a network")
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    if options.photos < 1 or options.rounds < 1:
        parser.error("--photos and --rounds are at least 1")
    return options


def difference(folder: Path, head: str, photos: Sequence[str]) -> Row:
    """How far a bundle's answers are from torch's in single precision, and those from torch's own choice."""
    found = {side: elsewhere(work.answers, folder, head, side, photos) for side in SIDES}
    exact, embeddings = found["torch fp32"]

    def gap(side: str) -> float:
        return float(np.abs(found[side][0] - exact).max())

    cosine = np.einsum("nd,nd->n", found["lite"][1], embeddings)
    return {
        "probability": gap("lite"),
        "1 - cosine": float(1 - cosine.min()),
        "labels": float(np.sum(found["lite"][0].argmax(1) != exact.argmax(1))),
        "probability, torch auto": gap("torch auto"),
    }


def speeds(folder: Path, photos: Sequence[str], rounds: int) -> dict[str, Row]:
    """Images per second, at one and at 32 images at once."""
    found: dict[str, Row] = {}
    for head in HEADS:
        taken: dict[tuple[str, int], list[float]] = {}
        with ExitStack() as stack:
            pools = {side: stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for side in SIDES}
            for _ in range(rounds):
                for batch in (1, 32):
                    for side, pool in pools.items():
                        spent = pool.submit(work.seconds, folder, head, side, photos, batch).result()
                        taken.setdefault((side, batch), []).append(spent)
        for side in SIDES:
            row = {f"batch {batch}": len(photos) / statistics.median(taken[side, batch]) for batch in (1, 32)}
            found[f"{head}, {side}"] = dict(row)
    return found


def cold_starts(folder: Path, photo: str, rounds: int) -> dict[str, Row]:
    """Seconds from the start of a process to its end, on the clock and of the processor, and as times the imports'."""
    commands = {IMPORTS: ["-c", IMPORTS]}
    for head in HEADS:
        named = ["--prompts", ",".join(work.names())]
        commands[f"{head}, predict"] = ["-m", "hybrid", "predict", photo, "--run", str(folder / head), *named]
        commands[f"{head}, lite"] = ["-m", "hybrid.lite", str(folder / f"{head}.hybrid"), photo]
    # Modules are compiled once, as pip does it when it installs them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):  # the first one compiles, and brings the files into the page cache
        for name, words in commands.items():
            spent = timed([sys.executable, *words], environment)
            if number:
                taken[name].append(spent)
    found: dict[str, Row] = {}
    bare = statistics.median(processor for _, processor in taken[IMPORTS])
    for name, all_ in taken.items():
        processor = statistics.median(processor for _, processor in all_)
        seconds = statistics.median(seconds for seconds, _ in all_)
        found[name] = {"seconds": seconds, "processor": processor, "of the imports": processor / bare}
    return found


def timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds that a command takes, and those of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
