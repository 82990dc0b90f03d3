import numpy as np
from sklearn.metrics.pairwise import cosine_similarity

from benchmarks.few_shot.peers import Prototypes


def class_means(world):
    return np.stack([world.images[world.labels == c].astype(float).mean(axis=0) for c in range(5)])


def test_scaled_cosine_to_the_class_mean(world):
    found = Prototypes(7.0).fit(world.images, world.labels, world.texts).logits(world.test)
    np.testing.assert_allclose(found, 7 * cosine_similarity(world.test, class_means(world)), atol=1e-6)


def test_the_text_stands_in_where_images_lie(world):
    rows = world.labels != 2
    found = Prototypes(7.0).fit(world.images[rows], world.labels[rows], world.texts).logits(world.test)
    means, others = class_means(world), [0, 1, 3, 4]
    means[2] = world.texts[2] - (world.texts[others] - means[others]).mean(axis=0)
    np.testing.assert_allclose(found, 7 * cosine_similarity(world.test, means), atol=1e-6)
