import math

import numpy as np
import pytest

from benchmarks.few_shot.peers import TipAdapter


def by_loops(world, texts, alpha, beta):
    """Equation by equation: an image's affinity to each key, given to the key's class."""
    found = np.zeros((len(world.test), len(texts)))
    for i, image in enumerate(world.test.astype(float)):
        for c, text in enumerate(texts):
            found[i, c] = world.scale * (image @ text)
        for key, label in zip(world.images.astype(float), world.labels, strict=True):
            found[i, label] += alpha * math.exp(-beta * (1 - image @ key))
    return found


@pytest.mark.parametrize(("options", "alpha", "beta"), [({}, 1.0, 5.5), ({"alpha": 3.0, "beta": 1.5}, 3.0, 1.5)])
def test_values(world, options, alpha, beta):
    found = TipAdapter(world.scale, **options).fit(world.images, world.labels, world.texts).logits(world.test)
    np.testing.assert_allclose(found, by_loops(world, world.texts.astype(float), alpha, beta), atol=1e-6)


def test_a_mean_image_stands_in_for_a_text(world):
    texts = world.texts.astype(float)
    means = np.stack([world.images[world.labels == c].astype(float).mean(axis=0) for c in range(5)])
    moved = means[0] + (texts[1:] - means[1:]).mean(axis=0)
    texts[0] = moved / np.linalg.norm(moved)
    lacking = world.texts.copy()
    lacking[0] = np.nan
    found = TipAdapter(world.scale).fit(world.images, world.labels, lacking).logits(world.test)
    np.testing.assert_allclose(found, by_loops(world, texts, 1.0, 5.5), atol=1e-6)


def test_no_images_leave_zero_shot(world):
    found = TipAdapter(world.scale).fit(world.images[:0], world.labels[:0], world.texts).logits(world.test)
    np.testing.assert_allclose(found, world.scale * world.test.astype(float) @ world.texts.T, atol=1e-6)
