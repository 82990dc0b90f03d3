"""Texts of things that are no class, as an encoder sees them: negative labels for benchmarks.open_set.

The bundled nouns, and the animals that could be drawn beside the demo's classes (the tiny encoder met only these):

    python -m benchmarks.open_set.name_vectors nouns --out nouns.npz --encoder ViT-B-32-256
    python -m benchmarks.open_set.name_vectors drawable-animals --out animals.npz
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.kit.arguments import output, parser
from benchmarks.kit.vectors import unit
from hybrid.errors import DataError, HybridError
from hybrid.labels.names import class_key
from hybrid.labels.prompts import PromptClass, PromptSet, load_templates


@dataclass(frozen=True)
class Names:
    """Texts: (m,) names and (m, d) unit-norm vectors."""

    names: tuple[str, ...]
    vectors: NDArray[np.float32]

    def without(self, classes: Sequence[str]) -> Names:
        """Leave out what names one of the classes; DataError if nothing is left."""
        taken = {class_key(name) for name in classes}
        kept = [i for i, name in enumerate(self.names) if class_key(name) not in taken]
        if not kept:
            raise DataError("every negative text names a class", got=f"{len(self.names)} texts")
        return Names(tuple(self.names[i] for i in kept), self.vectors[kept])


def read_names(file: Path, dim: int) -> Names:
    """Read texts of `dim` numbers each; DataError says what is wrong with the file."""
    try:
        with np.load(file, allow_pickle=False) as found:
            texts, vectors = found["text"], found["text_embedding"]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read {file}",
            expected="an npz with the arrays text and text_embedding",
            got=str(error),
            fix=f"python -m benchmarks.open_set.name_vectors nouns --out {file} --encoder ...",
        ) from error
    fits = texts.ndim == 1 and len(texts) > 0 and vectors.shape == (len(texts), dim) and vectors.dtype.kind == "f"
    if not fits:
        got = f"{texts.shape} and {vectors.dtype} {vectors.shape}"
        raise DataError(f"{file}: the arrays do not fit", expected=f"text (m,), text_embedding (m, {dim})", got=got)
    return Names(tuple(map(str, texts.tolist())), unit(vectors, f"{file}: text_embedding"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Encode and write."""
    wanted = parser(__doc__, "benchmarks.open_set.name_vectors")
    wanted.add_argument("names", metavar="NAMES", help="a prompt file, a bundled one's name, or drawable-animals")
    wanted.add_argument("--out", type=output, required=True, metavar="FILE.npz")
    wanted.add_argument("--encoder", default="tiny")
    wanted.add_argument("--templates", default="simple")
    options = wanted.parse_args(arguments)
    try:
        names = find_names(options.names)
        np.savez(options.out, text=np.array(names), text_embedding=embed(names, options.encoder, options.templates))
    except (HybridError, OSError) as error:
        sys.exit(str(error))


def find_names(names: str) -> tuple[str, ...]:
    """Give the names in a prompt file, or those of all animals that could be drawn but are no class of the demo."""
    if names != "drawable-animals":
        return PromptSet.load(names).names
    from hybrid.demo.animals import training_animals

    return tuple(animal.name for animal in training_animals())


def embed(names: Sequence[str], model: str, templates: str) -> NDArray[np.float32]:
    """Text embeddings (m, d), unit norm."""
    from hybrid.config import EncoderSettings
    from hybrid.encoders import load_encoder
    from hybrid.index.texts import embed_classes

    encoder = load_encoder(EncoderSettings(model=model, precision="fp32"), "cpu")
    return embed_classes(encoder, [PromptClass(name) for name in names], load_templates(templates), None)


if __name__ == "__main__":
    main()
