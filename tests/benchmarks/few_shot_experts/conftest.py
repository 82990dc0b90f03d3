"""A small world: photos around class centres, texts around other ones, apart from the photos."""

from types import SimpleNamespace

import numpy as np
import pytest

CLASSES, DIM, SCALE = 5, 12, 20.0


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def world():
    """4, 1, 3, 2 and 5 labelled photos of the classes 0 to 4 in mixed order; 40 more to score."""
    rng = np.random.default_rng(3)
    centres = unit(rng.normal(size=(CLASSES, DIM)))
    offset = unit(rng.normal(size=DIM))
    labels = rng.permutation(np.repeat(np.arange(CLASSES), [4, 1, 3, 2, 5]))
    target = rng.permutation(np.repeat(np.arange(CLASSES), 8))

    def photos(classes):
        return unit(centres[classes] + offset + 0.15 * rng.normal(size=(len(classes), DIM))).astype(np.float32)

    return SimpleNamespace(
        photos=photos(labels),
        labels=labels,
        texts=unit(centres - offset + 0.1 * rng.normal(size=centres.shape)).astype(np.float32),
        test=photos(target),
        target=target,
        scale=SCALE,
    )
