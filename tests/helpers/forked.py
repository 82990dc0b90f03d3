"""Scripts as processes of their own, forked from one that has imported what takes seconds: as fresh as a new one."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# Modules, none of which computes or starts a thread when it is imported.
CONTEXT.set_forkserver_preload(
    [
        *("numpy", "scipy.optimize", "sklearn.model_selection", "torch", "torchvision", "open_clip", "faiss"),
        *("accelerate", "timm.loss", "timm.optim", "timm.scheduler", "matplotlib.backends.backend_agg"),
        *("hybrid.cli.main", "hybrid.classifier", "hybrid.run.train", "hybrid.heads.training.fit"),
    ]
)


def start(
    code: str, *arguments: object, out: Path, err: Path, cwd: Path | None = None, env: Mapping[str, str] = os.environ
) -> multiprocessing.process.BaseProcess:
    """Run ``python -c CODE ARGUMENTS``; what it writes goes to two files, which may be one and may be a FIFO."""
    words = [str(argument) for argument in arguments]
    process = CONTEXT.Process(target=_run, args=(code, words, str(out), str(err), str(cwd or Path.cwd()), dict(env)))
    process.start()
    return process


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same, up to its end."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder) / name for name in ("out", "err"))
        process = start(code, *arguments, out=out, err=err)
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def _run(code: str, words: list[str], out: str, err: str, cwd: str, env: dict[str, str]) -> None:
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    multiprocessing.set_start_method(None, force=True)  # its own processes start as those of a new one do
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["-c", *words]
    exec(compile(code, "<script>", "exec"), {"__name__": "__main__"})
