"""The nearest labeled images, held against a plain search in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.errors import StoreError
from hybrid.index.store import EmbeddingStore
from hybrid.prediction import Neighbor, Prediction
from hybrid.tools.search import neighbors as module
from hybrid.tools.search.neighbors import LabeledNeighbors, Near, NearImage, with_neighbors

LABELS = [None if n % 3 == 0 else f"class {n % 4}" for n in range(40)]
LABELED = [n for n, label in enumerate(LABELS) if label]


def found(near):
    return [(image.record.path, image.label) for image in near.images]


@pytest.mark.parametrize("count", [1, 5, 27, 90])
def test_a_batch_against_numpy(world, queries, count):
    near = LabeledNeighbors(world.add(LABELS).layout, world.encoder).nearest(queries, ["other"] * 7, count)
    assert len(near) == 7
    for query, one in zip(queries, near, strict=True):
        expected = world.ranked(query, LABELED)[:count]
        assert found(one) == [(f"/data/{n}.jpg", LABELS[n]) for n, _ in expected]
        np.testing.assert_allclose([p.similarity for p in one.images], [cosine for _, cosine in expected], atol=1e-6)
        assert one.notes == ()
    assert all(isinstance(p.similarity, float) for one in near for p in one.images)


def test_a_image_is_left_out_of_its_own_neighbors_alone(world):
    near = LabeledNeighbors(world.add(LABELS).layout, world.encoder).nearest(world.vectors[:3], ["c0", "c1", "c2"], 4)
    for number, one in enumerate(near):
        others = [n for n in LABELED if n != number]
        assert found(one) == [(f"/data/{n}.jpg", LABELS[n]) for n, _ in world.ranked(world.vectors[number], others)[:4]]
    # Image 0 has no label: it stands in nobody's way.
    assert [bool(one.notes) for one in near] == [False, True, True]
    assert near[1].notes == ("the photo itself is in the index and is left out of its nearest",)


@pytest.mark.parametrize("labels", [LABELS, ["cat"] * 12], ids=["some labeled", "all labeled"])
def test_the_index_is_opened_once_and_no_image_is_read_but_what_is_found(world, queries, monkeypatch, labels):
    opened, looked_up = [], []
    open_index, images_with = module.open_index, EmbeddingStore.images_with
    monkeypatch.setattr(module, "open_index", lambda *arguments: opened.append(1) or open_index(*arguments))
    for every in ("photo_rows", "iter_photos", "photos", "embedded"):
        monkeypatch.setattr(EmbeddingStore, every, lambda *arguments: pytest.fail("it reads every photo"))
    monkeypatch.setattr(
        EmbeddingStore, "images_with", lambda store, hashes: looked_up.append(len(hashes)) or images_with(store, hashes)
    )
    finder = LabeledNeighbors(world.add(labels).layout, world.encoder)
    first = finder.nearest(queries[:3], ["other"] * 3, 1)
    assert finder.nearest(queries, ["other"] * 7, 1)[:3] == first
    assert len(opened) == 1
    assert max(looked_up) <= 7 * 2 + 1


def test_a_label_that_was_taken_away_since_shows_nothing(world, queries):
    finder = LabeledNeighbors(world.add(["zebra", "horse"]).layout, world.encoder)
    world.copy(0, "/data/0.jpg", None)
    near = finder.nearest(queries[:1], [""])[0]
    assert [image.label for image in near.images] == ["horse"]


def test_what_the_index_says_of_its_search_is_passed_on(world, monkeypatch):
    assert LabeledNeighbors(world.add(LABELS).layout, world.encoder).notes == ()
    monkeypatch.setattr("hybrid.index.faiss_build.EXACT_UP_TO", 11)
    monkeypatch.setattr("hybrid.index.ivf.RECALL", 0.0)
    world.layout.neighbors.unlink()
    (line,) = LabeledNeighbors(world.layout, world.encoder).notes
    assert line.startswith("approximate search: 1 of ")


def test_labels_of_copies(world):
    world.add(["zebra", "horse", None])
    world.copy(0, "/data/0 again.jpg", "ass")
    world.copy(2, "/data/2 again.jpg", "cow / bull")
    near = LabeledNeighbors(world.layout, world.encoder).nearest(world.vectors[[0, 2]], ["", ""], 1)
    assert [one.images[0].label for one in near] == ["ass / zebra", "cow / bull"]
    assert [one.images[0].record.path for one in near] == ["/data/0 again.jpg", "/data/2 again.jpg"]


def test_the_only_labeled_image_has_no_other(world):
    near = LabeledNeighbors(world.add(["zebra", None]).layout, world.encoder).nearest(world.vectors[:1], ["c0"])[0]
    assert near.images == ()
    assert near.notes[-1] == "no nearest photos: the index holds no other labeled photo"


@pytest.mark.parametrize(
    ("labels", "fingerprint", "without", "words"),
    [
        (None, "known", (), "the run has no index"),
        ([None, None], "known", (), "holds no labeled photo"),
        (["zebra", None], "another", (), "in another precision"),
        (["zebra", None], "known", (0,), "no labeled photo of the index has a vector"),
    ],
)
def test_why_there_are_none(world, queries, labels, fingerprint, without, words):
    if labels is not None:
        world.add(labels, without_vector=without)
    world.encoder.fingerprint = fingerprint
    finder = LabeledNeighbors(world.layout, world.encoder)
    assert words in finder.missing
    # Nothing to find: an encoder that did not run is no hindrance.
    for embeddings in (queries, None):
        near = finder.nearest(embeddings, ["a"] * 7)
        assert near == [Near((), (finder.missing,))] * 7


def test_an_encoder_that_did_not_run_is_said(world):
    finder = LabeledNeighbors(world.add(LABELS).layout, world.encoder)
    assert finder.missing is None
    assert finder.nearest(None, ["a"])[0] == Near((), ("no nearest photos: the encoder did not run",))


def test_vectors_of_another_length_are_refused(world):
    finder = LabeledNeighbors(world.add(LABELS).layout, world.encoder)
    with pytest.raises(StoreError, match="do not fit the index"):
        finder.nearest(np.zeros((1, 3), np.float32), ["a"])


def test_into_predictions(world):
    finder = LabeledNeighbors(world.add(["zebra", "horse"]).layout, world.encoder)
    near = finder.nearest(world.vectors[:2], ["c0", "c1"])
    plain = [Prediction(path, "zebra", 1.0, True, None, "head", (), None, None) for path in "ab"]
    made = with_neighbors(plain, near)
    cosine = float(world.vectors[0] @ world.vectors[1])
    assert [p.path for p in made] == ["a", "b"]
    assert made[0].neighbors == (Neighbor("/data/1.jpg", "horse", "train", pytest.approx(cosine, abs=1e-6)),)
    assert made[1].neighbors[0].label == "zebra"
    assert plain[0].neighbors is None
    nothing = with_neighbors(plain[:1], [Near((), ("why",))])
    assert nothing[0].neighbors == ()
    with pytest.raises(ValueError, match="shorter"):
        with_neighbors(plain, near[:1])
    assert isinstance(near[0].images[0], NearImage)
