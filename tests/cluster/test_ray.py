"""A real Ray cluster: two nodes as processes, of which one is killed in the middle."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hybrid.cluster.on_ray import Task, capacity, cpus_per_task
from hybrid.cluster.parts import read_part
from hybrid.cluster.plan import PlanFolder, load_planned, make_plan
from hybrid.cluster.shards import embed_shards
from hybrid.config import EncoderSettings
from hybrid.images.sources import scan

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra cluster: pip install 'hybrid-classifier[cluster]'"
)
SCRIPT = Path(__file__).parents[1] / "helpers" / "two_nodes.py"


@needs_ray
def test_a_node_that_is_killed_costs_its_shard_and_no_more(photos, tmp_path):
    settings = EncoderSettings(model="tiny", pretrained=None, precision="fp32")
    plan = make_plan(scan([photos]), tmp_path / "plan", settings, per_shard=8)
    shutil.copytree(tmp_path / "plan", tmp_path / "single")
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "plan"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["left"] == [".part", ".part"]
    assert sum("died" in note for note in told["notes"]) == 1
    assert (told["shards"], told["images"]) == (5, 40)
    assert [path for path, _ in told["unreadable"]] == [str(photos / "dog" / "torn.jpg")]
    folder, single = PlanFolder(tmp_path / "plan"), PlanFolder(tmp_path / "single")
    embed_shards(single, plan, range(1, 6), load_planned(plan))
    assert {path.name for path in folder.parts.iterdir()} == {path.name for path in single.parts.iterdir()}
    for number in range(1, 6):
        (one,), (other,) = (read_part(each.part(plan, number)) for each in (folder, single))
        assert (one.records, one.hashes, one.reasons) == (other.records, other.hashes, other.reasons)
        assert np.abs(one.vectors - other.vectors).max() < 1e-3


def test_workers_fit_the_nodes():
    def node(alive=True, **resources):
        return {"Alive": alive, "Resources": resources}

    nodes = [node(CPU=8), node(CPU=32, GPU=4), node(CPU=0), node(alive=False, CPU=64, GPU=8)]
    assert cpus_per_task(nodes, 0) == 8
    assert capacity(nodes, Task(num_cpus=8)) == 1 + 4
    assert cpus_per_task(nodes, 0.5) == 4
    assert capacity(nodes, Task(num_gpus=0.5, num_cpus=4)) == 8
    assert cpus_per_task([], 1) == 1
