"""Folds are partitions, and what plays the unseen stays unseen."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import threadpoolctl
from scipy.special import log_softmax

from hybrid.errors import GateError
from hybrid.gate import episodes
from hybrid.gate.episodes import (
    SHOTS,
    SupportSampler,
    check_enough,
    class_folds,
    image_folds,
)
from hybrid.gate.evidence import PER_IMAGE, out_of_fold
from hybrid.gate.gaussians import ClassGaussians, LabeledEmbeddings
from hybrid.gate.support import Likelihood, SupportImages

HELD = ((1, 4), (0, 3), (2, 5))


def test_class_folds_are_a_partition_drawn_by_the_seed_alone():
    for classes in (2, 3, 4, 5, 6, 7, 9, 10, 11, 53):
        for seed in (0, 1):
            folds = class_folds(classes, seed)
            assert sorted(c for fold in folds for c in fold) == list(range(classes))
            sizes = [len(fold) for fold in folds]
            assert min(sizes) >= 2
            assert max(sizes) - min(sizes) <= 1
            assert len(folds) == min(5, classes // 2)
            assert all(list(fold) == sorted(fold) for fold in folds)
    assert class_folds(20, 3) == class_folds(20, 3)
    assert class_folds(20, 3) != class_folds(20, 4)
    assert class_folds(20) == class_folds(20, 0)
    # At random: neighbors in the alphabet are not always in different folds.
    assert class_folds(20) != tuple(tuple(range(fold, 20, 5)) for fold in range(5))


def test_image_folds_spread_each_class_evenly():
    target = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [1, 5, 12, 23]))
    folds = image_folds(target)
    assert set(folds.tolist()) <= set(range(5))
    for c, count in enumerate([1, 5, 12, 23]):
        sizes = np.bincount(folds[target == c], minlength=5)
        assert sizes.sum() == count
        assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(image_folds(target), folds)
    assert not np.array_equal(image_folds(target, seed=1), folds)
    # Single images are not all in the first.
    assert min(Counter(image_folds(np.arange(100)).tolist()).values()) > 5


def test_too_little_is_said_in_numbers():
    for classes, images in ((5, 1000), (100, 29), (2, 3)):
        with pytest.raises(GateError, match="too little") as caught:
            check_enough(classes, images)
        assert caught.value.expected == "at least 6 seen classes and 30 validation photos"
        assert caught.value.got == f"{classes} classes and {images} photos"
    check_enough(6, 30)


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
        # No head has an opinion: all the same of every class.
        np.testing.assert_allclose(episode.evidence.head, -np.log(4))
        # Images of held-out classes are in no Gaussian.
        train, val = (
            LabeledEmbeddings(part.embeddings, np.argsort(order)[part.target])
            for part in (world.train[~np.isin(world.train.target, held)], world.val)
        )
        folds, opinion = image_folds(world.val.target), np.zeros((len(val), 4))
        expected = out_of_fold(train, val, opinion, folds, world.texts[order], 20.0, calibration.gaussians.text_map)
        for name in PER_IMAGE:
            np.testing.assert_allclose(getattr(episode.evidence, name), getattr(expected, name), rtol=1e-9, atol=1e-9)


def test_the_validation_images_are_scored_over_all_seen_classes(world):
    calibration = world.calibration(held_out=HELD)
    found = calibration.validation
    assert np.array_equal(found.target, world.val.target)
    assert found.evidence.seen == found.evidence.classes == 6
    logits = world.head(world.val.embeddings)
    np.testing.assert_allclose(found.evidence.head, log_softmax(logits, axis=1), rtol=1e-9)
    folds = image_folds(world.val.target)
    expected = out_of_fold(world.train, world.val, logits, folds, world.texts[:6], 20.0, calibration.gaussians.text_map)
    np.testing.assert_allclose(found.evidence.gda, expected.gda, rtol=1e-9)
    np.testing.assert_array_equal(calibration.gaussians.means, world.gaussians.means)
    np.testing.assert_array_equal(calibration.gaussians.counts, world.gaussians.counts)
    assert calibration.gaussians.text_map == world.gaussians.text_map


def test_heads_of_the_episodes_give_the_logits(world):
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(len(world.val), 4)) for _ in HELD]
    calibration, plain = world.calibration(held_out=HELD, fold_logits=logits), world.calibration(held_out=HELD)
    for group, count in ((calibration.episodes, 1), (calibration.named, 15), (calibration.image_only, 15)):
        found = list(group)
        assert len(found) == 3 * count
        for number, episode in enumerate(found):
            np.testing.assert_allclose(episode.evidence.head, log_softmax(logits[number // count], axis=1), rtol=1e-9)
    assert np.array_equal(calibration.episodes[1].evidence.gda, plain.episodes[1].evidence.gda)


def test_episodes_are_gathered_side_by_side_by_one_thread_each(monkeypatch, world):
    """How many processors there are changes no bit; threads of BLAS, which would wait for each other, are off."""
    threads, original = [], out_of_fold

    def spy(*arguments):
        threads.append({pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"})
        return original(*arguments)

    monkeypatch.setattr(episodes, "out_of_fold", spy)
    found = []
    for workers in (1, 3):
        monkeypatch.setattr(episodes, "default_workers", lambda workers=workers: workers)
        with threadpoolctl.threadpool_limits(2):
            found.append(world.calibration(held_out=HELD))
    assert threads == [{1}] * 8
    for first, second in zip(found[0].episodes, found[1].episodes, strict=True):
        assert np.array_equal(first.target, second.target)
        assert all(np.array_equal(getattr(first.evidence, n), getattr(second.evidence, n)) for n in PER_IMAGE)


# Support images


def test_shots_are_nested_training_images_of_the_held_out_classes(make_world):
    world = make_world(train=11)
    support = SupportSampler(world.train, 3).draw((4, 1), seen=4)
    # Two classes by 1, 2, 4, 8 and 16 images, of which there are 11, with a name; then once more without.
    assert SHOTS == (1, 2, 4, 8, 16)
    assert support.counts.tolist() == [1, 1, 2, 2, 4, 4, 8, 8, 11, 11] * 2
    assert support.place.tolist() == [4, 5] * 5 + [6, 7] * 5
    assert (support.prompted, support.named) == (4, 6)
    np.testing.assert_array_equal(support.sums[:10], support.sums[10:])
    for number, label in enumerate((4, 1)):
        own = world.train.embeddings[world.train.target == label]
        taken = set()
        for total, count in zip(support.sums[number:10:2], support.counts[number:10:2], strict=True):
            (subset,) = [
                set(rows)
                for rows in combinations(range(11), int(count))
                if np.allclose(own[list(rows)].sum(axis=0), total, rtol=0, atol=1e-12)
            ]
            assert taken <= subset
            taken = subset
    # Those of a class do not depend on its episode.
    again = SupportSampler(world.train, 3).draw((1,), seen=5)
    np.testing.assert_array_equal(again.sums, support.sums[1::2])
    assert not np.array_equal(SupportSampler(world.train, 4).draw((4, 1), seen=4).sums, support.sums)


@pytest.fixture
def three(make_world):
    """Nine seen classes, three held out at a time."""
    return make_world(seen=9, train=5, val=4), ((1, 4, 8), (0, 3, 5), (2, 6, 7))


CHOSEN = ((0, 1, 2), (0, 2), (1,))


def variants(three, named: bool, seed: int = 0):
    """Every variant with what it should be: held-out classes, those with support, shots."""
    world, held_out = three
    calibration = world.calibration(held_out=held_out, seed=seed)
    found = iter(calibration.named if named else calibration.image_only)
    for number, held in enumerate(held_out):
        for shots in (1, 2, 4, 8, 16):
            for chosen in CHOSEN:
                yield next(found), calibration.episodes[number], held, [held[i] for i in chosen], min(shots, 5)
    assert next(found, None) is None


@pytest.mark.parametrize("named", [True, False])
def test_every_variant_by_hand(three, named):
    """All held-out classes have support, then every other one while the rest is merely named."""
    world, _ = three
    checked = 0
    for variant, episode, held, support, count in variants(three, named):
        evidence = variant.evidence
        kept = [c for c in range(9) if c not in held]
        rest = [c for c in held if c not in support]
        order = [*kept, *held] if named else [*kept, *rest, *support]
        texts = order if named else [*kept, *rest]
        assert (evidence.seen, evidence.classes) == (6, len(texts))
        assert (evidence.support.prompted, evidence.support.named) == (len(texts), len(texts))
        assert evidence.support.classes == 9
        assert [order[place] for place in evidence.support.place] == support
        assert evidence.support.has_name.tolist() == [named] * len(support)
        assert not evidence.support.added.any()
        assert evidence.support.counts.tolist() == [count] * len(support)
        assert [order[t] for t in variant.target] == world.val.target.tolist()
        similarity = 20 * world.val.embeddings @ world.texts[texts].T
        np.testing.assert_allclose(evidence.similarity, similarity, rtol=1e-9)
        np.testing.assert_array_equal(evidence.ood_score, episode.evidence.ood_score)
        assert episode.evidence.support is None
        checked += 1
    assert checked == 3 * 5 * 3


def test_of_many_images_each_variant_takes_its_turn(three, monkeypatch):
    world, held_out = three
    calibration = world.calibration(held_out=held_out)
    whole = list(calibration.image_only)
    # Three held-out classes: every fourth image.
    monkeypatch.setattr(episodes, "MOST_SCORES", -(-len(world.val) * 3 // 4))
    part = list(calibration.image_only)
    assert len(part) == len(whole) == 45
    for number, (few, every) in enumerate(zip(part, whole, strict=True)):
        rows = slice(number % 15 % 4, None, 4)
        assert np.array_equal(few.target, every.target[rows])
        assert np.array_equal(few.evidence.similarity, every.evidence.similarity[rows])
        assert np.array_equal(few.evidence.support.likelihood, every.evidence.support.likelihood[rows])


@pytest.mark.parametrize(("named", "seed"), [(True, 0), (False, 0), (True, 5)])
def test_what_the_shots_say_of_the_validation_images(three, named, seed):
    """Likelihoods by Gaussians that hold neither the image's fold nor any image of a held-out class."""
    world, _ = three
    folds = image_folds(world.val.target, seed)
    text_map = world.gaussians.with_text_map(world.texts[:9]).text_map
    for variant, _, held, support, count in list(variants(three, named, seed))[:9:4]:
        kept = [c for c in range(9) if c not in held]
        texts = world.texts[[*kept, *held]]
        place = [6 + held.index(c) if named else 9 + number for number, c in enumerate(support)]
        rank = np.random.default_rng(seed).permutation(len(world.train))
        images = [world.train.embeddings[rank[world.train.target[rank] == c][:count]] for c in support]
        shots = SupportImages.gather(images, place, 6, 9)
        for fold in range(5):
            rows = folds == fold
            known = world.train + world.val[~rows]
            known = known[~np.isin(known.target, held)]
            target = np.searchsorted(kept, known.target)
            gaussians = ClassGaussians.fit(known.embeddings, target, 6, text_map)
            expected = Likelihood(gaussians, texts)(world.val.embeddings[rows], shots).likelihood
            np.testing.assert_allclose(variant.evidence.support.likelihood[rows], expected, rtol=1e-8, atol=1e-8)
