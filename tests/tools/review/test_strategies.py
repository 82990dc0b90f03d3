"""Strategies of the queue, against values written down and other ways to find them."""

import hashlib

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances

from hybrid.tools.review.strategies import draws, interleave, margin, spread, unseen


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_margin_is_one_less_the_difference_of_the_two_best():
    found = margin(np.array([[0.5, 0.5, 0.0], [0.2, 0.7, 0.1], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [1, 0.5, 0])
    np.testing.assert_array_equal(margin(np.ones((2, 1))), [0, 0])  # one class is no choice
    np.testing.assert_array_equal(margin(np.empty((0, 3))), [])


def test_unseen_is_most_at_a_half_and_more_above_than_below():
    p = np.array([0, 0.1, 0.25, 0.45, 0.5, 0.55, 0.9, 1])
    np.testing.assert_allclose(unseen(p), [0, 0.2, 0.5, 0.9, 1, 0.95, 0.6, 0.5])


def greedy(embeddings, doubt, known, count):
    """Weighted k-center by all distances, that scikit-learn finds."""
    chosen = []
    for _ in range(count):
        centers = np.concatenate([known, embeddings[chosen]])
        far = pairwise_distances(embeddings, centers).min(axis=1) ** 2 if len(centers) else np.full(len(embeddings), 4)
        gain = far * doubt
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
    return chosen


@pytest.mark.parametrize("known", [0, 7])
def test_spread_is_weighted_k_center(known):
    rng = np.random.default_rng(known)
    embeddings, centers = unit(rng.normal(size=(60, 8))), unit(rng.normal(size=(known, 8)))
    doubt = rng.uniform(size=60)
    found = spread(embeddings, doubt, centers, count=25)
    assert found[:25].tolist() == greedy(embeddings.astype(float), doubt, centers.astype(float), 25)
    # Then by doubt alone; each once.
    assert sorted(found.tolist()) == list(range(60))
    assert (np.diff(doubt[found[25:]]) <= 0).all()


def test_spread_takes_one_of_each_cluster_before_a_second_one():
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(6), 20)
    embeddings = unit(unit(rng.normal(size=(6, 32)))[cluster] + 0.05 * rng.normal(size=(120, 32)))
    doubt = np.where(cluster == 0, 0.9, 0.5)  # the most doubtful are all alike
    assert sorted(cluster[spread(embeddings, doubt)[:6]]) == list(range(6))


def test_spread_of_nothing_and_of_copies():
    nothing = np.empty((0, 4), np.float32)
    assert spread(nothing, np.empty(0)).tolist() == []
    same = np.ones((3, 4), np.float32) / 2
    assert spread(same, np.ones(3)).tolist() == [0, 1, 2]


def test_draws_belong_to_content_and_seed():
    hashes = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]
    found = draws(hashes, 1)
    np.testing.assert_array_equal(draws(hashes[::-1], 1), found[::-1])
    assert not np.array_equal(draws(hashes, 2), found)
    assert 25 < (found < 0.2).sum() < 60
    first = hashlib.sha256(b"review 1 " + hashes[0].encode()).hexdigest()
    assert found[0] == int(first[:12], 16) / 16**12


def test_every_fifth_is_drawn():
    rows, random = interleave(np.arange(10), np.arange(10, 13))
    assert rows.tolist() == [0, 1, 2, 3, 10, 4, 5, 6, 7, 11, 8, 9, 12]
    assert random.tolist() == [row >= 10 for row in rows]
    assert interleave(np.arange(0), np.arange(3))[0].tolist() == [0, 1, 2]
    assert not interleave(np.arange(7), np.arange(0))[1].any()


def test_an_image_of_both_lists_comes_once_where_it_comes_first():
    rows, random = interleave(np.array([0, 1, 2, 3, 4, 5]), np.array([5, 0, 9]))
    assert rows.tolist() == [0, 1, 2, 3, 5, 4, 9]
    assert random.tolist() == [False, False, False, False, True, False, True]
