"""How a classifier reads: one decode for all that look, batches in flight, answers in order."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.errors import EncoderError
from hybrid.images.sources import scan
from hybrid.images.stream import IN_FLIGHT, ahead
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import join
from hybrid.run.fitted import FittedClassifier


def mean_of(image) -> np.ndarray:
    return image.rgb.mean((0, 1)).astype(np.float32)


class Encoder:
    """Embeds an image as its mean color; calls `watch` with every batch first."""

    name = identity = fingerprint = "colour"
    dim, logit_scale, uses_templates, notes = 3, 1.0, True, ()

    def __init__(self, min_side=1, batch_size=4, watch=lambda prepared: None):
        self.min_side, self.batch_size, self.watch = min_side, batch_size, watch
        self.prepared: list[tuple[int, int]] = []

    def can_encode(self, names):
        return [True] * len(names)

    def check(self, records):
        pass

    def prepare(self, image, record):
        self.prepared.append(image.rgb.shape[:2])
        return mean_of(image)

    def encode_images(self, prepared):
        self.watch(prepared)
        return np.stack(prepared)


class Head:
    """Scores an image by its mean red and green."""

    classes, notes = ("red", "green"), ()

    def __init__(self, min_side=1, batch_size=4, encoder_identity=None):
        self.min_side, self.batch_size, self.encoder_identity = min_side, batch_size, encoder_identity
        self.prepared: list[tuple[int, int]] = []
        self.batches: list[int] = []

    def prepare(self, image):
        self.prepared.append(image.rgb.shape[:2])
        return mean_of(image)[:2]

    def logits(self, prepared, embeddings):
        self.batches.append(len(prepared))
        return np.stack(prepared)


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


def test_two_batches_are_answered_at_once(write):
    together = threading.Barrier(2, timeout=20)
    classifier = zero_shot(Encoder(watch=lambda prepared: together.wait()))
    assert grays(classifier.classify(write(16))) == list(range(16))


def test_answers_keep_the_order_of_the_images(write):
    """The second batch is ready before the first."""
    second_done = threading.Event()

    def watch(prepared):
        if prepared[0][0] == 0:
            assert second_done.wait(20)
        else:
            second_done.set()

    records = write(15)
    batches = list(zero_shot(Encoder(watch=watch)).classify(records, workers=3))
    assert grays(batches) == list(range(15))
    assert [record for batch in batches for record in batch.records] == list(records)


def test_unreadable_images_are_listed_in_order_between_the_others(write, tmp_path):
    write(14)
    for number in (0, 5, 6, 7, 13):
        (tmp_path / f"{number:04d}.png").write_bytes(b"torn")
    for number in range(8, 12):  # a whole batch
        (tmp_path / f"{number:04d}.png").unlink()
    found = scan([tmp_path], labeled=False).records
    classifier = zero_shot(Encoder())
    batches = list(classifier.classify(found))
    assert grays(batches) == [1, 2, 3, 4, 12]
    assert [path[-8:-4] for batch in batches for path, _ in batch.unreadable] == [
        "0000",
        "0005",
        "0006",
        "0007",
        "0013",
    ]


def test_a_batch_without_a_readable_image_has_no_answers(write, tmp_path):
    records = write(12)
    for number in range(4, 8):
        (tmp_path / f"{number:04d}.png").write_bytes(b"torn")
    classifier = zero_shot(Encoder())
    batches = list(classifier.classify(records))
    assert [(len(batch.records), len(batch.unreadable)) for batch in batches] == [(4, 0), (0, 4), (4, 0)]
    assert [len(classifier.predictions(batch)) for batch in batches] == [4, 0, 4]


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
    assert len(encoder.prepared) <= (IN_FLIGHT + 1) * 4 + ahead(4, 2)
    batches.close()


# One decode


@pytest.mark.parametrize(
    ("encoder", "head", "embed", "min_side", "height"),
    [
        (30, 60, True, 60, 60),
        (60, 30, True, 60, 60),
        (60, 30, False, 30, 30),  # the encoder does not look
        (None, 30, True, None, 240),
        (30, None, True, None, 240),
        (None, 120, False, 120, 120),
        (1, 1, True, 1, 30),
    ],
)
def test_a_image_is_decoded_once_as_large_as_anybody_needs_it(write, decodes, encoder, head, embed, min_side, height):
    looks, scores = Encoder(encoder), Head(head)
    records = write(5, (320, 240), "jpg")
    list(head_alone(looks, scores).classify(records, embed=embed))
    assert [asked for asked, _ in decodes] == [min_side] * 5
    assert scores.prepared == [(height, height * 4 // 3)] * 5
    assert looks.prepared == (scores.prepared if embed else [])


def test_nobody_looks_closer_than_needed_where_the_encoder_is_alone(write, decodes):
    list(zero_shot(Encoder(60)).classify(write(3, (320, 240), "jpg")))
    assert [asked for asked, _ in decodes] == [60] * 3


# How many at once


@pytest.mark.parametrize(
    ("encoder", "head", "embed", "size"), [(4, 6, True, 4), (6, 4, True, 4), (4, 6, False, 6), (100, 100, True, 10)]
)
def test_the_smaller_suggestion_of_those_that_look_counts(write, encoder, head, embed, size):
    scores = Head(batch_size=head)
    batches = list(head_alone(Encoder(batch_size=encoder), scores).classify(write(10), embed=embed))
    assert len(batches[0].records) == size
    assert max(scores.batches) == size


def test_what_is_asked_for_counts_before_any_suggestion(write):
    batches = list(zero_shot(Encoder(batch_size=2)).classify(write(10), batch_size=7))
    assert [len(batch.records) for batch in batches] == [7, 3]


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
