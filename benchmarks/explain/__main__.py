"""Do the maps of `hybrid explain` point at the animal? On drawn images, where it is known where that stands.

    python -m benchmarks.explain                        the bundled tiny CLIP
    python -m benchmarks.explain --run demo/run         the head of a run, such as `hybrid demo` leaves
    python -m benchmarks.explain --encoder FOLDER       any open_clip model that knows drawn animals

For each method: the share of the map's positive values inside the animal's box, and inside its outline; how often the
largest value lies inside the outline (the pointing game); seconds per image. `uniform` is a map that is the same
everywhere, so its first figure is the box's share of the image; `centre` is a blob in the middle, which knows only that
animals stand there.

Figures it gave: docs/results/explain.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.kit import arguments as shared
from benchmarks.kit.output import write_json
from hybrid.demo.animals import Animal, demo_classes
from hybrid.demo.painting import draw
from hybrid.errors import HybridError

IMAGES, SIZE = 50, 64
SIDES = (1, 4, 7, 14)
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """An image, what it shows, and which of its pixels do."""

    image: Image.Image
    name: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """Of one map: shares of its positive values, and whether its largest value is on the animal."""

    in_box: float
    on_animal: float
    hit: bool


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, explain, measure, print."""
    parser = shared.parser(__doc__, "benchmarks.explain")
    parser.add_argument("--encoder", default="tiny", metavar="tiny|FOLDER", help="default: tiny")
    parser.add_argument("--run", type=Path, help="measure the head of this run instead of an encoder")
    parser.add_argument("--photos", type=int, default=IMAGES)
    shared.add_json(parser)
    options = parser.parse_args(arguments)
    try:
        if options.run is None:
            rows = measure(encoder_maps(options.encoder), images(options.photos))
        else:
            seen = [animal.name for animal in demo_classes().seen]
            rows = measure(head_maps(options.run), images(options.photos, seen))
    except HybridError as error:
        sys.exit(str(error))
    asked = {"images": options.photos, "encoder": options.encoder, "run": options.run and str(options.run)}
    write_json(options.json, {**asked, "methods": means(rows)})
    print(table(rows))


def images(count: int, names: Sequence[str] | None = None) -> list[Drawn]:
    """Draw animals of the demo in turn, each image from its number."""
    demo = demo_classes()
    animals = [a for a in (*demo.seen, *demo.unseen) if names is None or a.name in names]
    order = np.random.default_rng(0).permutation(len(animals))
    chosen = [animals[order[i % len(order)]] for i in range(count)]
    return [
        Drawn(draw(animal, np.random.default_rng((17, i)), SIZE), animal.name, outline(animal, (17, i)))
        for i, animal in enumerate(chosen)
    ]


