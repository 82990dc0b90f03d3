"""Embedding in shards on one machine beside build-index, and on a Ray cluster of two nodes that loses one.

    python -m benchmarks.cluster --json cluster.json
    python -m benchmarks.cluster --images 20000 --rounds 3 --ray
    python -m benchmarks.cluster --plan 1000000

Small JPEGs of noise, each another one, with the bundled encoder. In each round, `build-index` and `embed run --local`
take turns, as commands in processes of their own; the figure is the ratio of their times, the least of the rounds.
Then the vectors of `import-index` are held against those of `build-index`. With --ray, two nodes as processes embed the
same plan, and one of them is killed when a fourth of the images is done.

With --plan, only what `embed plan` does is measured, of a manifest with so many rows: its time and peak memory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.kit import arguments as shared
from benchmarks.kit.commands import hybrid
from benchmarks.kit.output import table, write_json
from benchmarks.scale.measure import high_water
from hybrid.cluster.parts import read_part
from hybrid.cluster.places import times
from hybrid.cluster.plan import PlanFolder, make_plan
from hybrid.config import EncoderSettings
from hybrid.images.sources import scan_to_disk
from hybrid.index.store import EmbeddingStore
from hybrid.run.files import Layout, read_info

SHARDS, SIDE = 8, 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, measure, print, write."""
    parser = shared.parser(__doc__, "benchmarks.cluster")
    parser.add_argument("--images", type=int, default=20_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--ray", action="store_true", help="embed on a cluster of two nodes, of which one is killed")
    parser.add_argument("--plan", type=int, metavar="ROWS", help="list and plan a manifest of so many rows, no more")
    parser.add_argument("--folder", type=Path, help="where images are drawn and removed (default: a temporary one)")
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hybrid-cluster-", dir=options.folder) as folder:
        root = Path(folder)
        found = (
            _plan(root, options.plan)
            if options.plan
            else _measure(root, options.images, options.rounds, ray=options.ray)
        )
    write_json(options.json, found)
    Console().print(table({name: {"measured": value} for name, value in found.items()}, digits=4, marked=False))


def _measure(root: Path, images: int, rounds: int, *, ray: bool) -> dict[str, float]:
    _draw(root / "images", images)
    per_shard = str(-(-images // SHARDS))
    plan = ("embed", "plan", str(root / "images"), "--per-shard", per_shard, "--encoder", "tiny", "--precision", "fp32")
    seconds: dict[str, list[float]] = {"build-index": [], "embed run": []}
    for number in range(rounds):
        run, out = root / f"run-{number}", root / f"plan-{number}"
        hybrid(*plan, "--out", str(out))
        build = ("build-index", str(root / "images"), "--encoder", "tiny", "--precision", "fp32", "--run", str(run))
        embed = ("embed", "run", str(out), "--local")
        for name, command in (("build-index", build), ("embed run", embed))[:: 1 if number % 2 else -1]:
            seconds[name].append(_seconds(*command))
    imported = root / "imported"
    import_s = _seconds("import-index", str(root / "plan-0"), "--run", str(imported))
    expected = _vectors(root / "run-0")
    found = {
        "images": float(images),
        "build-index, s": min(seconds["build-index"]),
        "embed run, s": min(seconds["embed run"]),
        "embed run / build-index": min(seconds["embed run"]) / min(seconds["build-index"]),
        "import-index, s": import_s,
        "least cosine of imported vectors": _least_cosine(expected, _vectors(imported)),
    }
    if ray:
        hybrid(*plan, "--out", str(root / "on-ray"))
        found |= _on_ray(root / "on-ray", expected)
    return found


def _plan(root: Path, rows: int) -> dict[str, float]:
    """Plan a manifest of one row, which loads all that is loaded once, then one of many."""
    found = {"rows": float(rows)}
    for name, count in (("one row", 1), ("all rows", rows)):
        manifest = root / f"{count}.csv"
        with manifest.open("w") as file:
            file.write("path,label\n")
            file.writelines(f"photos/{row % 100:02d}/{row:09d}.jpg,class {row % 100}\n" for row in range(count))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, on Linux
        before, began = high_water(), time.perf_counter()
        make_plan(scan_to_disk([manifest]), root / name, EncoderSettings(model="tiny", pretrained=None))
        found[f"embed plan of {name}, s"] = time.perf_counter() - began
        found[f"embed plan of {name}, memory, MiB"] = high_water() - before
    return found


def _on_ray(folder: Path, expected: dict[str, Any]) -> dict[str, float]:
    """Embed a plan on two nodes, kill one, and compare."""
    from ray.cluster_utils import Cluster

    from hybrid.cluster.on_ray import Task, embed_on_ray

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    planned = PlanFolder(folder)
    plan = planned.read()
    done, killed = 0, False

    def count(images: int) -> None:
        nonlocal done, killed
        done += images
        if not killed and done >= plan.images // 4:
            killed = True
            cluster.remove_node(second, allow_graceful=False)

    began = time.perf_counter()
    try:
        numbers = range(1, len(plan.shards) + 1)
        embed_on_ray(planned, plan, numbers, cluster.address, Task(num_cpus=1), progress=count)
    finally:
        cluster.shutdown()
    vectors: dict[str, Any] = {}
    for number in range(1, len(plan.shards) + 1):
        for batch in read_part(planned.part(plan, number)):
            vectors.update(zip(map(str, batch.hashes), batch.vectors, strict=True))
    return {
        "on Ray, a node killed, s": time.perf_counter() - began,
        "nodes killed": float(killed),
        "parts": float(len(times(planned.parts))),
        "least cosine on Ray": _least_cosine(expected, vectors),
    }


def _least_cosine(expected: dict[str, Any], vectors: dict[str, Any]) -> float:
    if expected.keys() != vectors.keys():
        raise SystemExit(f"{len(expected.keys() ^ vectors.keys())} images have a vector on one side alone")
    return min(float(expected[name] @ vectors[name]) for name in expected)


def _vectors(run: Path) -> dict[str, Any]:
    layout = Layout(run)
    with EmbeddingStore(layout.store, read_only=True) as store:
        hashes = sorted({image.sha256 for image in store.images()})
        return dict(zip(hashes, store.embeddings(hashes, read_info(layout).encoder_fingerprint), strict=True))


def _seconds(*command: str) -> float:
    began = time.perf_counter()
    hybrid(*command)
    return time.perf_counter() - began


def _draw(folder: Path, images: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(images):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(folder / f"{number:06d}.jpg")


if __name__ == "__main__":
    main()
