"""The parts of the check. Each runs in a process of its own and leaves a `Report`; photos and weights are shared."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu_check import names
from benchmarks.gpu_check.alone import nvjpeg_alone, resize_alone, threads_alone
from benchmarks.gpu_check.likeness import cosines, write_photos
from benchmarks.gpu_check.report import PHOTOS, Report
from benchmarks.gpu_check.search import search
from benchmarks.gpu_check.training import train
from benchmarks.kit.arguments import data_folder
from benchmarks.kit.machine import cores
from benchmarks.throughput.commands import HYBRID
from benchmarks.throughput.images import LARGE, MEDIUM, elsewhere
from benchmarks.throughput.ours import hybrid_build_index, hybrid_ceiling, hybrid_predict
from benchmarks.throughput.parts import Scene, row
from benchmarks.throughput.peers import (
    open_clip_dataloader,
    open_clip_readme,
    transformers_pipeline,
    write_transformers,
)
from benchmarks.throughput.processes import Pass, Row, Setup, round_robin

ROOT = Path(__file__).parents[2]
MARK = "pytest.mark." + "cuda"
# Lines of a log that are shown of a command that failed.
LAST = 12


@dataclass(frozen=True)
class Sizes:
    """How much to run.

    Attributes
    ----------
    small, large, head : str
        open_clip's names of two models, and timm's of the network that is trained.
    photos, photos_large_model, photos_12mp, photos_cpu, loader, pipeline, one_by_one : int
        Photos that are embedded: of 640 x 480, by the large model, of 12 megapixels; decoded by CPU threads; embedded
        by open_clip's loader, by transformers, and one by one.
    alike : int
        Photos whose vectors are compared.
    train, epochs, seeds, cifar_epochs : int
    vectors, queries : int
        Of the search.
    batch : int
        Photos in a batch of the peers.
    repeats : int
    """

    small: str = "ViT-B-32"
    large: str = "ViT-L-14"
    head: str = "convnext_tiny"
    photos: int = 32_768
    photos_large_model: int = 8192
    photos_12mp: int = 256
    photos_cpu: int = 8192
    loader: int = 8192
    pipeline: int = 512
    one_by_one: int = 128
    alike: int = 512
    train: int = 4096
    epochs: int = 3
    seeds: int = 2
    cifar_epochs: int = 30
    vectors: int = 400_000
    queries: int = 256
    batch: int = 256
    repeats: int = 3


QUICK = Sizes(
    small="ViT-S-32-alt",
    large="ViT-S-32",
    head="test_resnet",
    photos=64,
    photos_large_model=32,
    photos_12mp=8,
    photos_cpu=32,
    loader=32,
    pipeline=16,
    one_by_one=4,
    alike=16,
    train=32,
    epochs=2,
    seeds=1,
    cifar_epochs=1,
    vectors=20_000,
    queries=128,
    batch=32,
    repeats=1,
)


@dataclass
class Check:
    """What a part works with.

    Attributes
    ----------
    scene : Scene
        The folder with photos and weights, which are made when they are first asked for.
    """

    scene: Scene
    sizes: Sizes
    report: Report

    @property
    def device(self) -> str:
        """Where to compute: ``cpu`` or ``cuda``."""
        return self.scene.device

    @property
    def half(self) -> str:
        """Precision that the product takes by itself."""
        return "fp16" if self.device == "cuda" else self.scene.half

    def photos(self, count: int | None = None) -> tuple[str, ...]:
        """Photos of 640 x 480, or the first so many in a folder of their own: to scan it is a part of what is timed."""
        if count is None:
            return self._photos
        folder = self.scene.folder / f"first-{count}"
        if not folder.is_dir():
            folder.mkdir()
            for file in self._photos[:count]:
                (folder / Path(file).name).hardlink_to(file)
        return tuple(sorted(str(file) for file in folder.iterdir()))

    @cached_property
    def _photos(self) -> tuple[str, ...]:
        return self.scene.images("medium", MEDIUM, self.sizes.photos)

    def photos_12mp(self) -> tuple[str, ...]:
        """Photos of 12 megapixels."""
        return self.scene.images("large", LARGE, self.sizes.photos_12mp)

    def photos_alike(self) -> tuple[str, ...]:
        """Photos of many sizes, half of them real where there are some."""
        return write_photos(self.scene.folder / "alike", self.sizes.alike, data_folder())

    def measure(self, rows: Sequence[Row]) -> None:
        """Run rows in turn; their medians are printed after the last repeat, and kept from the first on."""
        passes: dict[str, list[Pass]] = {}
        final = {row.name: row.most or self.sizes.repeats for row in rows}

        def keep(name: str, found: Pass, number: int) -> None:
            passes.setdefault(name, []).append(found)
            rates = [one.images / one.seconds for one in passes[name]]
            tell = self.report.figure if number == final[name] else self.report.keep
            tell(name, statistics.median(rates), PHOTOS, rates)

        def failed(name: str, why: str) -> None:
            self.report.note(f"{name} failed: {(why.strip().splitlines() or [''])[-1]}")
            sys.stderr.write(why + "\n")

        measured = round_robin(rows, self.sizes.repeats, keep, failed)
        for name, why in measured.missing.items():
            if name not in passes and "is not installed" in why:
                self.report.note(f"{name}: {why}")
        for name, found in passes.items():
            if memory := max(one.gpu_bytes for one in found):
                self.report.keep(f"GPU memory, {name}", memory / 1e9, "GB", ())


def tests(check: Check) -> None:
    """The tests that are marked `cuda`, in parallel; which failed, and why."""
    # Only the files that have some: to import all others takes longer.
    marked = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if MARK in file.read_text("utf-8")]
    run_tests(check, [*marked, "-m", "cuda", "-n", str(min(8, cores()))])


def suite(check: Check) -> None:
    """All other tests, which see no GPU, on a machine that has one."""
    run_tests(check, ["tests", "-n", str(cores()), "--dist", "loadfile"])


def run_tests(check: Check, words: Sequence[str]) -> None:
    """Run pytest, and read what it found from its XML."""
    file = check.scene.folder / "tests.xml"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider", f"--junitxml={file}"]
    # Each process takes one core, as conftest has it.
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    cases = list(ElementTree.parse(file).iter("testcase")) if file.is_file() else []
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    if len(cases) == skipped:
        raise RuntimeError(f"no test ran:\n{last(done.stdout)}")
    check.report.figure(names.PASSED, len(cases) - len(failed) - skipped)
    check.report.figure(names.SKIPPED, skipped)
    check.report.figure(names.FAILED, len(failed))
    for case in failed:
        why = next(part for part in case if part.tag in ("failure", "error")).get("message", "")
        check.report.note(f"FAILED {case.get('classname')}::{case.get('name')}: {why.partition(chr(10))[0][:200]}")
    if failed:
        sys.stderr.write(done.stdout)


def prepare(check: Check) -> None:
    """Draw the photos and write random weights, all at once."""
    scene, sizes = check.scene, check.sizes
    with ThreadPoolExecutor() as pool:
        drawn = [pool.submit(draw) for draw in (check.photos, check.photos_12mp, check.photos_alike)]
        written = [pool.submit(scene.setup, model) for model in (sizes.small, sizes.large)]
        for draw_job in drawn:
            draw_job.result()
        for write_job in written:
            write_job.result()
    size = sum(Path(file).stat().st_size for file in check.photos())
    check.report.figure("photos of 640x480 drawn", sizes.photos)
    check.report.figure("their mean size", size / sizes.photos / 1000, "kB")


def speed(check: Check) -> None:
    """build-index against open_clip and each of its stages alone; of the large model, against its encoder."""
    sizes, setup = check.sizes, check.scene.setup(check.sizes.small)
    files, large, some = check.photos(), check.photos_12mp(), check.photos(check.sizes.loader)
    on_cpu = replace(setup, device="cpu", precision="auto")
    name, fewer = sizes.small, check.photos(sizes.photos_cpu)

    def loader(precision: str, photos: Sequence[str]) -> Setup:
        # Each process gets two batches, or it would wait while one decodes all.
        share = len(photos) // (2 * setup.workers)
        return replace(setup, precision=precision, batch=max(1, min(setup.batch, share)))

    often = [
        row(names.BUILD.format(name), hybrid_build_index, setup, files),
        row(names.ENCODER.format(name), hybrid_ceiling, setup, files),
        row(names.NVJPEG, nvjpeg_alone, setup, fewer),
        row(names.LOADER.format(name), open_clip_dataloader, loader(check.half, some), some),
        row(names.BUILD_LARGE, hybrid_build_index, setup, large),
        row(names.LOADER_LARGE, open_clip_dataloader, loader(check.half, large), large),
        *large_model(check),
    ]
    once = [
        row(names.READ_DECODE, threads_alone, setup, files, "decode"),
        row(names.CPU_DECODE, threads_alone, on_cpu, fewer, "decode"),
        row(names.READ, threads_alone, on_cpu, files),
        row(names.RESIZE, resize_alone, setup, files),
        row(names.AUTOCAST.format(name), open_clip_dataloader, loader(setup.precision, some), some),
        row(names.README.format(name), open_clip_readme, setup, files[: sizes.one_by_one]),
    ]
    rows = [*often, *(replace(one, most=1) for one in once)]
    check.measure([replace(one, warm_up=warm_up(one)) for one in rows])


def warm_up(one: Row) -> int:
    """How many files do: nvJPEG is to have all of its own in memory, and the large ones take long."""
    return len(one.files) if one.make is nvjpeg_alone else min(one.warm_up, len(one.files) // 4 or 1)


def large_model(check: Check) -> list[Row]:
    """build-index of the large model and its encoder, which takes nearly all of the time."""
    name, files = check.sizes.large, check.photos(check.sizes.photos_large_model)
    setup = check.scene.setup(name)
    return [
        row(names.BUILD.format(name), hybrid_build_index, setup, files),
        row(names.ENCODER.format(name), hybrid_ceiling, setup, files),
    ]


def alike(check: Check) -> None:
    """Cosine of the vectors that build-index leaves to those of the model's own preprocessing in fp32."""
    files = check.photos_alike()
    real = sum("real" in file for file in files)
    check.report.note(f"{len(files) - real} crops of scikit-learn's photos, {real} photos of HYBRID_DATA")
    for model in (check.sizes.small, "tiny"):
        setup = check.scene.setup(check.sizes.small)
        work = check.scene.folder / "work" / f"alike-{model}"
        work.mkdir(parents=True)
        found = cosines(replace(setup, model=model, work=work), files)
        check.report.figure(names.LOWEST.format(model), float(found.min()))
        check.report.figure(names.MEAN.format(model), float(found.mean()))


