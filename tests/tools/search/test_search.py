"""Queries and hits, held against a plain search in numpy; what the contact sheet shows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.errors import ConfigError, EncoderError, StoreError, UnreadableImageError
from hybrid.images.records import ImageRecord
from hybrid.images.sources import scan
from hybrid.index.neighbors import open_index
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.labels.prompts import Templates, load_templates
from hybrid.tools.search import search as module
from hybrid.tools.search.search import Hit, KeptIndex, image_query, query_texts, search, text_query

LABELS = [None if n % 3 == 0 else f"class_{n % 4}" for n in range(40)]
SIMPLE = load_templates("simple")


def test_ranking_against_numpy(known):
    known.add(LABELS)
    for query, count in zip(known.queries[:4], (1, 6, 40, 99), strict=True):
        hits = search(known.layout, known.encoder, query[None], count)
        expected = known.ranked(query, range(40))[:count]
        assert [hit.record.path for hit in hits] == [f"/data/{n}.jpg" for n, _ in expected]
        assert [hit.label for hit in hits] == [LABELS[n] for n, _ in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [cosine for _, cosine in expected], atol=1e-6)


def test_a_kept_index_is_opened_again_only_for_another_store(known, monkeypatch):
    known.add(LABELS)
    opened, kept = [], KeptIndex()

    def counted(store, *rest):
        opened.append(store.revision)
        return open_index(store, *rest)

    monkeypatch.setattr(module, "open_index", counted)
    for query in known.queries[:3]:
        hits = search(known.layout, known.encoder, query[None], 6, kept=kept)
        assert hits == search(known.layout, known.encoder, query[None], 6)
        assert len(set(opened)) == 1
    assert len(opened) == 1 + 3
    known.copy(0, "/elsewhere/0.jpg", None)
    hits = search(known.layout, known.encoder, known.vectors[:1], kept=kept)
    assert hits[0].copies == ("/elsewhere/0.jpg",)
    assert opened[-1] > opened[0]


def test_a_label_narrows_it_and_still_fills_the_list(known):
    known.add(LABELS)
    allowed = [n for n, own in enumerate(LABELS) if own == "class_2"]
    expected = [f"/data/{n}.jpg" for n, _ in known.ranked(known.queries[0], allowed)]
    assert len(expected) == 7
    for label, count in (("class_2", 7), ("Class-2", 3), (" CLASS 2 ", 50)):
        hits = search(known.layout, known.encoder, known.queries[:1], count, label=label)
        assert [hit.record.path for hit in hits] == expected[:count]


def test_a_label_that_is_not_there_or_has_no_vector(known):
    known.add(["zebra", "horse"], without_vector=[1])
    with pytest.raises(ConfigError, match="no photo of the index has this label") as caught:
        search(known.layout, known.encoder, known.queries[:1], label="gnu")
    assert (caught.value.expected, caught.value.got) == ("one of horse, zebra", "gnu")
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


def test_no_record_is_read_but_of_what_is_found(known, monkeypatch):
    known.add(["cat", "dog"] * 10)
    for every in ("image_rows", "images", "embedded"):
        monkeypatch.setattr(EmbeddingStore, every, lambda *arguments: pytest.fail("it reads every photo"))
    for label in (None, "cat"):
        assert len(search(known.layout, known.encoder, known.queries[:1], 4, label=label)) == 4


def test_a_vector_without_an_image_is_not_a_hit(known):
    """A build-index that was killed after a file had changed leaves one."""
    known.add(["cat"] * 3)
    with EmbeddingStore(known.layout.store) as store:
        (image, *_) = store.images()
        store.write_batch([StoredImage(image.record, "other bytes")])
    hits = search(known.layout, known.encoder, known.queries[:1], 5)
    assert sorted(hit.record.path for hit in hits) == ["/data/1.jpg", "/data/2.jpg"]


def test_an_approximate_search_is_said(known, monkeypatch):
    lines: list[str] = []
    known.add(["cat"] * 40)
    search(known.layout, known.encoder, known.queries[:1], say=lines.append)
    assert lines == []
    monkeypatch.setattr("hybrid.index.faiss_build.EXACT_UP_TO", 39)
    monkeypatch.setattr("hybrid.index.ivf.MIN_RECALL", 0.0)
    known.layout.neighbors.unlink()
    search(known.layout, known.encoder, known.queries[:1], say=lines.append)
    assert [line.partition(":")[0] for line in lines] == ["approximate search"]


def test_no_index_an_empty_one_and_one_of_another_encoder(known):
    with pytest.raises(StoreError, match="there is no index at"):
        search(known.layout, known.encoder, known.queries[:1])
    assert not known.layout.store.exists()
    EmbeddingStore(known.layout.store).close()
    with pytest.raises(StoreError, match="the index is empty") as caught:
        search(known.layout, known.encoder, known.queries[:1])
    assert "build-index" in caught.value.fix
    known.add(["zebra"])
    assert [hit.record.path for hit in search(known.layout, known.encoder, known.queries[:1])] == ["/data/0.jpg"]
    for count in (0, -1):
        with pytest.raises(StoreError, match="must ask for photos"):
            search(known.layout, known.encoder, known.queries[:1], count)
    known.encoder.fingerprint = "another"
    with pytest.raises(StoreError, match="no vectors of this encoder in this precision"):
        search(known.layout, known.encoder, known.queries[:1])


# Queries


def test_the_texts_of_a_query():
    mine = Templates("mine", (*SIMPLE.texts, "the {}"))
    for text, *expected in (
        ("zebra", "zebra", "a photo of a zebra.", "the zebra"),
        ("a striped horse", "a striped horse", "a photo of a striped horse.", "the striped horse"),
        ("An  ape ", "An ape", "a photo of a ape.", "the ape"),
        ("the sea", "the sea", "a photo of a sea."),
        ("sea_horse", "sea_horse", "a photo of a sea horse.", "the sea horse"),
        ("a", "a", "a photo of a a.", "the a"),
        ("anteater {}", "anteater {}", "a photo of a anteater {}.", "the anteater {}"),
    ):
        assert query_texts(text, mine) == tuple(expected)
    for text in ("", " \t "):
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


def test_precomputed_vectors_know_their_names_and_images_alone(tmp_path, image):
    image(0).save(tmp_path / "known.png")
    image(1).save(tmp_path / "unknown.png")
    embedding, vector = np.random.default_rng(0).normal(size=(2, 1, 8))
    names = {"path": np.array(["known.png"]), "text": np.array(["sea horse"])}
    np.savez(tmp_path / "v.npz", **names, embedding=embedding, text_embedding=vector, logit_scale=np.array(100.0))
    precomputed = load_encoder(EncoderSettings(model=f"precomputed:{tmp_path / 'v.npz'}"))
    query = text_query(precomputed, "Sea_Horse", SIMPLE)
    np.testing.assert_allclose(query, vector / np.linalg.norm(vector), atol=1e-6)
    with pytest.raises(EncoderError, match="none of this text") as caught:
        text_query(precomputed, "a striped horse", SIMPLE)
    assert caught.value.got == "a striped horse"
    assert "--image" in caught.value.fix

    known, unknown = (scan([tmp_path / name], labeled=False).records[0] for name in ("known.png", "unknown.png"))
    assert image_query(precomputed, known).embedding.shape == (1, 8)
    with pytest.raises(EncoderError, match="has no vector for 1 of 1 photos"):
        image_query(precomputed, unknown)


def test_an_image_query(clip_folder, tmp_path, image):
    encoder = load_encoder(EncoderSettings(model=str(clip_folder), precision="fp32"), "cpu")
    image(3).save(tmp_path / "one.png")
    record = scan([tmp_path / "one.png"], labeled=False).records[0]
    query = image_query(encoder, record)
    np.testing.assert_array_equal(query.embedding, encoder.encode_images([encoder.prepare(image(3), record)]))
    assert query.sha256 == hashlib.sha256((tmp_path / "one.png").read_bytes()).hexdigest()
    assert query.image.size == image(3).size
    (tmp_path / "one.png").write_bytes(b"not an image")
    for _ in ("damaged", "missing"):
        with pytest.raises(UnreadableImageError, match=r"cannot read .*one\.png"):
            image_query(encoder, record)
        (tmp_path / "one.png").unlink(missing_ok=True)


# The contact sheet


@pytest.fixture
def drawn(monkeypatch):
    """The tiles and the title of the last sheet."""
    sheets = []
    monkeypatch.setattr(module, "draw_contact_sheet", lambda tiles, title, file: sheets.append((tiles, title)) or [])
    return lambda *given, **options: module.draw_sheet(*given, None, **options) or sheets[-1]


def hit(path="/data/zebra/1.jpg", label="zebra", **fields):
    return Hit(ImageRecord(path, "/data", label, None, 1, 1), label, 0.5, **fields)


def test_hits_in_their_order(drawn):
    tiles, title = drawn([hit(), hit("/b.png", None)], title="many words " * 9)
    assert [tile.name for tile in tiles] == ["/data/zebra/1.jpg", "/b.png"]
    assert [tile.above for tile in tiles] == ["1:  0.500\nzebra", "2:  0.500\nno label"]
    assert max(map(len, title.splitlines())) <= 48
    (tile,), _ = drawn([hit(label="a very long label " * 9)], title="t")
    assert len(tile.above.splitlines()) == 4
    assert tile.above.endswith("…")
    # The image that was searched with comes first.
    query = Image.new("RGB", (30, 60))
    (first, second), _ = drawn([hit()], title="t", query=query)
    assert first.read() is query
    assert (first.framed, second.framed) == (True, False)
    elsewhere = hit("/data/x/1.jpg", copies=("copy",), itself=True)
    tiles, _ = drawn([hit(), elsewhere], title="t")
    assert [tile.below.replace("\n", " ") for tile in tiles] == ["1.jpg", "x/1.jpg (+1 copies) (the photo itself)"]


def test_no_more_than_matplotlib_can_draw(drawn):
    tiles, _ = drawn([hit()] * (module.MOST_DRAWN + 1), title="t")
    assert len(tiles) == module.MOST_DRAWN
    assert (3.15 * (module.MOST_DRAWN + 1) / module.COLUMNS + 0.5) * 100 < 65_536
