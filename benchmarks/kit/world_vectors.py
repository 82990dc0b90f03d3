"""Drawn animals as the bundled tiny encoder sees them, in the format that the benchmarks on vectors read.

The demo's 50 classes, which the encoder never met, and 80 of the classes that it was trained on:

    python -m benchmarks.kit.world_vectors --out world.npz
    python -m benchmarks.kit.world_vectors --out world2.npz --classes trained:80

Same classes, same vectors: every image is drawn from its split, its class's number and its own.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.kit.arguments import output, parser
from benchmarks.kit.vectors import SPLITS
from hybrid.errors import HybridError

if TYPE_CHECKING:
    from hybrid.demo.animals import Animal

# Images a class; of test ones more, so that the figures are steady.
IMAGES = {"train": 16, "val": 12, "test": 20}
DRAWN, CHOSEN = 5, 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, encode, write."""
    wanted = parser(__doc__, "benchmarks.kit.world_vectors")
    wanted.add_argument("--out", type=output, required=True, metavar="FILE.npz")
    wanted.add_argument("--classes", type=_classes, default=0, metavar="demo|trained:N", help="default: demo")
    options = wanted.parse_args(arguments)
    try:
        np.savez(options.out, **world(options.classes))
    except (HybridError, OSError) as error:
        sys.exit(str(error))


def _classes(text: str) -> int:
    """Read ``demo`` as 0 and ``trained:N`` as N."""
    if text == "demo":
        return 0
    found = re.fullmatch(r"trained:([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"demo or trained:N, not {text}")
    return int(found[1])


def world(trained: int = 0, images: dict[str, int] | None = None) -> dict[str, Any]:
    """Arrays of a file: the demo's classes, seen ones first, or `trained` random ones of those met in training."""
    from hybrid.config import EncoderSettings
    from hybrid.demo.painting import draw
    from hybrid.encoders import load_encoder
    from hybrid.index.texts import embed_classes
    from hybrid.labels.prompts import PromptClass, load_templates

    encoder: Any = load_encoder(EncoderSettings(model="tiny", precision="fp32"), "cpu")
    animals = _animals(trained)
    names = [animal.name for animal in animals]
    arrays: dict[str, Any] = {
        "class_names": np.array(names),
        "class_text": embed_classes(encoder, [PromptClass(n) for n in names], load_templates("simple"), None),
        "logit_scale": np.float64(encoder.logit_scale),
        "model": np.array("tiny"),
    }
    for number, split in enumerate(SPLITS):
        count = (images or IMAGES)[split]
        embeddings = []
        for c, animal in enumerate(animals):
            seeds = [(DRAWN, number, c, i) for i in range(count)]
            drawn = [encoder.prepare(draw(animal, np.random.default_rng(seed)), None) for seed in seeds]
            embeddings.append(encoder.encode_images(drawn))
        arrays[f"{split}_embedding"] = np.concatenate(embeddings)
        arrays[f"{split}_label"] = np.repeat(np.arange(len(animals)), count)
    return arrays


def _animals(trained: int) -> list[Animal]:
    from hybrid.demo.animals import demo_classes, training_animals

    if not trained:
        return [*demo_classes().seen, *demo_classes().unseen]
    met = training_animals()
    if trained > len(met):
        sys.exit(f"the encoder was trained on {len(met)} classes, not {trained}")
    return [met[i] for i in np.random.default_rng(CHOSEN).permutation(len(met))[:trained]]


if __name__ == "__main__":
    main()