def training(check: Check) -> None:
    """The product's training against a plain loop."""
    sizes = check.sizes
    setup = replace(check.scene.setup(sizes.small), model=sizes.head)
    train(check.report, setup, check.photos(sizes.train), sizes.epochs, sizes.seeds)


def neighbors(check: Check) -> None:
    """Exact search on CPU and GPU."""
    search(check.report, check.device, check.sizes.vectors, check.sizes.queries)


def demo(check: Check) -> None:
    """`hybrid demo` in the precision of the device."""
    folder = check.scene.folder / "demo"
    run(check, [*HYBRID, "demo", "--dir", str(folder)])
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["systems"]["hybrid"]
    for figure in ("harmonic_mean", "ausuc"):
        check.report.figure(f"demo, {figure.replace('_', ' ')}", scores[figure])


def pipeline(check: Check) -> None:
    """`predict` of names against the zero-shot pipeline of transformers, at several batch sizes."""
    setup, files = check.scene.setup(check.sizes.small), check.photos(check.sizes.pipeline)
    if not setup.converted.is_dir():
        elsewhere(write_transformers, setup.model, setup.weights, setup.converted)
    half = replace(setup, precision=check.half)
    check.measure(
        [
            row(names.PREDICT.format(setup.model), hybrid_predict, setup, files),
            *(row(names.PIPELINE.format(size), transformers_pipeline, half, files, size) for size in (16, 64, 256)),
        ]
    )


