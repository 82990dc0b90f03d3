"""Images per second of the product against open_clip and transformers, and what else a user waits for.

    python benchmarks/throughput.py --json throughput.json              # about ten minutes on two cores
    python benchmarks/throughput.py --device cuda --json throughput.json

Every system gets the same random weights of ViT-B/32 and the same images (nothing is downloaded), has a process of its
own, and passes over the images in turn, R times; a figure is the median. Let nothing else compute meanwhile. Peers come
with `pip install '.[bench]'`; what is not installed, or left out by --only, is null in the JSON. "ratios" of speed are
ours over the peer's: more is better; of memory and seconds, less is. Figures it gave: benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import throughput_parts as parts
from rich.console import Console
from throughput_cuda import cuda, cuda_name
from throughput_photos import elsewhere
from throughput_table import ratios, show
from throughput_worker import CONSOLE

PARTS: dict[str, Callable[[parts.Scene], None]] = {
    "build": parts.build,
    "predict": parts.predict,
    "decode": parts.decode,
    "fidelity": parts.compare_pixels,
    "rerun": parts.rerun,
    "memory": parts.memory,
    "startup": parts.startup,
    "search": parts.search,
    "cuda": cuda,
}
USUAL = ("build", "predict", "decode", "rerun", "memory", "startup")
PACKAGES = (
    *(
        "torch",
        "torchvision",
        "open_clip_torch",
        "transformers",
        "tokenizers",
        "timm",
        "pillow",
        "simplejpeg",
        "pyvips",
    ),
    *("faiss-cpu", "numpy", "typer"),
)
# Peers whose threads spin while they wait lose several times their speed to anybody else at work.
BUSY = 0.5
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


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
        "machine": machine() | {"load_before": busy},
        "settings": {"parts": options.only, **asdict(scene.sizes)},
        **asdict(scene.figures),
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; `only` becomes the list of parts to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--photos", type=int, help="photos that are embedded (192; 8192 on CUDA); a third is classified"
    )
    parser.add_argument("--repeats", type=int, help="passes of each system (3)")
    parser.add_argument("--only", help=f"parts to run: {','.join(PARTS)}")
    parser.add_argument("--with-search-1m", action="store_true", help="also run benchmarks/scale.py")
    parser.add_argument(
        "--smoke", action="store_true", help="a few photos, to see that it runs; no figure means a thing"
    )
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    by_itself = [
        *USUAL,
        *(["search"] if options.with_search_1m else []),
        *(["cuda"] if options.device == "cuda" else []),
    ]
    wanted = options.only.split(",") if options.only else by_itself
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if "cuda" in wanted and options.device != "cuda":
        parser.error("the part cuda needs --device cuda")
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


def device_name(device: str) -> str:
    """What computes, by its maker's name; ends the program where there is no CUDA."""
    if device == "cuda":
        found = elsewhere(cuda_name)
        if found is None:
            sys.exit("error: --device cuda, but torch sees no CUDA device; use --device cpu")
        return found
    return f"CPU: {processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """The processor's name as Linux has it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or platform.machine())


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "environment": {name: os.environ.get(name) for name in SETTINGS},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
