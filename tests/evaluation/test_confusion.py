"""Confusion matrix, per-class figures and worst pairs against sklearn and a plain count; the heat map's layout."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import precision_recall_fscore_support

from hybrid.errors import MetricError
from hybrid.evaluation.confusion import (
    MAX_CLASSES,
    ClassScores,
    confusion_matrix,
    lay_out,
    per_class_scores,
    worst_confusions,
)

NAMES = ("ant", "bee", "cat")
COUNTS = np.array([[3, 1, 0], [0, 0, 2], [0, 0, 4]])


@pytest.mark.parametrize("seed", range(5))
def test_matrix_scores_and_worst_pairs_equal_sklearn_and_a_plain_count(seed):
    """The last class is never predicted, the last two have no images."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 6, 400)
    predicted = np.where(rng.random(400) < 0.6, target, rng.integers(0, 7, 400))
    confusion = confusion_matrix(predicted, target, 8)
    np.testing.assert_array_equal(confusion, sklearn_confusion(target, predicted, labels=range(8)))
    assert confusion.dtype == np.int64
    oracle = precision_recall_fscore_support(target, predicted, labels=range(8), zero_division=np.nan)
    scores = per_class_scores(confusion)
    ours = [[s.precision, s.recall, s.f1, s.support] for s in scores]
    np.testing.assert_allclose(np.array(ours, dtype=float), np.array(oracle).T)
    assert [s.predicted for s in scores] == np.bincount(predicted, minlength=8).tolist()
    pairs = Counter((int(t), int(p)) for t, p in zip(target, predicted, strict=True) if t != p)
    worst = sorted(((*pair, count) for pair, count in pairs.items()), key=lambda row: (-row[2], row[0], row[1]))
    assert worst_confusions(confusion, 1000) == worst
    assert worst_confusions(confusion, 3) == worst[:3]


def test_by_hand_and_without_mistakes_or_images():
    scores = per_class_scores(np.array([[3, 1, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert scores[0] == ClassScores(precision=1.0, recall=0.75, f1=pytest.approx(6 / 7), support=4, predicted=3)
    assert scores[1] == ClassScores(precision=0.0, recall=0.0, f1=0.0, support=2, predicted=1)
    assert scores[2] == ClassScores(precision=None, recall=None, f1=None, support=0, predicted=0)
    assert scores[3] == ClassScores(precision=0.0, recall=None, f1=0.0, support=0, predicted=2)
    nothing = np.array([], dtype=int)
    assert worst_confusions(np.diag([3, 2]), 5) == []
    assert confusion_matrix(nothing, nothing, 2).tolist() == [[0, 0], [0, 0]]


def test_impossible_input_is_refused():
    for predicted, target in (
        ([0, 2], [0, 1]),
        ([-1, 0], [0, 1]),
        ([0, 1], [0, 2]),
        ([0], [0, 1]),
        ([0.0, 1.0], [0, 1]),
    ):
        with pytest.raises(MetricError):
            confusion_matrix(np.array(predicted), np.array(target), 2)
    for shape in ((2, 3), (4,)):
        with pytest.raises(MetricError, match="not a confusion matrix"):
            per_class_scores(np.zeros(shape, dtype=np.int64))
        with pytest.raises(MetricError, match="not a confusion matrix"):
            worst_confusions(np.zeros(shape, dtype=np.int64), 3)


def test_every_pair_that_occurs_is_a_cell_in_its_place_and_labels_stand_at_their_rows():
    found = lay_out(COUNTS, NAMES, 2)
    places = {((c.y - found.margin) // found.cell, (c.x - found.margin) // found.cell): c for c in found.cells}
    assert {place: cell.count for place, cell in places.items()} == {(0, 0): 3, (0, 1): 1, (1, 2): 2, (2, 2): 4}
    assert [places[k].share for k in ((0, 0), (0, 1), (1, 2))] == [0.75, 0.25, 1.0]
    assert [places[k].right for k in ((0, 0), (0, 1), (1, 2), (2, 2))] == [True, False, False, True]
    assert places[0, 1].title == "ant: 1 of 4 photos predicted as bee (25%)"
    assert places[2, 2].title == "cat: 4 of 4 photos right (100%)"
    assert all((c.x - found.margin) % found.cell == 0 == (c.y - found.margin) % found.cell for c in found.cells)
    assert found.size > found.margin + 3 * found.cell
    assert [label.unseen for label in found.labels] == [False, False, True]
    assert [label.title for label in found.labels] == ["ant (seen)", "bee (seen)", "cat (unseen)"]
    assert [label.middle for label in found.labels] == [found.margin + (k + 0.5) * found.cell for k in range(3)]
    assert found.border == found.margin + 2 * found.cell
    assert [lay_out(COUNTS, NAMES, seen).border for seen in (0, 3)] == [None, None]


def test_long_names_are_cut_and_wide_letters_get_room():
    found = lay_out(np.eye(2, dtype=int), ("x" * 80, "y"), 2)
    assert len(found.labels[0].text) == 26
    assert found.labels[0].title.startswith("x" * 80)
    narrow, wide = (lay_out(np.eye(1, dtype=int), (name,), 1).margin for name in ("abcd", "長頸鹿鹿"))
    assert wide > narrow


def test_seventy_classes_are_readable_and_of_more_those_with_the_most_mistakes_are_shown_in_order():
    found = lay_out(np.eye(70, dtype=int), [f"class {k}" for k in range(70)], 53)
    assert found.size < 1000
    assert found.font > 9
    assert found.hidden == 0
    classes = MAX_CLASSES + 30
    confusion = 5 * np.eye(classes, dtype=int)
    confusion[140, 2] = confusion[7, 145] = 3
    found = lay_out(confusion, [f"c{k}" for k in range(classes)], 125)
    assert found.hidden == 30
    shown = [label.text for label in found.labels]
    assert len(shown) == MAX_CLASSES
    assert {"c2", "c7", "c140", "c145"} <= set(shown)
    assert shown == sorted(shown, key=lambda name: int(name[1:]))
    assert found.border == found.margin + sum(int(name[1:]) < 125 for name in shown) * found.cell
    assert "c7: 3 of 8 photos predicted as c145 (38%)" in {cell.title for cell in found.cells}
