import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from benchmarks.few_shot.peers import TipAdapter, TipAdapterF


def trained_by_hand(world, rate, epochs, batch, seed, beta=5.5):
    """AdamW (Loshchilov & Hutter 2019) in numpy, gradients worked out on paper; alpha is 1."""
    images, values = world.images.astype(float), np.eye(5)[world.labels]
    zero_shot = world.scale * images @ world.texts.T.astype(float)
    keys = images.copy()
    m, v, step = np.zeros_like(keys), np.zeros_like(keys), 0
    steps = epochs * math.ceil(len(images) / batch)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        shuffled = torch.randperm(len(images), generator=order).numpy()
        for start in range(0, len(images), batch):
            rows = shuffled[start : start + batch]
            affinity = np.exp(-beta * (1 - images[rows] @ keys.T))
            error = softmax(zero_shot[rows] + affinity @ values, axis=1) - values[rows]
            gradient = (error @ values.T * affinity * beta).T @ images[rows] / len(rows)
            now = rate * (1 + math.cos(math.pi * step / steps)) / 2
            step += 1
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            keys *= 1 - now * 0.01
            keys -= now * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-4)
    return keys


@pytest.mark.parametrize(("epochs", "batch"), [(1, 256), (3, 256), (4, 6)])
def test_keys_are_trained_by_adamw(world, epochs, batch):
    expert = TipAdapterF(world.scale, learning_rate=0.02, epochs=epochs, batch_size=batch, seed=7)
    expert.fit(world.images, world.labels, world.texts)
    expected = trained_by_hand(world, 0.02, epochs, batch, seed=7)
    assert np.abs(expected - world.images).max() > 0.01
    np.testing.assert_allclose(expert.keys_, expected, atol=2e-5)


def test_defaults_are_the_authors(world):
    found = TipAdapterF(world.scale).fit(world.images, world.labels, world.texts)
    assert (found.alpha, found.beta) == (1.0, 5.5)
    np.testing.assert_allclose(found.keys_, trained_by_hand(world, 1e-3, 20, 256, seed=0), atol=2e-5)


def test_logits_are_tip_adapters_with_other_keys(world):
    trained = TipAdapterF(world.scale, learning_rate=0.02).fit(world.images, world.labels, world.texts)
    plain = TipAdapter(world.scale).fit(world.images, world.labels, world.texts)
    loss = [-log_softmax(e.logits(world.images), axis=1)[range(15), world.labels].mean() for e in (trained, plain)]
    assert loss[0] < loss[1]
    trained.keys_ = plain.keys_
    np.testing.assert_array_equal(trained.logits(world.test), plain.logits(world.test))


def test_the_seed_orders_the_images(world):
    def keys(seed):
        return TipAdapterF(world.scale, batch_size=4, seed=seed).fit(world.images, world.labels, world.texts).keys_

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = keys(0)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(keys(0), first)
    assert not np.array_equal(keys(1), first)
