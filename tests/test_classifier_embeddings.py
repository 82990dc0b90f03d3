"""When the classifier's encoder runs, and that a batch holds what it gave."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import ColorEncoder, PixelHead
from PIL import Image

from hybrid.errors import EncoderError
from hybrid.images.sources import scan
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import join
from hybrid.run.fitted import FittedClassifier

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


def test_images_are_checked_where_they_are_embedded(records, monkeypatch):
    def refuse(self, records):
        raise EncoderError("no vector")

    monkeypatch.setattr(ColorEncoder, "check", refuse)
    assert len(list(head_alone().classify(records))) == 1
    with pytest.raises(EncoderError, match="no vector"):
        list(head_alone().classify(records, embed=True))
