from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def world(make_world):
    """4, 1, 3, 2 and 5 labeled images of the classes 0 to 4 in mixed order; 40 more to score."""
    whole = make_world(seed=3, seen=5, unseen=0, train=5, test=8, dim=12, noise=0.15)
    rank = np.tile(np.arange(5), 5)
    rows = np.flatnonzero(rank < np.array([4, 1, 3, 2, 5])[whole.train.target])
    rows = np.random.default_rng(3).permutation(rows)
    images, texts, test = (
        x.astype(np.float32) for x in (whole.train.embeddings[rows], whole.texts, whole.test.embeddings)
    )
    return SimpleNamespace(
        images=images, labels=whole.train.target[rows], texts=texts, test=test, target=whole.test.target
    )
