"""The parts of benchmarks.throughput: which systems run on which images, and where the figures go."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.throughput import commands
from benchmarks.throughput import table as names
from benchmarks.throughput.decode import DECODERS, decode_alone, fidelity
from benchmarks.throughput.images import (
    LARGE,
    MEDIUM,
    SMALL,
    class_names,
    elsewhere,
    read_once,
    write_images,
    write_weights,
)
from benchmarks.throughput.ours import (
    hybrid_build_index,
    hybrid_ceiling,
    hybrid_predict,
    hybrid_predict_head,
    unchanged_rerun,
)
from benchmarks.throughput.peers import (
    open_clip_dataloader,
    open_clip_predict,
    open_clip_readme,
    transformers_pipeline,
    write_transformers,
)
from benchmarks.throughput.processes import CONSOLE, MissingPeerError, Row, Setup, Work, round_robin
from benchmarks.throughput.table import Figures

MODEL = "ViT-B-32"
FIDELITY = 16
GAPS = (1.0, 1.5, 2.0, 3.0, None)
ONE_BY_ONE, FEW = (open_clip_readme, open_clip_predict, decode_alone), 3


@dataclass(frozen=True)
class Sizes:
    """How many images, and how often.

    Attributes
    ----------
    build, large, predict : int
        Images of 640 x 480 and of 12 megapixels that are embedded, and those that are classified.
    one_by_one : int
        Images for the systems that take one at a time: fewer, as their rate does not depend on it.
    decode, decode_large : int
        Images for one thread.
    rerun : int
        Images that are indexed twice.
    memory : (int, int)
        Small images, few and many.
    repeats, starts : int
        Passes of each system, and starts of each command.
    batch : int
        Images in a batch.
    """

    build: int = 192
    large: int = 64
    predict: int = 64
    one_by_one: int = 24
    decode: int = 48
    decode_large: int = 6
    rerun: int = 2000
    memory: tuple[int, int] = (2_000, 20_000)
    repeats: int = 3
    starts: int = 9
    batch: int = 32


ON_CUDA = Sizes(build=8192, large=256, predict=512, one_by_one=128, batch=256)
SMOKE = Sizes(8, 3, 4, 2, 3, 2, 12, (10, 40), 1, 1, 4)


@dataclass
class Scene:
    """Where a run works and what it has drawn so far.

    Attributes
    ----------
    folder : Path
        Temporary.
    device : str
    sizes : Sizes
    workers : int
        Processes of a peer's loader: one a core, at most 16.
    figures : Figures
    """

    folder: Path
    device: str
    sizes: Sizes
    workers: int
    figures: Figures = field(default_factory=Figures)

    def images(self, kind: str, size: tuple[int, int], count: int) -> tuple[str, ...]:
        """Images of a kind, drawn when they are first asked for."""
        folder = self.folder / f"{kind}-{count}"
        if not folder.is_dir():
            CONSOLE.print(f"drawing {count} photos of {size[0]}x{size[1]}")
            write_images(folder, count, size)
        files = tuple(sorted(str(file) for file in folder.iterdir()))
        read_once(files)
        return files

    def setup(self, model: str = MODEL) -> Setup:
        """A model with random weights, written when it is first asked for."""
        weights = self.folder / f"{model}.safetensors"
        if not weights.is_file():
            CONSOLE.print(f"writing random weights of {model}")
            elsewhere(write_weights, model, weights)
        work = self.folder / "work"
        converted = self.folder / f"transformers-{model}"
        return Setup(
            self.device, model, weights, converted, class_names(), work, "auto", self.sizes.batch, self.workers
        )

    @functools.cached_property
    def half(self) -> str:
        """Precision that the product takes on this device by itself."""
        return elsewhere(_own_precision, self.device)

    def measure(self, rows: Sequence[Row]) -> None:
        """Run rows in turn and keep their rates."""
        measured = round_robin(rows, self.sizes.repeats)
        for row in rows:
            rate = measured.rate(row.name)
            if rate is None:
                continue
            self.figures.rates[row.name] = rate
            self.figures.passes[row.name] = [one.images / one.seconds for one in measured.passes[row.name]]
            gpu = max(one.gpu_bytes for one in measured.passes[row.name])
            if gpu:
                self.figures.memory[f"GPU memory, {row.name}"] = gpu
        self.figures.missing |= measured.missing


def build(scene: Scene) -> None:
    """build-index against open_clip, and against its own encoder alone."""
    images = scene.images("medium", MEDIUM, scene.sizes.build)
    large = scene.images("large", LARGE, scene.sizes.large)
    setup = scene.setup()
    half = replace(setup, precision=scene.half)
    scene.measure(
        [
            row(names.DATALOADER, open_clip_dataloader, setup, images),
            row(names.SAME_PRECISION, open_clip_dataloader, half, images),
            row(names.README, open_clip_readme, setup, images[: scene.sizes.one_by_one]),
            row(names.BUILD, hybrid_build_index, setup, images),
            row(names.CEILING, hybrid_ceiling, setup, images),
            row(names.LARGE_DATALOADER, open_clip_dataloader, setup, large),
            row(names.LARGE_BUILD, hybrid_build_index, setup, large),
        ]
    )


def predict(scene: Scene) -> None:
    """Classification over 40 names against transformers and open_clip; and with a head."""
    images = scene.images("medium", MEDIUM, scene.sizes.build)[: scene.sizes.predict]
    few = images[: scene.sizes.one_by_one]
    setup = scene.setup()
    half = replace(setup, precision=scene.half)
    rows = [
        row(names.PREDICT, hybrid_predict, setup, images),
        row(names.PREDICT_HEAD, hybrid_predict_head, setup, images),
        row(names.PREDICT_README, open_clip_predict, setup, few),
    ]
    try:
        if not setup.converted.is_dir():
            CONSOLE.print("converting the weights to transformers")
            elsewhere(_convert, setup)
    except MissingPeerError as error:
        scene.figures.missing["predict: transformers"] = str(error)
        CONSOLE.print(f"  predict: transformers: {error}", markup=False)
    else:
        for size in names.BATCH_SIZES:
            files = few if size == 1 else images
            rows.append(row(names.TRANSFORMERS.format(size), transformers_pipeline, setup, files, size))
        rows.append(row(names.TRANSFORMERS_SAME, transformers_pipeline, half, images, names.SAME_BATCH))
    scene.measure(rows)


def decode(scene: Scene) -> None:
    """Bytes to pixels by one thread."""
    images = scene.images("medium", MEDIUM, scene.sizes.build)[: scene.sizes.decode]
    large = scene.images("large", LARGE, scene.sizes.large)[: scene.sizes.decode_large]
    setup = replace(scene.setup(), device="cpu")
    scene.measure(
        [
            row(title.format(name), decode_alone, setup, files, name)
            for title, files in ((names.DECODE, images), (names.DECODE_LARGE, large))
            for name in DECODERS
        ]
    )


def compare_pixels(scene: Scene) -> None:
    """How far our way to the encoder's input, with JPEGs decoded at a part of their size, moves the embeddings."""
    kinds = {
        "640x480": scene.images("medium", MEDIUM, scene.sizes.build)[:FIDELITY],
        "12 MP": scene.images("large", LARGE, scene.sizes.large)[: scene.sizes.decode_large],
    }
    for model in ("tiny", MODEL):
        setup = scene.setup() if model == MODEL else replace(scene.setup(), model=model)
        for kind, files in kinds.items():
            for gap, cosines in elsewhere(fidelity, setup, files, GAPS).items():
                decoded = "full size" if gap is None else f"{gap:g} x the model's"
                scene.figures.others[f"lowest cosine, {model}, {kind}, {decoded}"] = min(cosines)


