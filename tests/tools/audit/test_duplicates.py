"""Near duplicates against a plain n x n cosine and a hand-written walk through its graph."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.tools.audit import duplicates
from hybrid.tools.audit.duplicates import find_duplicates, near_components

from .conftest import store_image, unit


def chained(count, seed, dim=4):
    """Points that wander over a sphere: chains of near ones, with gaps between them."""
    rng = np.random.default_rng(seed)
    return unit(np.cumsum(0.15 * rng.normal(size=(count, dim)), axis=0) + 0.3 * rng.normal(size=(count, dim)))


def walk(cosine, above):
    """Components of the graph as sets, and the highest cosine above the threshold of each point."""
    left, groups = set(range(len(cosine))), []
    while left:
        group, waiting = set(), [left.pop()]
        while waiting:
            at = waiting.pop()
            group.add(at)
            near = {other for other in left if cosine[at, other] > above}
            left -= near
            waiting += near
        groups.append(frozenset(group))
    return set(groups)


def as_sets(component):
    return {frozenset(np.flatnonzero(component == number).tolist()) for number in np.unique(component)}


@pytest.mark.parametrize(("above", "block"), [(0.5, 64), (0.9, 1), (0.95, 7), (0.99, 64), (0.999, 1000)])
def test_components_are_those_of_all_pairs(monkeypatch, above, block):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    vectors = chained(150, seed=3)
    cosine = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    np.fill_diagonal(cosine, -np.inf)
    assert np.abs(cosine - above).min() > 1e-6, "no pair may lie on the threshold, where rounding decides"
    counts = []
    component, nearest = near_components(vectors, above, counts.append)
    assert as_sets(component) == walk(cosine, above)
    best = cosine.max(axis=1)
    np.testing.assert_allclose(nearest, np.where(best > above, best, -1), atol=1e-6)
    assert sum(counts) == 150


def test_the_blocks_join_a_chain_that_runs_through_all_of_them(monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK", 3)
    angles = np.random.default_rng(0).permutation(60) * 0.05
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    component, nearest = near_components(vectors, np.cos(0.06))
    assert len(np.unique(component)) == 1
    np.testing.assert_allclose(nearest, np.cos(0.05), atol=1e-6)
    assert len(np.unique(near_components(vectors, np.cos(0.04))[0])) == 60


def test_identical_vectors_are_one_component_and_no_cosine_is_above_one():
    for count in (1, 2, 700):
        vectors = np.tile(unit(np.ones((1, 8))), (count, 1))
        component, nearest = near_components(vectors, 0.98)
        assert len(np.unique(component)) == 1
        assert nearest.tolist() == pytest.approx([1.0 if count > 1 else -1.0] * count)
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(200, 16))), 2, axis=0)
    assert np.einsum("nd,nd->n", vectors, vectors).max() > 1, "by rounding"
    assert near_components(vectors, 0.9999)[1].max() == 1
    component, nearest = near_components(np.empty((0, 8), np.float32), 0.98)
    assert component.shape == nearest.shape == (0,)


def angle(degrees):
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


CONTENTS = {"a": 0, "a resaved": 2, "b": 90, "b again": 91, "c": 180, "alone": 270}


def groups_of(images, above=0.98):
    vectors = {image.sha256: angle(CONTENTS[content]) for image, content in images}
    return find_duplicates([image for image, _ in images], list(vectors), np.stack(list(vectors.values())), above)


@pytest.fixture
def images():
    rows = [
        ("z/a.jpg", "cup", "train", "a"),
        ("y/a2.jpg", "cup", "train", "a resaved"),
        ("x/b.jpg", "cup", "train", "b"),
        ("w/b2.jpg", "mug", "val", "b again"),
        ("v/c.jpg", "pen", "train", "c"),
        ("u/c copy.jpg", "pen", None, "c"),
        ("t/alone.jpg", None, None, "alone"),
    ]
    return [(store_image(*row), row[3]) for row in rows]


def test_groups_in_the_order_of_what_matters(images):
    groups = groups_of(images)
    assert [[p.record.path for p in group.images] for group in groups] == [
        ["w/b2.jpg", "x/b.jpg"],
        ["u/c copy.jpg", "v/c.jpg"],
        ["y/a2.jpg", "z/a.jpg"],
    ]
    two, exact, near = groups
    assert two.faults == ("two labels", "crosses splits")
    assert (two.labels, two.splits) == (("cup", "mug"), ("train", "val"))
    assert exact.faults == near.faults == ()
    assert [group.exact for group in groups] == [False, True, False]
    assert two.similarity == pytest.approx(np.cos(np.radians(1)), abs=1e-6)
    assert near.similarity == pytest.approx(np.cos(np.radians(2)), abs=1e-6)
    assert exact.similarity == 1
    assert exact.splits == ("train",), "a photo without a split is in none"
    assert {image.similarity for image in exact.images} == {1.0}


def test_one_fault_comes_before_none(images):
    for label, split, *faults in (("cup", "val", "crosses splits"), ("mug", "train", "two labels"), (None, None)):
        images[1] = store_image("y/a2.jpg", label, split, "a resaved"), "a resaved"
        group = groups_of(images)[1 if faults else 2]
        assert group.faults == tuple(faults)
        assert group.images[0].record.path == "y/a2.jpg"


def test_a_group_of_near_and_exact_copies(images):
    images = [*images[:2], (store_image("b/copy of a.jpg", "cup", "test", "a"), "a")]
    (group,) = groups_of(images)
    assert not group.exact
    assert [image.record.path for image in group.images] == ["b/copy of a.jpg", "y/a2.jpg", "z/a.jpg"]
    assert [image.similarity for image in group.images] == [1.0, pytest.approx(np.cos(np.radians(2)), abs=1e-6), 1.0]
    assert group.similarity == pytest.approx(np.cos(np.radians(2)), abs=1e-6)
    assert group.faults == ("crosses splits",)
    # A group is as similar as its loosest image.
    images, vectors = [store_image(f"{n}.jpg", None, None, n) for n in "123"], np.stack([angle(0), angle(4), angle(5)])
    (group,) = find_duplicates(images, [image.sha256 for image in images], vectors, 0.99)
    cosines = np.cos(np.radians([4, 1, 1]))
    np.testing.assert_allclose([image.similarity for image in group.images], cosines, atol=1e-6)
    assert group.similarity == pytest.approx(cosines[0], abs=1e-6)


def test_little_or_nothing_to_find(images):
    assert [group.exact for group in groups_of(images, above=1)] == [True], "only copies"
    assert groups_of([images[0], images[6]]) == groups_of([images[0]]) == []
