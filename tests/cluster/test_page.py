"""What the page on many machines says to copy is valid, and the shares of its jobs are a plan's."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"


def block_titled(title):
    return re.search(rf'```\w+ title="{re.escape(title)}"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]


def said_by(shell, folder, **variables):
    """The arguments that ``hybrid`` gets from a command, with ``srun`` as SLURM has it."""
    for name, text in (("hybrid", 'echo "$@"'), ("srun", 'test "$1" = --cpus-per-task=8 && shift && exec "$@"')):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    environment = variables | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(shell, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.replace("/data", str(folder)).split()


def test_jobs_as_the_page_has_them_embed_a_plan(hybrid, photos, tmp_path):
    (photos / "dog" / "torn.jpg").unlink()
    hybrid("embed", "plan", photos, "--out", tmp_path / "plan", "--per-shard", 6, "--encoder", "tiny")
    script, job = tmp_path / "embed.sh", yaml.safe_load(block_titled("embed.yaml"))
    script.write_text(block_titled("embed.sh"))
    array = re.search(r"--array=(\d+)-(\d+)", script.read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert job["spec"]["completions"] == int(array[2])
    for number in range(int(array[1]), int(array[2]) + 1):
        slurm = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_CPUS_PER_TASK": "8"}
        command = said_by(["bash", script], tmp_path, **slurm)
        assert said_by(container["command"], tmp_path, JOB_COMPLETION_INDEX=str(number - 1)) == command
        shown = hybrid(*command)
    assert "all 7 are done" in shown.out
