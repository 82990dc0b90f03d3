"""What a user waits for and sees in the system's monitor: whole commands in fresh processes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HYBRID = (sys.executable, "-m", "hybrid.cli.main")
IMPORT_TYPER = (sys.executable, "-c", "import typer")
IMPORT_MODELS = (sys.executable, "-c", "import torch, open_clip")


def build_index_command(images: Path, run: Path) -> tuple[str, ...]:
    """`hybrid build-index` with the bundled encoder, which costs next to nothing."""
    return (*HYBRID, "build-index", str(images), "--run", str(run), "--encoder", "tiny", "--no-labels")


def predict_command(image: str, run: Path) -> tuple[str, ...]:
    """`hybrid predict` of one image with the bundled encoder, no run being there."""
    return (*HYBRID, "predict", image, "--run", str(run), "--prompts", "caltech101", "--encoder", "tiny")


def help_command() -> tuple[str, ...]:
    """`hybrid --help`, by the installed script where there is one."""
    script = Path(sys.executable).parent / "hybrid"
    return (str(script), "--help") if script.is_file() else (*HYBRID, "--help")


def seconds_in_turn(commands: Mapping[str, Sequence[str]], repeats: int) -> dict[str, list[float]]:
    """Wall seconds of each command, in turn, after one run of each that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(repeats + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            _run(command)
            if number:
                found[name].append(time.perf_counter() - start)
    return found


def peak_memory(command: Sequence[str]) -> int:
    """Peak resident memory of a command in bytes, as the system accounts for its process.

    Raises
    ------
    RuntimeError
        If the command fails, or this process is so large that the child's figure could be its own.
    """
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {said.decode(errors='replace')}")
    # A child starts as a copy of this process and keeps the larger of the two figures.
    if usage.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        raise RuntimeError("the benchmark's own process is larger than the one that it measures")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def search_ratio(folder: Path, rows: int = 1_000_000, dim: int = 512) -> float:
    """Seconds of 100 queries by our index over those of plain FAISS; by benchmarks.scale, in this process."""
    from benchmarks.scale.measure import search_ratio as measure

    return measure(rows, dim, folder)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.decode(errors='replace')}")
