from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from hybrid.errors import ConfigError
from hybrid.images.splits import stratified_split


def check(labels, fraction, seed=0):
    train, val = stratified_split(labels, fraction, seed)
    assert train.dtype == val.dtype == np.intp
    for side in (train, val):
        assert np.array_equal(side, np.unique(side)), "sorted, none twice"
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
    sizes = Counter(labels)
    in_train, in_val = Counter(labels[i] for i in train), Counter(labels[i] for i in val)
    for name, size in sizes.items():
        assert in_train[name] >= 1
        assert (in_val[name] >= 1) == (size >= 2)
        # Never off by more than one from the exact share, but where one image a side is the least.
        assert abs(in_val[name] - size * fraction) <= 1
    return in_val


def test_every_class_has_its_share_on_both_sides():
    for case, fraction in product(range(8), [0.01, 0.15, 0.2, 0.5, 0.7, 0.99]):
        rng = np.random.default_rng(case)
        sizes = rng.choice([1, 2, 3, 5, 16, 40, 300], rng.integers(1, 30))
        labels = [f"class {index}" for index, size in enumerate(sizes) for _ in range(size)]
        check([labels[i] for i in rng.permutation(len(labels))], fraction, seed=case)
    # More classes than validation images.
    assert check([f"class {i // 2}" for i in range(200)], 0.15).total() == 100


def test_large_classes_are_split_by_scikit_learn():
    labels = ["a"] * 100 + ["b"] * 33 + ["c"] * 20
    train, val = stratified_split(labels, 0.15, 7)
    theirs = train_test_split(np.arange(153), test_size=0.15, stratify=labels, random_state=7)
    assert np.array_equal(train, np.sort(theirs[0]))
    assert np.array_equal(val, np.sort(theirs[1]))


def test_the_seed_decides():
    labels = ["a", "b"] * 40 + ["c"] * 5
    first, again, other = (stratified_split(labels, 0.3, seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_single_images_none_at_all_and_a_fraction_out_of_range():
    train, val = stratified_split(["a", "b", "ü"], 0.2, 0)
    assert (train.tolist(), val.tolist()) == ([0, 1, 2], [])
    assert [len(side) for side in stratified_split([], 0.2, 0)] == [0, 0]
    for fraction in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            stratified_split(["a", "a"], fraction, 0)
