"""How a classifier reads: one decode for all that look, batches in flight, answers in order."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fakes import ColorEncoder, PixelHead, mean_color
from PIL import Image

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.errors import EncoderError
from hybrid.images.sources import scan
from hybrid.images.stream import IN_FLIGHT, ahead
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import join
from hybrid.run.fitted import FittedClassifier


class Encoder(ColorEncoder):
    """Embeds an image as its mean color; calls `watch` with every batch first."""

    def __init__(self, min_side=1, batch_size=4, watch=lambda prepared: None):
        super().__init__()
        self.min_side, self.batch_size, self.watch = min_side, batch_size, watch
        self.shapes, self.foreign = [], False

    def check(self, records):
        if self.foreign:
            raise EncoderError("no vector")

    def prepare(self, image, record):
        self.shapes.append(image.rgb.shape[:2])
        return mean_color(image).astype(np.float32)

    def encode_images(self, prepared):
        self.watch(prepared)
        return np.stack(prepared)


class Head(PixelHead):
    """Scores an image by its mean red and green."""

    def __init__(self, min_side=1, batch_size=4):
        super().__init__()
        self.min_side, self.batch_size, self.shapes, self.batches = min_side, batch_size, [], []

    def prepare(self, image):
        self.shapes.append(image.rgb.shape[:2])
        return super().prepare(image)

    def logits(self, prepared, embeddings):
        self.batches.append(len(prepared))
        return super().logits(prepared, embeddings)


def zero_shot(encoder: Encoder) -> FittedClassifier:
    return FittedClassifier(
        encoder, None, None, join((), PromptSet.from_names(["a", "b", "c"])), np.eye(3, dtype=np.float32)
    )


def head_alone(encoder: Encoder, head: Head, **changes) -> FittedClassifier:
    return FittedClassifier(encoder, head, None, join(head.classes, None), None, **changes)


@pytest.fixture
def write(tmp_path):
    """Gray images, each a little lighter than the one before, in the order of their names."""

    def make(count: int, size: tuple[int, int] = (4, 4), ending: str = "png"):
        for number in range(count):
            Image.new("RGB", size, (number % 256,) * 3).save(tmp_path / f"{number:04d}.{ending}")
        return scan([tmp_path], labeled=False).records

    return make


def grays(batches) -> list[int]:
    return [round(float(row[0])) for batch in batches for row in batch.embeddings]


# In order


def test_two_batches_are_answered_at_once_and_keep_their_order(write):
    records = write(16)
    together = threading.Barrier(2, timeout=20)
    assert grays(zero_shot(Encoder(watch=lambda prepared: together.wait())).classify(records)) == list(range(16))
    second_done = threading.Event()

    def watch(prepared):
        """The second batch is ready before the first."""
        if prepared[0][0] == 0:
            assert second_done.wait(20)
        else:
            second_done.set()

    batches = list(zero_shot(Encoder(watch=watch)).classify(records[:15], workers=3))
    assert grays(batches) == list(range(15))
    assert [record for batch in batches for record in batch.records] == list(records[:15])


def test_unreadable_images_are_listed_in_order_between_the_others(write, tmp_path):
    records = write(14)
    for number in (0, 4, 5, 6, 7, 13):  # the second batch whole
        (tmp_path / f"{number:04d}.png").write_bytes(b"torn")
    classifier = zero_shot(Encoder())
    batches = list(classifier.classify(records))
    assert [(len(batch.records), len(batch.unreadable)) for batch in batches] == [(3, 1), (0, 4), (4, 0), (1, 1)]
    assert [len(classifier.predictions(batch)) for batch in batches] == [3, 0, 4, 1]
    assert grays(batch for batch in batches if batch.records) == [1, 2, 3, 8, 9, 10, 11, 12]
    paths = [path[-8:-4] for batch in batches for path, _ in batch.unreadable]
    assert paths == ["0000", "0004", "0005", "0006", "0007", "0013"]


def test_an_error_of_an_expert_comes_after_the_answers_before_it(write):
    def watch(prepared):
        if any(mean[0] == 9 for mean in prepared):
            raise EncoderError("not finite")

    batches = zero_shot(Encoder(watch=watch)).classify(write(16))
    assert grays([next(batches), next(batches)]) == list(range(8))
    with pytest.raises(EncoderError, match="not finite"):
        next(batches)


def test_few_images_are_decoded_before_the_first_answer(write):
    encoder = Encoder()
    batches = zero_shot(encoder).classify(write(100), workers=2)
    next(batches)
    assert len(encoder.shapes) <= (IN_FLIGHT + 1) * 4 + ahead(4, 2)
    batches.close()


# One decode


def test_an_image_is_decoded_once_as_large_as_anybody_needs_it(write, decodes):
    records = write(5, (320, 240), "jpg")
    for encoder, head, embed, min_side, height in (
        (30, 60, True, 60, 60),
        (60, 30, True, 60, 60),
        (60, 30, False, 30, 30),  # the encoder does not look
        (None, 30, True, None, 240),
        (30, None, True, None, 240),
        (None, 120, False, 120, 120),
        (1, 1, True, 1, 30),
    ):
        looks, scores = Encoder(encoder), Head(head)
        decodes.clear()
        list(head_alone(looks, scores).classify(records, embed=embed))
        assert [asked for asked, _ in decodes] == [min_side] * 5
        assert scores.shapes == [(height, height * 4 // 3)] * 5
        assert looks.shapes == (scores.shapes if embed else [])
    decodes.clear()
    list(zero_shot(Encoder(60)).classify(records))
    assert [asked for asked, _ in decodes] == [60] * 5


# How many at once


def test_the_smaller_suggestion_of_those_that_look_counts(write):
    records = write(10)
    for encoder, head, embed, size in ((4, 6, True, 4), (6, 4, True, 4), (4, 6, False, 6), (100, 100, True, 10)):
        scores = Head(batch_size=head)
        batches = list(head_alone(Encoder(batch_size=encoder), scores).classify(records, embed=embed))
        assert len(batches[0].records) == size
        assert max(scores.batches) == size
    # What is asked for counts before any suggestion.
    batches = list(zero_shot(Encoder(batch_size=2)).classify(records, batch_size=7))
    assert [len(batch.records) for batch in batches] == [7, 3]


# When the encoder runs


def test_a_batch_holds_the_embeddings_of_its_images(write, tmp_path):
    records = write(5)
    (tmp_path / "0001.png").write_bytes(b"torn")
    for classifier in (zero_shot(Encoder()), head_alone(Encoder(), Head())):
        batches = list(classifier.classify(records, batch_size=3, embed=True))
        assert [len(batch.embeddings) for batch in batches] == [len(batch.records) for batch in batches]
        embeddings = np.concatenate([batch.embeddings for batch in batches])
        assert embeddings.dtype == np.float32
        np.testing.assert_array_equal(embeddings, np.repeat([[0], [2], [3], [4]], 3, axis=1))


def test_the_encoder_rests_where_nothing_needs_it(write):
    records = write(3)
    classifier = head_alone(Encoder(), Head())
    classifier.encoder.foreign = True
    (plain,) = classifier.classify(records)
    assert plain.embeddings is None
    assert classifier.encoder.shapes == []
    with pytest.raises(EncoderError, match="no vector"):  # images are checked where they are embedded
        list(classifier.classify(records, embed=True))
    (embedded,) = head_alone(Encoder(), Head()).classify(records, embed=True)
    np.testing.assert_array_equal(plain.answers.hybrid, embedded.answers.hybrid)
    assert embedded.answers.zero_shot is None


# The real encoder


def test_values_do_not_depend_on_workers(clip_folder, image, tmp_path):
    for number in range(20):
        image(number, (200 + number, 150)).save(tmp_path / f"{number:02d}.jpg")
    records = scan([tmp_path], labeled=False).records
    found = []
    for workers in (1, 4):
        encoder = load_encoder(EncoderSettings(model=str(clip_folder), precision="fp32"), "cpu")
        texts = encoder.encode_texts(["a cat", "a dog"])
        space = join((), PromptSet.from_names(["cat", "dog"]))
        classifier = FittedClassifier(encoder, None, None, space, texts)
        batches = classifier.classify(records, batch_size=8, workers=workers)
        found.append(np.concatenate([batch.answers.hybrid for batch in batches]))
    assert np.array_equal(*found)
