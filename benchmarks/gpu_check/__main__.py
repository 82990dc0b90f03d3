"""Check the product on a GPU: its tests, speed against peers, likeness of vectors, training, search; with bars.

    python -m benchmarks.gpu_check --json gpu.json                      # under seven minutes on an H100
    python -m benchmarks.gpu_check --json gpu.json --parts tests,speed
    python -m benchmarks.gpu_check --json cpu.json --device cpu --quick # does it run? No figure means a thing

Nothing is downloaded: models have random weights, photos are crops of the two that scikit-learn brings. HYBRID_DATA
adds real ones, and CIFAR-10. Every part is a process with a time limit of its own. The table prints as it goes, and the
JSON is written after each part, so that a run that is cut off has told all it knew. --parts suite runs all other tests.
Needed beside the product's own packages: pytest, pytest-xdist and pytest-socket; transformers, else its rows are left
out. From a checkout that is not installed: PYTHONPATH=CHECKOUT. The exit code is 1 if a part failed or a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import parts
from benchmarks.gpu_check.bars import bars, judged, told
from benchmarks.gpu_check.report import Figure, line, read, say
from benchmarks.kit import arguments as shared
from benchmarks.kit.output import write_json
from benchmarks.throughput.devices import device_name

# A part is not begun with less time than this, in seconds.
LEAST = 10.0
# Under seven minutes with the start; what is left then is named.
IN_ALL = 400
# Times the limits of an H100, on a CPU.
SLOWER = 5
DONE = "done"


@dataclass
class Found:
    """What all parts found so far."""

    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts one after the other, print the table, write the JSON."""
    options = parse(arguments)
    name = device_name(options.device)
    say(f"{name}; {os.cpu_count()} cores")
    sizes = options.sizes
    found, until = Found(), time.monotonic() + options.seconds
    known = bars(sizes.small, sizes.large)
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        for group in groups(options.parts):
            say(" and ".join(group))
            with ThreadPoolExecutor(len(group)) as pool:
                jobs = [
                    pool.submit(run, part, Path(folder), options, until - time.monotonic(), found) for part in group
                ]
            for job in jobs:
                job.result()
            judgement = judged(known, found.figures, of_a_gpu=options.device == "cuda" and not options.quick)
            document = {"device": name, "bars": judgement, "settings": {"parts": options.parts, **asdict(sizes)}}
            write_json(options.json, document | asdict(found))
    say("bars")
    for bar in judgement:
        say(told(bar))
    failed = [part for part, outcome in found.outcomes.items() if outcome["outcome"] != DONE]
    if failed:
        say(f"not done: {', '.join(failed)}")
    sys.exit(1 if failed or any(bar["met"] is False for bar in judgement) else 0)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; `parts` becomes a list."""
    parser = shared.parser(__doc__, "benchmarks.gpu_check")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    usual = [name for name in parts.PARTS if name not in parts.EXTRA]
    parser.add_argument("--parts", default=",".join(usual), help=f"of {','.join(parts.PARTS)}; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a few photos and small models, to see that it runs")
    words = "of benchmarks.gpu_check.parts.Sizes, such as photos=16384 or repeats=2; repeatable"
    parser.add_argument("--set", type=size, action="append", metavar="SIZE=N", help=words)
    words = f"for all parts together; default: {IN_ALL} on a GPU"
    parser.add_argument("--seconds", type=float, metavar="N", help=words)
    shared.add_json(parser, required=True)
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    options.seconds = options.seconds or (IN_ALL if options.device == "cuda" else 1e6)
    options.sizes = replace(parts.QUICK if options.quick else parts.Sizes(), **dict(options.set or ()))
    if unknown := set(options.parts) - set(parts.PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(parts.PARTS)}")
    return options


def size(text: str) -> tuple[str, int]:
    """A size by its name, above 0."""
    name, _, value = text.partition("=")
    if type(getattr(parts.QUICK, name, None)) is not int or not value.isdecimal() or not int(value):
        raise argparse.ArgumentTypeError(f"SIZE=N, with N above 0, not {text}")
    return name, int(value)


def groups(chosen: Sequence[str]) -> list[tuple[str, ...]]:
    """The parts in their order, with those at one time that may be."""
    if not {*parts.TOGETHER} <= {*chosen}:
        return [(part,) for part in chosen]
    return [parts.TOGETHER, *((part,) for part in chosen if part not in parts.TOGETHER)]


def run(part: str, folder: Path, options: argparse.Namespace, left: float, found: Found) -> None:
    """Run a part in a process of its own, which prints; end it and all that it started when its time is over."""
    if left < LEAST:
        say(f"{part}: not begun, the time is over")
        found.outcomes[part] = {"outcome": "not begun", "seconds": 0.0}
        return
    limit = min(parts.PARTS[part].limit * (SLOWER if options.device == "cpu" else 1), left)
    start, log = time.monotonic(), folder / f"{part}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command(part, folder, options), stderr=stream, env=environment(), start_new_session=True
        )
        try:
            outcome = DONE if process.wait(limit) == 0 else f"failed, exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            outcome = f"cut off after {limit:.0f} s"
        finally:
            end(process)
    figures, notes = read(folder / f"{part}.json")
    if outcome != DONE:
        for name, figure in figures.items():
            if not figure.said:
                say(line(name, figure.value, figure.unit))
        if said := parts.last(log.read_text(encoding="utf-8", errors="replace")):
            say(said)
    seconds = time.monotonic() - start
    say(f"  {part}: {outcome}, {seconds:.0f} s")
    found.outcomes[part] = {"outcome": outcome, "seconds": round(seconds, 1)}
    found.figures |= figures
    found.notes[part] = notes


def command(part: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """What runs a part."""
    words = [sys.executable, "-m", "benchmarks.gpu_check.part", part, str(folder), options.device]
    return [*words, json.dumps(asdict(options.sizes))]


def environment() -> Mapping[str, str]:
    """That of this process, with the checkout on the path: what a part starts need not be installed."""
    paths = [str(parts.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part and the processes that it started, which share its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
