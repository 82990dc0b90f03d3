"""The nearest labeled images, held against a plain search in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.errors import StoreError
from hybrid.index.store import EmbeddingStore
from hybrid.prediction import Neighbor, Prediction
from hybrid.run import neighbors as module
from hybrid.run.neighbors import LabeledNeighbors, Near, with_neighbors

LABELS = [None if n % 3 == 0 else f"class {n % 4}" for n in range(40)]
LABELED = [n for n, label in enumerate(LABELS) if label]


def found(near):
    assert [record.path for record in near.records] == [image.path for image in near.neighbors]
    return [(image.path, image.label) for image in near.neighbors]


def test_a_batch_against_numpy(known):
    finder = LabeledNeighbors(known.add(LABELS).layout, known.encoder)
    for count in (1, 5, 27, 90):
        near = finder.nearest(known.queries, ["other"] * 7, count)
        assert len(near) == 7
        for query, one in zip(known.queries, near, strict=True):
            expected = known.ranked(query, LABELED)[:count]
            assert found(one) == [(f"/data/{n}.jpg", LABELS[n]) for n, _ in expected]
            similarities = [p.similarity for p in one.neighbors]
            assert all(isinstance(similarity, float) for similarity in similarities)
            np.testing.assert_allclose(similarities, [cosine for _, cosine in expected], atol=1e-6)
            assert one.notes == ()
    # An image is left out of its own neighbors alone.
    near = finder.nearest(known.vectors[:3], ["c0", "c1", "c2"], 4)
    for number, one in enumerate(near):
        others = [n for n in LABELED if n != number]
        assert found(one) == [(f"/data/{n}.jpg", LABELS[n]) for n, _ in known.ranked(known.vectors[number], others)[:4]]
    # Image 0 has no label: it stands in nobody's way.
    assert [bool(one.notes) for one in near] == [False, True, True]
    assert near[1].notes == ("the photo itself is in the index and is left out of its nearest",)
    # An encoder that did not run is said.
    assert finder.missing is None
    assert finder.nearest(None, ["a"])[0] == Near((), (), ("no nearest photos: the encoder did not run",))
    with pytest.raises(StoreError, match="do not fit the index"):
        finder.nearest(np.zeros((1, 3), np.float32), ["a"])


@pytest.mark.parametrize("labels", [LABELS, ["cat"] * 12], ids=["some labeled", "all labeled"])
def test_the_index_is_opened_once_and_no_image_is_read_but_what_is_found(known, monkeypatch, labels):
    opened, looked_up = [], []
    open_index, images_with = module.open_index, EmbeddingStore.images_with
    monkeypatch.setattr(module, "open_index", lambda *arguments: opened.append(1) or open_index(*arguments))
    for every in ("image_rows", "images", "embedded"):
        monkeypatch.setattr(EmbeddingStore, every, lambda *arguments: pytest.fail("it reads every photo"))
    monkeypatch.setattr(
        EmbeddingStore, "images_with", lambda store, hashes: looked_up.append(len(hashes)) or images_with(store, hashes)
    )
    finder = LabeledNeighbors(known.add(labels).layout, known.encoder)
    first = finder.nearest(known.queries[:3], ["other"] * 3, 1)
    assert finder.nearest(known.queries, ["other"] * 7, 1)[:3] == first
    assert len(opened) == 1
    assert max(looked_up) <= 7 * 2 + 1


def test_what_the_index_says_of_its_search_is_passed_on(known, monkeypatch):
    assert LabeledNeighbors(known.add(LABELS).layout, known.encoder).notes == ()
    monkeypatch.setattr("hybrid.index.faiss_build.EXACT_UP_TO", 11)
    monkeypatch.setattr("hybrid.index.ivf.MIN_RECALL", 0.0)
    known.layout.neighbors.unlink()
    (line,) = LabeledNeighbors(known.layout, known.encoder).notes
    assert line.startswith("approximate search: 1 of ")


def test_labels_of_copies(known):
    known.add(["zebra", None])
    near = LabeledNeighbors(known.layout, known.encoder).nearest(known.vectors[:1], ["c0"])[0]
    assert near.neighbors == ()
    assert near.notes[-1] == "no nearest photos: the index holds no other labeled photo"
    finder = LabeledNeighbors(known.add(["zebra", "horse", None]).layout, known.encoder)
    known.copy(0, "/data/0.jpg", None)
    (near,) = finder.nearest(known.queries[:1], [""])
    assert [image.label for image in near.neighbors] == ["horse"], "a label taken away since shows nothing"
    known.add(["zebra", "horse", None])
    known.copy(0, "/data/0 again.jpg", "ass")
    known.copy(2, "/data/2 again.jpg", "cow / bull")
    near = LabeledNeighbors(known.layout, known.encoder).nearest(known.vectors[[0, 2]], ["", ""], 1)
    assert [one.neighbors[0].label for one in near] == ["ass / zebra", "cow / bull"]
    assert [one.neighbors[0].path for one in near] == ["/data/0 again.jpg", "/data/2 again.jpg"]


@pytest.mark.parametrize(
    ("labels", "fingerprint", "without", "words"),
    [
        (None, "known", (), "the run has no index"),
        ([None, None], "known", (), "holds no labeled photo"),
        (["zebra", None], "another", (), "in another precision"),
        (["zebra", None], "known", (0,), "no labeled photo of the index has a vector"),
    ],
)
def test_why_there_are_none(known, labels, fingerprint, without, words):
    if labels is not None:
        known.add(labels, without_vector=without)
    known.encoder.fingerprint = fingerprint
    finder = LabeledNeighbors(known.layout, known.encoder)
    assert words in finder.missing
    # Nothing to find: an encoder that did not run is no hindrance.
    for embeddings in (known.queries, None):
        near = finder.nearest(embeddings, ["a"] * 7)
        assert near == [Near((), (), (finder.missing,))] * 7


def test_into_predictions(known):
    finder = LabeledNeighbors(known.add(["zebra", "horse"]).layout, known.encoder)
    near = finder.nearest(known.vectors[:2], ["c0", "c1"])
    plain = [Prediction(path, "zebra", 1.0, True, None, "head", (), None, None) for path in "ab"]
    made = with_neighbors(plain, near)
    cosine = float(known.vectors[0] @ known.vectors[1])
    assert [p.path for p in made] == ["a", "b"]
    assert made[0].neighbors == (Neighbor("/data/1.jpg", "horse", "train", pytest.approx(cosine, abs=1e-6)),)
    assert made[1].neighbors[0].label == "zebra"
    assert plain[0].neighbors is None
    nothing = with_neighbors(plain[:1], [Near((), (), ("why",))])
    assert nothing[0].neighbors == ()
    with pytest.raises(ValueError, match="shorter"):
        with_neighbors(plain, near[:1])
