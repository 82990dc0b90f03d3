"""Confusion matrix and per-class figures against sklearn and torchmetrics, the worst pairs against a plain count."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_confusion_matrix

from hybrid.errors import MetricError
from hybrid.evaluation.confusion import ClassScores, confusion_matrix, per_class_scores, worst_confusions

SEEDS = range(5)


def draw(seed: int, images: int = 120, classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Draw predictions and targets; the last class is never predicted, the last two have no images."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes - 2, images)
    predicted = np.where(rng.random(images) < 0.6, target, rng.integers(0, classes - 1, images))
    return predicted, target


@pytest.mark.parametrize("seed", SEEDS)
def test_matrix_equals_sklearn_and_torchmetrics(seed):
    predicted, target = draw(seed)
    ours = confusion_matrix(predicted, target, 8)
    np.testing.assert_array_equal(ours, sklearn_confusion(target, predicted, labels=range(8)))
    oracle = multiclass_confusion_matrix(torch.tensor(predicted), torch.tensor(target), num_classes=8)
    np.testing.assert_array_equal(ours, oracle.numpy())
    assert ours.dtype == np.int64


@pytest.mark.parametrize("seed", SEEDS)
def test_per_class_scores_equal_sklearn(seed):
    predicted, target = draw(seed)
    oracle = precision_recall_fscore_support(target, predicted, labels=range(8), zero_division=np.nan)
    scores = per_class_scores(confusion_matrix(predicted, target, 8))
    ours = [[s.precision, s.recall, s.f1, s.support] for s in scores]
    np.testing.assert_allclose(np.array(ours, dtype=float), np.array(oracle).T)
    assert [s.predicted for s in scores] == np.bincount(predicted, minlength=8).tolist()


def test_per_class_scores_by_hand():
    scores = per_class_scores(np.array([[3, 1, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert scores[0] == ClassScores(precision=1.0, recall=0.75, f1=pytest.approx(6 / 7), support=4, predicted=3)
    assert scores[1] == ClassScores(precision=0.0, recall=0.0, f1=0.0, support=2, predicted=1)
    assert scores[2] == ClassScores(precision=None, recall=None, f1=None, support=0, predicted=0)
    assert scores[3] == ClassScores(precision=0.0, recall=None, f1=0.0, support=0, predicted=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_worst_confusions_are_those_of_a_plain_count(seed):
    predicted, target = draw(seed, images=400)
    pairs = Counter((int(t), int(p)) for t, p in zip(target, predicted, strict=True) if t != p)
    oracle = sorted(((*pair, count) for pair, count in pairs.items()), key=lambda row: (-row[2], row[0], row[1]))
    confusion = confusion_matrix(predicted, target, 8)
    assert worst_confusions(confusion, 1000) == oracle
    assert worst_confusions(confusion, 3) == oracle[:3]


def test_without_mistakes_and_without_images():
    nothing = np.array([], dtype=int)
    assert worst_confusions(np.diag([3, 2]), 5) == []
    assert confusion_matrix(nothing, nothing, 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("predicted", "target"),
    [([0, 2], [0, 1]), ([-1, 0], [0, 1]), ([0, 1], [0, 2]), ([0], [0, 1]), ([0.0, 1.0], [0, 1])],
)
def test_impossible_input_is_refused(predicted, target):
    with pytest.raises(MetricError):
        confusion_matrix(np.array(predicted), np.array(target), 2)


@pytest.mark.parametrize("shape", [(2, 3), (4,)])
def test_only_a_square_matrix_is_taken(shape):
    with pytest.raises(MetricError, match="not a confusion matrix"):
        per_class_scores(np.zeros(shape, dtype=np.int64))
    with pytest.raises(MetricError, match="not a confusion matrix"):
        worst_confusions(np.zeros(shape, dtype=np.int64), 3)
