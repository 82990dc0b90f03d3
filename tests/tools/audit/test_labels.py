"""Which labels are held to be wrong, and the evidence beside each, against cleanlab itself and plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from cleanlab.count import num_label_issues

from hybrid.tools.audit import labels as module
from hybrid.tools.audit.labels import LabeledContents, find_suspects, judge, to_judge
from hybrid.tools.audit.probabilities import ZeroShot

from .conftest import draw_clusters, store_image

NAMES = ["cup", "mug, tall", "pen $x$"]


@pytest.fixture
def images():
    """Three labels of ten images, of which the images 0 and 15 carry a wrong one."""
    vectors, target, centers = draw_clusters((10, 10, 10), noise=0.15, seed=1)
    target[0], target[15] = 2, 0
    rows = [store_image(f"/p/{i:02d}.jpg", NAMES[c], "train", str(i)) for i, c in enumerate(target)]
    return (
        LabeledContents([[image.record] for image in rows], [image.sha256 for image in rows], vectors),
        target,
        centers,
    )


def test_as_many_as_are_counted_of_the_lowest_self_confidence():
    listed = 0
    for seed in range(5):
        vectors, target, _ = draw_clusters((8, 9, 10, 11), noise=0.6, seed=seed)
        target[[1, 12, 20]] = [2, 3, 0]
        judged = judge(vectors, target)
        np.testing.assert_array_equal(judged.quality, judged.probabilities[np.arange(38), target])
        lowest = np.argsort(judged.quality)[: num_label_issues(target, judged.probabilities)]
        expected = [row for row in sorted(lowest) if judged.probabilities[row].argmax() != target[row]]
        assert np.flatnonzero(judged.wrong).tolist() == expected
        listed += len(expected)
    assert listed > 10


def test_a_label_that_is_the_most_probable_is_never_suspicious(images, monkeypatch):
    given, target, _ = images
    quality = module.confident_learning()[1]
    all_wrong = lambda *arrays, **options: np.ones(30, np.bool_)  # noqa: E731
    monkeypatch.setattr(module, "confident_learning", lambda: (all_wrong, quality))
    assert np.flatnonzero(judge(given.embeddings, target).wrong).tolist() == [0, 15]


def test_suspects_and_their_evidence(images):
    """Copies count once, and are named."""
    given, target, centers = images
    given.records[0].append(store_image("/q/copy.jpg", "pen $x$", "val", "0").record)
    zero_shot = ZeroShot((20 * given.embeddings @ centers.T).astype(np.float32), np.ones(3, np.bool_))
    suspects = find_suspects(given, given, zero_shot)
    assert {(s.record.path, s.label, s.suggested, s.zero_shot) for s in suspects} == {
        ("/p/00.jpg", "pen $x$", "cup", "cup"),
        ("/p/15.jpg", "cup", "mug, tall", "mug, tall"),
    }
    assert {s.record.path: s.copies for s in suspects} == {"/p/00.jpg": ("/q/copy.jpg",), "/p/15.jpg": ()}
    judged = judge(given.embeddings, target, zero_shot)
    assert [s.score for s in suspects] == sorted(judged.quality[[0, 15]].tolist())
    for suspect in suspects:
        row = int(suspect.record.path[3:5])
        assert suspect.score == judged.quality[row]
        assert suspect.probability == judged.probabilities[row].max()
        cosine = given.embeddings.astype(np.float64) @ given.embeddings[row].astype(np.float64)
        cosine[row] = -np.inf
        nearest = np.argsort(-cosine)[:5]
        assert [near.path for near in suspect.nearest] == [f"/p/{other:02d}.jpg" for other in nearest]
        assert [near.label for near in suspect.nearest] == [NAMES[target[other]] for other in nearest]
        np.testing.assert_allclose([near.similarity for near in suspect.nearest], cosine[nearest], atol=1e-6)


def test_zero_shot_speaks_of_the_labels_that_it_can_name(images):
    given, _, centers = images
    named = np.array([False, True, True])
    suspects = find_suspects(given, given, ZeroShot(20 * given.embeddings @ centers[named].T, named))
    assert {s.record.path: s.zero_shot for s in suspects}["/p/15.jpg"] == "mug, tall"
    assert {s.zero_shot for s in suspects} <= {"mug, tall", "pen $x$"}
    assert {s.zero_shot for s in find_suspects(given, given)} == {None}
    right = given.take([row for row in range(30) if row not in (0, 15)])
    assert find_suspects(right, right) == []


def labeled(*contents):
    """Contents as lists of labels of their copies."""
    rows = [
        [store_image(f"/p/{content}-{copy}.jpg", label, None, str(content)) for copy, label in enumerate(labels)]
        for content, labels in enumerate(contents)
    ]
    vectors = np.eye(len(contents), dtype=np.float32)
    return LabeledContents([[image.record for image in row] for row in rows], [row[0].sha256 for row in rows], vectors)


def test_what_is_left_out_is_noted():
    given = labeled(["a"], ["a", "a"], ["a"], ["b"], ["b"], ["b"], ["b", "a"], ["c"], ["c"], ["dgo"])
    judged, notes = to_judge(given)
    assert judged.labels == ["a", "a", "a", "b", "b", "b"]
    assert judged.hashes == given.hashes[:6]
    np.testing.assert_array_equal(judged.embeddings, given.embeddings[:6])
    assert notes == (
        "labels: 1 photo not judged, whose copies carry several labels",
        "labels: 2 not judged, with fewer than 3 photos each: c, dgo",
    )


def test_too_little_to_judge():
    for contents in ([["a"]] * 5, [["a"]] * 5 + [["b"]] * 2, [["a"]], [["a", "b"]] * 9, []):
        judged, notes = to_judge(labeled(*contents))
        assert judged.hashes == judged.records == []
        assert notes[-1] == "labels: none is judged; needed are two with 3 photos or more each"