def rerun(scene: Scene) -> None:
    """build-index on unchanged images, with the tiny encoder, in a process and as a command; predict of one image."""
    files = scene.images("medium", MEDIUM, scene.sizes.rerun)
    folder = Path(files[0]).parent
    found = elsewhere(unchanged_rerun, folder, scene.folder / "rerun", scene.sizes.repeats)
    for name, key in ((names.FIRST, "first"), (names.FIRST_ENCODER, "encoder"), (names.RERUN, "rerun")):
        _keep_seconds(scene, name, [one[key] for one in found])
    command = commands.build_index_command(folder, scene.folder / "rerun" / "command")
    in_turn = {
        names.COMMAND: command,
        names.PREDICT_ONE: commands.predict_command(files[0], scene.folder / "no-run"),
        names.IMPORTS: commands.IMPORT_MODELS,
    }
    for name, seconds in commands.seconds_in_turn(in_turn, scene.sizes.repeats).items():
        _keep_seconds(scene, name, seconds)
    taken = scene.figures.seconds
    for command_name, beyond in names.BEYOND.items():
        taken[beyond] = taken[command_name] - taken[names.IMPORTS]


def memory(scene: Scene) -> None:
    """Peak memory of build-index on few and on many small images."""
    for name, count in zip(("2k", "20k"), scene.sizes.memory, strict=True):
        folder = Path(scene.images("small", SMALL, count)[0]).parent
        CONSOLE.print(f"hybrid build-index on {count} small photos")
        command = commands.build_index_command(folder, scene.folder / f"memory-{count}")
        scene.figures.memory[names.MEMORY.format(name)] = commands.peak_memory(command)


def startup(scene: Scene) -> None:
    """`hybrid --help` against the import of the package that its command line is made with."""
    CONSOLE.print("starting commands")
    in_turn = {names.HELP: commands.help_command(), names.TYPER: commands.IMPORT_TYPER}
    for name, seconds in commands.seconds_in_turn(in_turn, scene.sizes.starts).items():
        _keep_seconds(scene, name, seconds)


def search(scene: Scene) -> None:
    """A million rows, by benchmarks.scale."""
    CONSOLE.print("benchmarks.scale: a million rows")
    scene.figures.others[names.SEARCH] = elsewhere(commands.search_ratio, scene.folder)


def row(name: str, make: Callable[[Setup], Work], setup: Setup, files: Iterable[str], option: object = None) -> Row:
    """A row whose system has a folder of its own, and a batch to warm up: few images where it takes one at a time."""
    own = replace(setup, work=setup.work / f"{make.__name__}-{setup.model}-{setup.precision}")
    warm_up = FEW if make in ONE_BY_ONE or option == 1 else setup.batch
    return Row(name, make, own, tuple(files), warm_up, option)


def _keep_seconds(scene: Scene, name: str, seconds: Sequence[float]) -> None:
    scene.figures.seconds[name] = statistics.median(seconds)
    scene.figures.passes[name] = list(seconds)
    CONSOLE.print(f"  {name}: {scene.figures.seconds[name]:.3g} s")


def _own_precision(device: str) -> str:
    from hybrid.device import resolve

    return resolve(device).precision


def _convert(setup: Setup) -> None:
    try:
        write_transformers(setup.model, setup.weights, setup.converted)
    except ModuleNotFoundError as error:
        raise MissingPeerError(f"{error.name} is not installed; pip install '.[bench]'") from error
