"""Queries and hits, held against a plain search in numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.errors import ConfigError, EncoderError, StoreError, UnreadableImageError
from hybrid.images.sources import scan
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.labels.prompts import Templates, load_templates
from hybrid.tools.search.search import Hit, image_query, query_texts, search, text_query

LABELS = [None if n % 3 == 0 else f"class_{n % 4}" for n in range(40)]
SIMPLE = load_templates("simple")


@pytest.mark.parametrize("count", [1, 6, 40, 99])
def test_ranking_against_numpy(known, count):
    known.add(LABELS)
    for query in known.queries[:3]:
        hits = search(known.layout, known.encoder, query[None], count)
        expected = known.ranked(query, range(40))[:count]
        assert [hit.record.path for hit in hits] == [f"/data/{n}.jpg" for n, _ in expected]
        assert [hit.label for hit in hits] == [LABELS[n] for n, _ in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [cosine for _, cosine in expected], atol=1e-6)


@pytest.mark.parametrize("label", ["class_2", "Class-2", " CLASS 2 "])
def test_a_label_narrows_it_and_still_fills_the_list(known, label):
    known.add(LABELS)
    allowed = [n for n, own in enumerate(LABELS) if own == "class_2"]
    assert len(allowed) == 7
    hits = search(known.layout, known.encoder, known.queries[:1], 7, label=label)
    assert [hit.record.path for hit in hits] == [f"/data/{n}.jpg" for n, _ in known.ranked(known.queries[0], allowed)]
    assert len(search(known.layout, known.encoder, known.queries[:1], 3, label=label)) == 3
    assert len(search(known.layout, known.encoder, known.queries[:1], 50, label=label)) == 7


def test_a_label_that_is_not_there(known):
    known.add(["zebra", "horse", None])
    with pytest.raises(ConfigError, match="no photo of the index has this label") as caught:
        search(known.layout, known.encoder, known.queries[:1], label="gnu")
    assert (caught.value.expected, caught.value.got) == ("one of horse, zebra", "gnu")


def test_a_label_without_any_vector(known):
    known.add(["zebra", "horse"], without_vector=[1])
    with pytest.raises(StoreError, match="no photo labeled horse has a vector"):
        search(known.layout, known.encoder, known.queries[:1], label="horse")


def test_copies_are_one_hit_and_the_image_itself_is_marked(known):
    known.add(["zebra", "horse", None])
    known.copy(0, "/data/1 again.jpg", "ass")
    known.copy(0, "/elsewhere/0.jpg", None)
    hits = search(known.layout, known.encoder, known.vectors[:1], sha256="c0")
    assert len(hits) == 3
    first = hits[0]
    assert first.label == "ass / zebra"
    assert (first.record.path, first.copies) == ("/data/0.jpg", ("/data/1 again.jpg", "/elsewhere/0.jpg"))
    assert first.score == pytest.approx(1, abs=1e-6)
    assert [hit.itself for hit in hits] == [True, False, False]
    assert hits[1].copies == ()
    # A copy's label is a label of the image.
    assert search(known.layout, known.encoder, known.vectors[:1], label="ass") == [
        Hit(first.record, first.label, first.score, first.copies)
    ]


@pytest.mark.parametrize("label", [None, "cat"])
def test_no_image_is_read_but_what_is_found(known, monkeypatch, label):
    known.add(["cat", "dog"] * 10)
    for every in ("image_rows", "images", "embedded"):
        monkeypatch.setattr(EmbeddingStore, every, lambda *arguments: pytest.fail("it reads every photo"))
    assert len(search(known.layout, known.encoder, known.queries[:1], 4, label=label)) == 4


def test_a_vector_without_a_image_is_no_hit(known):
    """A build-index that was killed after a file had changed leaves one."""
    known.add(["cat"] * 3)
    with EmbeddingStore(known.layout.store) as store:
        (image, *_) = store.images()
        store.write_batch([StoredImage(image.record, "other bytes")])
    hits = search(known.layout, known.encoder, known.queries[:1], 5)
    assert sorted(hit.record.path for hit in hits) == ["/data/1.jpg", "/data/2.jpg"]


def test_an_approximate_search_is_said(known, monkeypatch):
    said: list[str] = []
    known.add(["cat"] * 40)
    search(known.layout, known.encoder, known.queries[:1], say=said.append)
    assert said == []
    monkeypatch.setattr("hybrid.index.faiss_build.EXACT_UP_TO", 39)
    monkeypatch.setattr("hybrid.index.ivf.MIN_RECALL", 0.0)
    known.layout.neighbors.unlink()
    search(known.layout, known.encoder, known.queries[:1], say=said.append)
    assert [line.partition(":")[0] for line in said] == ["approximate search"]


def test_one_image(known):
    known.add(["zebra"])
    assert [hit.record.path for hit in search(known.layout, known.encoder, known.queries[:1])] == ["/data/0.jpg"]


def test_no_index_an_empty_one_and_one_of_another_encoder(known):
    with pytest.raises(StoreError, match="there is no index at"):
        search(known.layout, known.encoder, known.queries[:1])
    assert not known.layout.store.exists()
    EmbeddingStore(known.layout.store).close()
    with pytest.raises(StoreError, match="the index is empty") as caught:
        search(known.layout, known.encoder, known.queries[:1])
    assert "build-index" in caught.value.fix
    known.add(["zebra"])
    known.encoder.fingerprint = "another"
    with pytest.raises(StoreError, match="no vectors of this encoder in this precision"):
        search(known.layout, known.encoder, known.queries[:1])


@pytest.mark.parametrize("count", [0, -1])
def test_a_search_for_nothing_is_refused(known, count):
    known.add(["zebra"])
    with pytest.raises(StoreError, match="must ask for photos"):
        search(known.layout, known.encoder, known.queries[:1], count)


# Queries


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zebra", ("zebra", "a photo of a zebra.", "the zebra")),
        ("a striped horse", ("a striped horse", "a photo of a striped horse.", "the striped horse")),
        ("An  ape ", ("An ape", "a photo of a ape.", "the ape")),
        ("the sea", ("the sea", "a photo of a sea.")),
        ("sea_horse", ("sea_horse", "a photo of a sea horse.", "the sea horse")),
        ("a", ("a", "a photo of a a.", "the a")),
        ("anteater {}", ("anteater {}", "a photo of a anteater {}.", "the anteater {}")),
    ],
)
def test_the_texts_of_a_query(text, expected):
    assert query_texts(text, Templates("mine", (*SIMPLE.texts, "the {}"))) == expected


@pytest.mark.parametrize("text", ["", " \t "])
def test_a_blank_text(text):
    with pytest.raises(ConfigError, match="blank"):
        query_texts(text, SIMPLE)


class Words:
    """Embeds a text by a seed made of it."""

    uses_templates = True

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
            row = np.random.default_rng(seed).normal(size=6)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, dtype=np.float32)


def test_a_text_is_the_mean_of_its_sentences_at_unit_norm():
    query = text_query(Words(), "a zebra", SIMPLE)
    mean = Words().encode_texts(["a zebra", "a photo of a zebra."]).astype(np.float64).mean(axis=0)
    assert query.shape == (1, 6)
    assert query.dtype == np.float32
    np.testing.assert_allclose(query[0], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.fixture
def precomputed(tmp_path, image):
    image(0).save(tmp_path / "known.png")
    image(1).save(tmp_path / "unknown.png")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "vectors.npz",
        path=np.array(["known.png"]),
        embedding=rng.normal(size=(1, 8)),
        text=np.array(["sea horse"]),
        text_embedding=rng.normal(size=(1, 8)),
        logit_scale=np.array(100.0),
    )
    return load_encoder(EncoderSettings(model=f"precomputed:{tmp_path / 'vectors.npz'}"))


def test_precomputed_vectors_know_their_names_alone(precomputed, tmp_path):
    vector = np.load(tmp_path / "vectors.npz", allow_pickle=False)["text_embedding"]
    query = text_query(precomputed, "Sea_Horse", SIMPLE)
    np.testing.assert_allclose(query, vector / np.linalg.norm(vector), atol=1e-6)
    with pytest.raises(EncoderError, match="none of this text") as caught:
        text_query(precomputed, "a striped horse", SIMPLE)
    assert caught.value.got == "a striped horse"
    assert "--image" in caught.value.fix


def test_precomputed_vectors_know_their_images_alone(precomputed, tmp_path):
    known, unknown = (scan([tmp_path / name], labeled=False).records[0] for name in ("known.png", "unknown.png"))
    assert image_query(precomputed, known).embedding.shape == (1, 8)
    with pytest.raises(EncoderError, match="has no vector for 1 of 1 photos"):
        image_query(precomputed, unknown)


def test_a_image_query(clip_folder, tmp_path, image):
    encoder = load_encoder(EncoderSettings(model=str(clip_folder), precision="fp32"), "cpu")
    image(3).save(tmp_path / "one.png")
    record = scan([tmp_path / "one.png"], labeled=False).records[0]
    query = image_query(encoder, record)
    np.testing.assert_array_equal(query.embedding, encoder.encode_images([encoder.prepare(image(3), record)]))
    assert query.sha256 == hashlib.sha256((tmp_path / "one.png").read_bytes()).hexdigest()
    assert query.image.size == image(3).size


def test_a_image_is_checked_before_it_is_encoded(tmp_path, image):
    class Choosy:
        def check(self, records):
            raise EncoderError("not this one")

    image(3).save(tmp_path / "one.png")
    with pytest.raises(EncoderError, match="not this one"):
        image_query(Choosy(), scan([tmp_path / "one.png"], labeled=False).records[0])


def test_images_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no photo")
    record = scan([tmp_path / "bad.png"], labeled=False).records[0]
    with pytest.raises(UnreadableImageError, match=r"cannot read .*bad\.png"):
        image_query(Words(), record)
    (tmp_path / "bad.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"cannot read .*bad\.png"):
        image_query(Words(), record)