def outline(animal: Animal, seed: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which pixels of `draw(animal, default_rng(seed))` show the animal: its shapes again, in its pose, on nothing."""
    from hybrid.demo import painting
    from hybrid.demo.figures import figure, part_shapes
    from hybrid.demo.scene import background

    # The same draws in the same order as `draw` makes them.
    rng = np.random.default_rng(seed)
    species = painting._species(animal)
    painting._coat_color(animal.color, species, rng)
    pose = painting._pose(species, rng, SIZE * painting._FINE)
    background(rng, SIZE)
    body = figure(animal.kind)
    behind, front = part_shapes(body, animal.part, species.part_size * rng.uniform(0.92, 1.08))
    canvas = Image.new("L", (SIZE * painting._FINE,) * 2)
    brush = ImageDraw.Draw(canvas)
    shapes = [shape.points for shape in (*behind, *body.behind, *body.front, *front)]
    for points in (*shapes, *body.coat):
        brush.polygon(pose.place(points), fill=255)
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX)) > 127


Maps = Callable[[Drawn], Iterator[tuple[str, Callable[[], Values]]]]


def encoder_maps(name: str) -> Maps:
    """Methods for the image tower of an encoder: what it finds like the text of the animal's name."""
    from hybrid.config import EncoderSettings
    from hybrid.encoders import load_encoder
    from hybrid.index.texts import embed_classes
    from hybrid.labels.prompts import PromptClass, load_templates
    from hybrid.tools.explain.networks import TextSimilarity

    encoder: Any = load_encoder(EncoderSettings(model=name, precision="fp32"), "cpu")

    def maps(image: Drawn) -> Iterator[tuple[str, Callable[[], Values]]]:
        text = embed_classes(encoder, [PromptClass(image.name)], load_templates("simple"), None)[0]
        model = TextSimilarity(encoder.tower, text)
        pixels = encoder.batch([encoder.prepare(image.image, None)]).float()
        return candidates(model, pixels, 0)

    return maps


def head_maps(run: Path) -> Maps:
    """Methods for the head of a run: what speaks for its own top class."""
    from hybrid.device import resolve
    from hybrid.errors import HeadError
    from hybrid.run.files import Layout
    from hybrid.run.heads import load_head
    from hybrid.tools.explain.networks import members_of

    found = load_head(Layout(run), resolve("cpu", "fp32"))
    if found is None:
        raise HeadError(f"the run {run} has no head", fix="hybrid train-head")
    head: Any = found[0]

    def maps(image: Drawn) -> Iterator[tuple[str, Callable[[], Values]]]:
        prepared = [head.prepare(image.image)]
        target = int(head.logits(prepared, np.empty((1, 0), np.float32)).argmax())
        return candidates(members_of(head)[0], head.batch(prepared), target)

    return maps


def candidates(model: Any, pixels: Any, target: int) -> Iterator[tuple[str, Callable[[], Values]]]:
    """Grad-CAM at layers of several sizes, and the other methods."""
    from hybrid.tools.explain.attribution import attribute, grad_cam
    from hybrid.tools.explain.explanation import METHODS

    for side in SIDES:
        yield f"gradcam, side >= {side}", partial(_values, grad_cam, model, pixels, target, side)
    for method in METHODS[1:]:
        yield method, partial(_values, attribute, model, pixels, target, method)


def _values(make: Any, *arguments: Any) -> Values:
    found: Values = make(*arguments).values
    return found


def score(values: Values, mask: NDArray[np.bool_]) -> Score:
    """Measure a map (h, w) against an outline (H, W), to whose size it is brought; a blank map counts as uniform."""
    picture = Image.fromarray(np.maximum(values, 0).astype(np.float32))
    found = np.asarray(picture.resize(mask.shape[::-1], Image.Resampling.BILINEAR), np.float64)
    if not found.any():
        found = np.ones(mask.shape)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Score(box.sum() / found.sum(), found[mask].sum() / found.sum(), bool(mask.flat[found.argmax()]))


def measure(maps: Maps, drawn: Sequence[Drawn]) -> dict[str, tuple[list[Score], float]]:
    """Scores and seconds of each method over the images, the two baselines first."""
    y, x = (np.arange(SIZE) - SIZE / 2 + 0.5)[:, None], (np.arange(SIZE) - SIZE / 2 + 0.5)[None, :]
    baselines = {"uniform": np.ones((SIZE, SIZE)), "centre": np.exp(-(x**2 + y**2) / (2 * (SIZE / 5) ** 2))}
    rows: dict[str, tuple[list[Score], float]] = {}
    for name, values in baselines.items():
        rows[name] = [score(values, image.mask) for image in drawn], 0.0
    for image in drawn:
        for name, make in maps(image):
            start = time.perf_counter()
            values = make()
            seconds = time.perf_counter() - start
            scores, spent = rows.get(name, ([], 0.0))
            rows[name] = [*scores, score(values, image.mask)], spent + seconds
    return rows


def means(rows: dict[str, tuple[list[Score], float]]) -> dict[str, dict[str, float]]:
    """Of each method the means over the images, and seconds an image."""
    return {
        name: {
            **{part: float(np.mean([getattr(s, part) for s in scores])) for part in ("in_box", "on_animal", "hit")},
            "seconds": seconds / len(scores),
        }
        for name, (scores, seconds) in rows.items()
    }


def table(rows: dict[str, tuple[list[Score], float]]) -> str:
    """Rows as Markdown."""
    lines = ["| method | in the box | on the animal | largest value on it | s per photo |", "|---|---|---|---|---|"]
    for name, row in means(rows).items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
