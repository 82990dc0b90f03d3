"""One part of the check, in a process of its own: python -m benchmarks.gpu_check.part NAME FOLDER DEVICE SIZES."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_check.parts import PARTS, Check, Sizes
from benchmarks.gpu_check.report import Report
from benchmarks.kit.machine import cores
from benchmarks.throughput.parts import ON_CUDA, Scene
from benchmarks.throughput.processes import own_start_method
from hybrid.errors import first_line


def main(arguments: list[str] | None = None) -> None:
    """Run it; the exit code is 1 where it failed, and the reason a note."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("device", choices=("cpu", "cuda"))
    parser.add_argument("sizes", type=json.loads, help="as JSON")
    options = parser.parse_args(arguments)
    own_start_method()
    check = make_check(options.folder, options.device, Sizes(**options.sizes), options.part)
    try:
        PARTS[options.part].work(check)
    except Exception as error:  # whatever it is: the other parts still count
        traceback.print_exc()
        check.report.note(f"failed: {first_line(error)}")
        sys.exit(1)


def make_check(folder: Path, device: str, sizes: Sizes, part: str) -> Check:
    """What the parts of one run share lies in `folder`."""
    scene = Scene(folder, device, replace(ON_CUDA, batch=sizes.batch), min(16, cores()))
    return Check(scene, sizes, Report(folder / f"{part}.json"))


if __name__ == "__main__":
    main()
