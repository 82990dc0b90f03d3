"""Folds are partitions, and what plays the unseen stays unseen."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from hybrid.errors import GateError
from hybrid.fusion.episodes import MIN_CLASSES, MIN_PHOTOS, Photos, check_enough, class_folds, photo_folds
from hybrid.fusion.evidence import PER_PHOTO, out_of_fold

HELD = ((1, 4), (0, 3), (2, 5))


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 6, 7, 9, 10, 11, 53])
@pytest.mark.parametrize("seed", [0, 1])
def test_class_folds_are_a_partition(classes, seed):
    folds = class_folds(classes, seed)
    assert sorted(c for fold in folds for c in fold) == list(range(classes))
    sizes = [len(fold) for fold in folds]
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert len(folds) == min(5, classes // 2)
    assert all(list(fold) == sorted(fold) for fold in folds)


def test_class_folds_are_drawn_by_the_seed_alone():
    assert class_folds(20, 3) == class_folds(20, 3)
    assert class_folds(20, 3) != class_folds(20, 4)
    assert class_folds(20) == class_folds(20, 0)
    # At random: neighbours in the alphabet are not always in different folds.
    assert class_folds(20) != tuple(tuple(range(fold, 20, 5)) for fold in range(5))


def test_photo_folds_spread_each_class_evenly():
    target = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [1, 5, 12, 23]))
    folds = photo_folds(target)
    assert set(folds.tolist()) <= set(range(5))
    for c, count in enumerate([1, 5, 12, 23]):
        sizes = np.bincount(folds[target == c], minlength=5)
        assert sizes.sum() == count
        assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(photo_folds(target), folds)
    assert not np.array_equal(photo_folds(target, seed=1), folds)


def test_photo_folds_of_single_photos_are_not_all_the_first():
    folds = photo_folds(np.arange(100))
    assert min(Counter(folds.tolist()).values()) > 5


@pytest.mark.parametrize(("classes", "photos"), [(5, 1000), (100, 29), (2, 3)])
def test_too_little_is_said_in_numbers(classes, photos):
    with pytest.raises(GateError, match="too little") as caught:
        check_enough(classes, photos)
    assert caught.value.expected == "at least 6 seen classes and 30 validation photos"
    assert caught.value.got == f"{classes} classes and {photos} photos"


def test_just_enough():
    assert (MIN_CLASSES, MIN_PHOTOS) == (6, 30)
    check_enough(6, 30)
    assert len(class_folds(MIN_CLASSES)) == 3


@pytest.fixture
def world(make_world):
    return make_world()


def test_what_an_episode_holds(world):
    calibration = world.calibration(held_out=HELD)
    assert len(calibration.episodes) == 3
    for held, episode in zip(HELD, calibration.episodes, strict=True):
        kept = [c for c in range(6) if c not in held]
        order = [*kept, *held]
        assert (episode.evidence.seen, episode.evidence.classes) == (4, 6)
        assert [order[t] for t in episode.target] == world.val.target.tolist()
        assert episode.is_unseen.tolist() == [int(c) in held for c in world.val.target]
        similarity = 20 * world.val.embeddings @ world.texts[order].T
        np.testing.assert_allclose(episode.evidence.similarity, similarity, rtol=1e-9)
        # No head is asked: all the same of every class.
        np.testing.assert_allclose(episode.evidence.head, -np.log(4))


def test_the_validation_photos_are_scored_over_all_seen_classes(world):
    calibration = world.calibration(held_out=HELD)
    found = calibration.validation
    assert np.array_equal(found.target, world.val.target)
    assert found.evidence.seen == found.evidence.classes == 6
    logits = world.head(world.val.embeddings)
    np.testing.assert_allclose(found.evidence.head, log_softmax(logits, axis=1), rtol=1e-9)
    expected = out_of_fold(
        (world.train.embeddings, world.train.target),
        (world.val.embeddings, world.val.target),
        logits,
        photo_folds(world.val.target),
        world.texts[:6],
        20.0,
    )
    np.testing.assert_allclose(found.evidence.memory, expected.memory, rtol=1e-9)


def test_the_memory_is_of_all_photos(world):
    memory = world.calibration(held_out=HELD).memory
    every = np.concatenate([world.train.embeddings, world.val.embeddings])
    target = np.concatenate([world.train.target, world.val.target])
    assert memory.counts.tolist() == np.bincount(target).tolist()
    for c in range(6):
        np.testing.assert_allclose(memory.means[c], every[target == c].mean(axis=0), rtol=1e-9)


def test_heads_of_the_episodes_are_asked(world):
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(len(world.val), 4)) for _ in HELD]
    calibration = world.calibration(held_out=HELD, fold_logits=logits)
    for own, episode in zip(logits, calibration.episodes, strict=True):
        np.testing.assert_allclose(episode.evidence.head, log_softmax(own, axis=1), rtol=1e-9)
    plain = world.calibration(held_out=HELD)
    assert np.array_equal(calibration.episodes[1].evidence.memory, plain.episodes[1].evidence.memory)


def turned(photos: Photos, classes: tuple[int, ...]) -> Photos:
    inside = np.isin(photos.target, classes)
    return replace(photos, embeddings=np.where(inside[:, None], -photos.embeddings, photos.embeddings))


@pytest.mark.parametrize("half", ["train", "val"])
def test_photos_of_held_out_classes_are_in_no_memory_of_their_episode(world, half):
    before = world.calibration(held_out=HELD)
    head = world.head(world.val.embeddings)
    for number, held in enumerate(HELD):
        changed = replace(world, **{half: turned(getattr(world, half), held)})
        after = changed.calibration(held_out=HELD, head_logits=head)
        rest = ~np.isin(world.val.target, held)
        old, new = before.episodes[number].evidence, after.episodes[number].evidence
        for name in PER_PHOTO:
            assert np.array_equal(getattr(new, name)[rest], getattr(old, name)[rest])
        assert np.array_equal(new.alignment, old.alignment)
        # In the other episodes they are.
        other = (number + 1) % 3
        same = np.isclose(after.episodes[other].evidence.memory[rest], before.episodes[other].evidence.memory[rest])
        assert not same.all()


def test_the_seed_deals_the_photos(world):
    first, again, other = (world.calibration(held_out=HELD, seed=seed) for seed in (0, 0, 5))
    assert np.array_equal(first.validation.evidence.memory, again.validation.evidence.memory)
    assert not np.array_equal(first.validation.evidence.memory, other.validation.evidence.memory)
