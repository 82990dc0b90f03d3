"""When the classifier's encoder runs, and that a batch holds what it gave."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hybrid.errors import EncoderError
from hybrid.images.preprocess import to_picture
from hybrid.images.sources import scan
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import join
from hybrid.run.fitted import FittedClassifier


class ColorEncoder:
    """Embeds an image as the direction of its mean color."""

    name = identity = fingerprint = "colour"
    dim, logit_scale, uses_templates, notes = 3, 10.0, True, ()
    min_side, batch_size = None, 32

    def __init__(self):
        self.encoded, self.foreign = 0, False

    def can_encode(self, names):
        return [True] * len(names)

    def check(self, records):
        if self.foreign:
            raise EncoderError("no vector")

    def prepare(self, image, record):
        mean = np.asarray(to_picture(image), dtype=np.float32).mean((0, 1))
        return mean / np.linalg.norm(mean)

    def encode_images(self, prepared):
        self.encoded += len(prepared)
        return np.stack(prepared)


class PixelHead:
    """Scores an image by its red and its green."""

    classes, encoder_identity, notes = ("red", "green"), None, ()
    min_side, batch_size = None, 32

    def prepare(self, image):
        return np.asarray(to_picture(image), dtype=np.float32).mean((0, 1))[:2]

    def logits(self, prepared, embeddings):
        return np.stack(prepared)


COLORS = [(200, 30, 20), (20, 180, 40), (30, 40, 220)]


@pytest.fixture
def records(tmp_path):
    for number, color in enumerate(COLORS):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{number}.png")
    (tmp_path / "1 bad.png").write_bytes(b"no photo")
    return scan([tmp_path], labeled=False).records


def head_alone(**changes):
    space = join(("red", "green"), None)
    return FittedClassifier(ColorEncoder(), PixelHead(), None, space, None, **changes)


def zero_shot():
    space = join((), PromptSet.from_names(["a", "b", "c"]))
    return FittedClassifier(ColorEncoder(), None, None, space, np.eye(3, dtype=np.float32))


@pytest.mark.parametrize("classifier", [zero_shot(), head_alone()], ids=["zero-shot", "head alone"])
def test_a_batch_holds_the_embeddings_of_its_images(classifier, records):
    batches = list(classifier.classify(records, batch_size=3, embed=True))
    embeddings = np.concatenate([batch.embeddings for batch in batches])
    expected = np.array(COLORS) / np.linalg.norm(COLORS, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    assert [len(batch.embeddings) for batch in batches] == [len(batch.records) for batch in batches]
    assert embeddings.dtype == np.float32


def test_the_encoder_rests_where_nothing_needs_it(records):
    classifier = head_alone()
    assert [batch.embeddings for batch in classifier.classify(records)] == [None]
    assert classifier.encoder.encoded == 0


def test_the_answers_of_a_head_alone_stay_its_own(records):
    plain, embedded = (next(head_alone().classify(records, embed=e)).answers for e in (False, True))
    np.testing.assert_array_equal(plain.hybrid, embedded.hybrid)
    assert embedded.zero_shot is None


def test_images_are_checked_where_they_are_embedded(records):
    for always, error in ((False, None), (True, EncoderError)):
        classifier = head_alone()
        classifier.encoder.foreign = True
        if error is None:
            assert len(list(classifier.classify(records, embed=always))) == 1
        else:
            with pytest.raises(error, match="no vector"):
                list(classifier.classify(records, embed=always))
