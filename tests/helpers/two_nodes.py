"""Embed a plan on a Ray cluster of two nodes, and kill one in the middle: ``python two_nodes.py DIR``.

It prints what happened as one line of JSON, the last one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from hybrid.cluster import on_ray
from hybrid.cluster.plan import PlanFolder

BATCH = 4


class Held(on_ray.Worker):
    """Waits in the middle of its first shard, until the pipe beside the plan was written to and removed."""

    def load(self) -> str:
        import ray

        (self._folder.root / ray.get_runtime_context().get_node_id()).write_text(str(os.getpid()))
        return super().load()

    def _count(self, count: int) -> None:
        self._done += count
        pipe = self._folder.root / "pipe"
        if pipe.exists():
            pipe.read_bytes()


def main(root: Path) -> None:
    """See the module."""
    from ray.cluster_utils import Cluster

    on_ray.Worker, on_ray.TICK = Held, 0.2
    os.mkfifo(root / "pipe")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    told = {"notes": [], "images": 0, "left": []}

    def count(images: int) -> None:
        told["images"] += images
        if (root / "pipe").exists() and told["images"] == 2 * BATCH:  # each of two workers waits after one batch
            told["left"] = sorted(path.suffix for path in (root / "parts").iterdir())
            os.kill(int((root / second.node_id).read_text()), signal.SIGKILL)
            cluster.remove_node(second, allow_graceful=False)
            descriptor = os.open(root / "pipe", os.O_RDWR)
            (root / "pipe").unlink()
            os.write(descriptor, b"go on")
            os.close(descriptor)

    folder = PlanFolder(root)
    plan = folder.read()
    numbers = range(1, len(plan.shards) + 1)
    try:
        summary = on_ray.embed_on_ray(
            folder,
            plan,
            numbers,
            cluster.address,
            on_ray.Task(num_cpus=1, batch_size=BATCH),
            progress=count,
            say=told["notes"].append,
        )
    finally:
        cluster.shutdown()
    print(json.dumps({**told, "shards": summary.shards, "unreadable": summary.unreadable}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
