"""Experts by name, and what each of them keeps of the protocol."""

import numpy as np
import pytest

from benchmarks.few_shot.peers import EXPERTS, make_expert
from hybrid.errors import FewShotError

# What these do not look at: a class that has nothing else is impossible to them.
BLIND = {"zero-shot": "photo", "linear-probe": "text"}
EVERY = pytest.mark.parametrize("name", EXPERTS)


def without_text(world, *classes):
    texts = world.texts.copy()
    texts[list(classes)] = np.nan
    return texts


def without_images(world, *classes):
    rows = ~np.isin(world.labels, classes)
    return world.images[rows], world.labels[rows]


def test_names():
    methods = {"zero-shot", "prototypes", "tip-adapter", "tip-adapter-f", "linear-probe", "gda", "clap"}
    assert methods <= set(EXPERTS)


@pytest.mark.parametrize(("wrong", "near"), [("tip-adaptor", "tip-adapter"), ("GDA", None), ("", None)])
def test_an_unknown_name_says_what_is_near(wrong, near):
    with pytest.raises(FewShotError, match="there is no few-shot expert") as caught:
        make_expert(wrong, 100.0)
    assert "one of zero-shot, prototypes" in caught.value.expected
    assert caught.value.got is None if near is None else f"near it: {near}" in caught.value.got


@EVERY
def test_logits(world, name):
    expert = make_expert(name, world.scale)
    assert expert.logit_scale == world.scale
    assert expert.fit(world.images, world.labels, world.texts) is expert
    found = expert.logits(world.test)
    assert (found.shape, found.dtype) == ((40, 5), np.float64)
    assert np.isfinite(found).all()
    assert np.mean(found.argmax(axis=1) == world.target) > 0.7
    again = make_expert(name, world.scale).fit(world.images, world.labels, world.texts).logits(world.test)
    np.testing.assert_array_equal(found, again)


@EVERY
@pytest.mark.filterwarnings("error")
def test_a_class_without_images(world, name):
    images, labels = without_images(world, 3)
    found = make_expert(name, world.scale).fit(images, labels, world.texts).logits(world.test)
    is_its_own = world.target == 3
    if name == "linear-probe":
        assert np.isneginf(found[:, 3]).all()
        assert np.isfinite(np.delete(found, 3, axis=1)).all()
    else:
        assert np.isfinite(found).all()
        assert np.mean(found.argmax(axis=1)[is_its_own] == 3) > 0.5


@EVERY
@pytest.mark.filterwarnings("error")
def test_a_class_without_text(world, name):
    expert = make_expert(name, world.scale).fit(world.images, world.labels, without_text(world, 4))
    found = expert.logits(world.test)
    is_its_own = world.target == 4
    if name == "zero-shot":
        assert np.isneginf(found[:, 4]).all()
        assert np.isfinite(found[:, :4]).all()
    else:
        assert np.isfinite(found).all()
        assert np.mean(found.argmax(axis=1)[is_its_own] == 4) > 0.5
        # It must not win over the named ones because images lie closer to images than to texts.
        assert np.mean(found.argmax(axis=1)[~is_its_own] == 4) < 0.3


@EVERY
def test_images_alone(world, name):
    expert, texts = make_expert(name, world.scale), without_text(world, *range(5))
    if name == "zero-shot":
        with pytest.raises(FewShotError, match="needs a class with a text"):
            expert.fit(world.images, world.labels, texts)
    else:
        found = expert.fit(world.images, world.labels, texts).logits(world.test)
        assert np.mean(found.argmax(axis=1) == world.target) > 0.7


@EVERY
def test_texts_alone(world, name):
    expert, nothing = make_expert(name, world.scale), without_images(world, *range(5))
    if name == "linear-probe":
        with pytest.raises(FewShotError, match="needs photos"):
            expert.fit(*nothing, world.texts)
    else:
        zero_shot = (world.test @ world.texts.T).argmax(axis=1)
        found = expert.fit(*nothing, world.texts).logits(world.test)
        np.testing.assert_array_equal(found.argmax(axis=1), zero_shot)


@EVERY
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2])
def test_one_class_of_one_image_or_of_copies(world, name, count):
    images = np.repeat(world.images[:1], count, axis=0)
    found = make_expert(name, world.scale).fit(images, np.zeros(count, int), world.texts[:1]).logits(world.test)
    assert found.shape == (40, 1)
    assert np.isfinite(found).all()


@EVERY
def test_two_classes(world, name):
    rows = world.labels < 2
    found = make_expert(name, world.scale).fit(world.images[rows], world.labels[rows], world.texts[:2])
    scored = world.target < 2
    assert np.mean(found.logits(world.test[scored]).argmax(axis=1) == world.target[scored]) > 0.7


@EVERY
def test_what_is_given_is_not_changed(world, name):
    images, texts, test = world.images.copy(), world.texts.copy(), world.test.copy()
    make_expert(name, world.scale).fit(images, world.labels, texts).logits(test)
    for before, after in ((world.images, images), (world.texts, texts), (world.test, test)):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(("name", "unused"), BLIND.items())
def test_what_is_not_used_changes_nothing(world, name, unused):
    images, texts = world.images, world.texts
    first = make_expert(name, world.scale).fit(images, world.labels, texts).logits(world.test)
    if unused == "photo":
        images = -images
    else:
        texts = -texts
    np.testing.assert_array_equal(
        make_expert(name, world.scale).fit(images, world.labels, texts).logits(world.test), first
    )
