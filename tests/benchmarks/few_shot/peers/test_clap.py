import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from benchmarks.few_shot.peers import CLAP


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def zero_shot_probability(world):
    """Of each class on its own images, averaged; class by class."""
    p = softmax(world.scale * world.images.astype(float) @ world.texts.T, axis=1)
    return np.array(
        [np.mean([row[c] for row, label in zip(p, world.labels, strict=True) if label == c]) for c in range(5)]
    )


def trained_by_hand(world, rate, epochs, batch, norm, seed):
    """SGD with momentum in numpy, gradients worked out on paper."""
    images, one_hot = world.images.astype(float), np.eye(5)[world.labels]
    start = norm * world.texts.astype(float)
    prototypes, speed, penalty = start.copy(), np.zeros_like(start), zero_shot_probability(world)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        now = 1e-5 if epoch == 0 else rate * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
        shuffled = torch.randperm(len(images), generator=order).numpy()
        whole = [shuffled[i : i + batch] for i in range(0, len(images) - batch + 1, batch)] or [shuffled]
        for rows in whole:
            directions, lengths = unit(prototypes), np.linalg.norm(prototypes, axis=1, keepdims=True)
            error = softmax(world.scale * images[rows] @ directions.T, axis=1) - one_hot[rows]
            pull = world.scale * error.T @ images[rows] / len(rows)
            pull = (pull - directions * (pull * directions).sum(axis=1, keepdims=True)) / lengths
            gradient = pull + 2 * penalty[:, None] * (prototypes - start) / 5
            speed = 0.9 * speed + gradient
            prototypes = prototypes - now * speed
    return unit(prototypes)


@pytest.mark.parametrize(("epochs", "batch", "norm"), [(2, 256, 10.0), (12, 256, 1.0), (12, 6, 3.0)])
def test_prototypes_are_trained_by_sgd(world, epochs, batch, norm):
    expert = CLAP(world.scale, epochs=epochs, batch_size=batch, text_norm=norm, seed=7)
    expert.fit(world.images, world.labels, world.texts)
    expected = trained_by_hand(world, 0.1, epochs, batch, norm, seed=7)
    assert np.abs(expected - world.texts).max() > 1e-3
    np.testing.assert_allclose(expert.prototypes_, expected, atol=1e-5)


def test_defaults(world):
    found = CLAP(world.scale).fit(world.images, world.labels, world.texts)
    np.testing.assert_allclose(found.prototypes_, trained_by_hand(world, 0.1, 300, 256, 10.0, seed=0), atol=1e-4)
    np.testing.assert_allclose(found.logits(world.test), world.scale * world.test @ found.prototypes_.T, atol=1e-6)


def test_penalty_is_the_zero_shot_probability_of_the_true_class(world):
    found = CLAP(world.scale, epochs=0).fit(world.images, world.labels, world.texts)
    np.testing.assert_allclose(found.penalty_, zero_shot_probability(world), atol=1e-6)
    rows = world.labels != 3
    assert CLAP(world.scale, epochs=0).fit(world.images[rows], world.labels[rows], world.texts).penalty_[3] == 1


def test_no_images_leave_the_texts(world):
    found = CLAP(world.scale).fit(world.images[:0], world.labels[:0], world.texts)
    np.testing.assert_array_equal(found.prototypes_, world.texts.astype(float))


def test_the_seed_orders_the_images(world):
    def prototypes(seed):
        fitted = CLAP(world.scale, epochs=5, batch_size=4, seed=seed).fit(world.images, world.labels, world.texts)
        return fitted.prototypes_

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = prototypes(0)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(prototypes(0), first)
    assert not np.array_equal(prototypes(1), first)