def cifar(check: Check) -> None:
    """The CNN against the ResNet-18 on CIFAR-10, as `hybrid compare` trains them."""
    data = data_folder()
    shards = sorted((data / "cifar10").glob("cifar10-train-*.tar")) if data else []
    if data is None or not shards:
        check.report.note("not run: HYBRID_DATA does not name a folder with cifar10/")
        return
    out = check.scene.folder / "cifar"
    test = [word for shard in sorted((data / "cifar10").glob("cifar10-test-*.tar")) for word in ("--test", str(shard))]
    options = ["--epochs", str(check.sizes.cifar_epochs), "--set", f"workers={min(8, cores())}", "--out", str(out)]
    words = [*map(str, shards), *test, "--recipes", "cifar-cnn,cifar-resnet18", *options, "--device", check.device]
    run(check, [*HYBRID, "compare", *words])
    for one in json.loads((out / "results.json").read_text(encoding="utf-8"))["results"]:
        check.report.figure(f"{one['name']}, test accuracy", one["accuracy"])
        check.report.figure(f"{one['name']}, training", one["seconds"], "s")


def run(check: Check, command: Sequence[str]) -> None:
    """Run a command of the product on the device of the check; RuntimeError with the end of what it said."""
    hidden = {} if check.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, env=os.environ | hidden, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"hybrid {command[len(HYBRID)]} failed:\n{last(done.stdout)}")


def last(text: str) -> str:
    """The last lines."""
    return "\n".join(text.strip().splitlines()[-LAST:])


@dataclass(frozen=True)
class Part:
    """A part, and the seconds after which it is cut off."""

    work: Callable[[Check], None]
    limit: float


PARTS = {
    "tests": Part(tests, 90),
    "prepare": Part(prepare, 90),
    "speed": Part(speed, 150),
    "alike": Part(alike, 60),
    "training": Part(training, 110),
    "neighbors": Part(neighbors, 45),
    "demo": Part(demo, 75),
    "pipeline": Part(pipeline, 60),
    "cifar": Part(cifar, 180),
    "suite": Part(suite, 300),
}
# Run only where they are named, and at one time: neither is timed.
EXTRA, TOGETHER = ("suite",), ("tests", "prepare")
