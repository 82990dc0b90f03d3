import numpy as np

from benchmarks.few_shot.peers import ZeroShot


def test_scaled_cosine(world):
    found = ZeroShot(7.0).fit(world.images, world.labels, world.texts).logits(world.test)
    for image, row in zip(world.test, found, strict=True):
        for text, value in zip(world.texts, row, strict=True):
            assert np.isclose(value, 7 * sum(float(a) * float(b) for a, b in zip(image, text, strict=True)))


def test_images_change_nothing_and_a_gap_in_the_texts_nothing_else(world):
    whole = ZeroShot(7.0).fit(world.images, world.labels, world.texts).logits(world.test)
    texts = world.texts.copy()
    texts[1] = np.nan
    found = ZeroShot(7.0).fit(world.images[::-1], world.labels[::-1], texts).logits(world.test)
    np.testing.assert_allclose(np.delete(found, 1, axis=1), np.delete(whole, 1, axis=1))
    assert np.isneginf(found[:, 1]).all()
