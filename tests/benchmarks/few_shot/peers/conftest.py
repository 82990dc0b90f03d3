"""A small world: images around class centers, texts around other ones, apart from the images."""

from types import SimpleNamespace

import numpy as np
import pytest

CLASSES, DIM, SCALE = 5, 12, 20.0


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def world():
    """4, 1, 3, 2 and 5 labeled images of the classes 0 to 4 in mixed order; 40 more to score."""
    rng = np.random.default_rng(3)
    centers = unit(rng.normal(size=(CLASSES, DIM)))
    offset = unit(rng.normal(size=DIM))
    labels = rng.permutation(np.repeat(np.arange(CLASSES), [4, 1, 3, 2, 5]))
    target = rng.permutation(np.repeat(np.arange(CLASSES), 8))

    def images(classes):
        return unit(centers[classes] + offset + 0.15 * rng.normal(size=(len(classes), DIM))).astype(np.float32)

    return SimpleNamespace(
        images=images(labels),
        labels=labels,
        texts=unit(centers - offset + 0.1 * rng.normal(size=centers.shape)).astype(np.float32),
        test=images(target),
        target=target,
        scale=SCALE,
    )
