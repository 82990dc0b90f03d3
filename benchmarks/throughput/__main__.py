"""Images per second of the product against open_clip and transformers, and what else a user waits for.

    python -m benchmarks.throughput --json throughput.json              # about ten minutes on two idle cores
    python -m benchmarks.throughput --device cuda --json throughput.json   # benchmarks.gpu_check says more of a GPU
    python -m benchmarks.throughput --smoke --json smoke.json           # a minute or two: does it run?

Every system gets the same random weights of ViT-B/32 and the same images (nothing is downloaded), has a process of its
own, and passes over the images in turn, R times; a figure is the median. Let nothing else compute meanwhile. Peers come
with `pip install '.[bench]'`; what is not installed, or left out by --only, is null in the JSON. "ratios" of speed are
ours over the peer's: more is better; of memory and seconds, less is. Figures it gave: docs/results/speed.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import write_json
from benchmarks.throughput import parts
from benchmarks.throughput.devices import device_name
from benchmarks.throughput.processes import CONSOLE
from benchmarks.throughput.table import ratios, show

PARTS: dict[str, Callable[[parts.Scene], None]] = {
    "build": parts.build,
    "predict": parts.predict,
    "decode": parts.decode,
    "fidelity": parts.compare_pixels,
    "rerun": parts.rerun,
    "memory": parts.memory,
    "startup": parts.startup,
    "search": parts.search,
}
USUAL = ("build", "predict", "decode", "rerun", "memory", "startup")
# Peers whose threads spin while they wait lose several times their speed to anybody else at work.
BUSY = 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts, print the table, write the JSON."""
    options = parse(arguments)
    name = device_name(options.device)
    started, busy = time.perf_counter(), os.getloadavg()[0]
    if busy > BUSY:
        CONSOLE.print(f"[bold]note: other programs compute here (load {busy:.1f}): the ratios will be wrong[/bold]")
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        scene = parts.Scene(Path(folder), options.device, sizes_of(options), min(16, os.cpu_count() or 1))
        for part in options.only:
            CONSOLE.print(f"[bold]{part}[/bold], {time.perf_counter() - started:.0f} s")
            PARTS[part](scene)
    CONSOLE.print(f"done, {time.perf_counter() - started:.0f} s")
    found = ratios(scene.figures)
    show(f"{name}: {', '.join(options.only)}", found, scene.figures, Console(width=120))
    document = {
        "device": name,
        "ratios": found,
        "machine": {"load_before": busy},
        "settings": {"parts": options.only, **asdict(scene.sizes)},
        **asdict(scene.figures),
    }
    write_json(options.json, document)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; `only` becomes the list of parts to run."""
    parser = shared.parser(__doc__, "benchmarks.throughput")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--photos", type=int, help="photos that are embedded (192; 8192 on CUDA); a third is classified"
    )
    parser.add_argument("--repeats", type=int, help="passes of each system (3)")
    parser.add_argument("--only", help=f"parts to run: {','.join(PARTS)}")
    parser.add_argument("--with-search-1m", action="store_true", help="also run benchmarks.scale at a million rows")
    parser.add_argument(
        "--smoke", action="store_true", help="a few photos, to see that it runs; no figure means a thing"
    )
    shared.add_json(parser, required=True)
    options = parser.parse_args(arguments)
    by_itself = [*USUAL, *(["search"] if options.with_search_1m else [])]
    wanted = options.only.split(",") if options.only else by_itself
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if any(number is not None and number < 1 for number in (options.photos, options.repeats)):
        parser.error("--photos and --repeats take 1 or more")
    options.only = wanted
    return options


def sizes_of(options: argparse.Namespace) -> parts.Sizes:
    """How much to run."""
    sizes = parts.SMOKE if options.smoke else parts.ON_CUDA if options.device == "cuda" else parts.Sizes()
    if options.photos is not None:
        sizes = replace(sizes, build=options.photos, predict=max(1, options.photos // 3))
    return sizes if options.repeats is None else replace(sizes, repeats=options.repeats)


if __name__ == "__main__":
    main()
