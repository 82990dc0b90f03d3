"""What experts are given: the check's refusals, means, the gap between texts and images, who stands in for whom."""

import numpy as np
import pytest

from hybrid.errors import FewShotError
from hybrid.gate.few_shot.base import FewShotExpert, check_shots, unit

HALF = np.sqrt(0.5)
NO_TEXT = [np.nan, np.nan]


class Nearest(FewShotExpert):
    """The smallest expert there is."""

    def _fit(self, shots):
        self.texts_ = shots.full_texts

    def _logits(self, embeddings):
        return self.logit_scale * embeddings @ self.texts_.T


def shots_of(images, labels, texts):
    return check_shots(np.array(images, np.float32).reshape(-1, 2), np.array(labels, int), np.array(texts, np.float32))


def test_counts_and_means():
    shots = shots_of([[1, 0], [0, 1], [-1, 0]], [2, 2, 0], [[1, 0], [0, 1], NO_TEXT])
    assert shots.counts.tolist() == [1, 0, 2]
    assert shots.support.tolist() == [True, False, True]
    assert shots.named.tolist() == [True, True, False]
    np.testing.assert_array_equal(shots.means, [[-1, 0], [np.nan, np.nan], [0.5, 0.5]])
    np.testing.assert_array_equal(shots.one_hot, [[0, 0, 1], [0, 0, 1], [1, 0, 0]])
    assert shots.embeddings.dtype == shots.texts.dtype == np.float64


def test_the_gap_is_of_the_classes_that_have_both():
    """Class 0 has both: text (0, 1), mean image (1, 0). Class 1 has a text, class 2 images."""
    shots = shots_of([[1, 0], [HALF, HALF], [HALF, -HALF]], [0, 2, 2], [[0, 1], [-1, 0], NO_TEXT])
    np.testing.assert_array_equal(shots.modality_gap, [-1, 1])
    np.testing.assert_allclose(shots.full_means, [[1, 0], [0, -1], [HALF, 0]], atol=1e-7)
    moved = np.array([HALF - 1, 1])
    np.testing.assert_allclose(shots.full_texts, [[0, 1], [-1, 0], moved / np.linalg.norm(moved)], atol=1e-7)


@pytest.mark.filterwarnings("error")
def test_what_has_no_gap_or_no_direction():
    # A mean over classes, not images.
    shots = shots_of([[1, 0], [1, 0], [1, 0], [0, 1]], [0, 0, 0, 1], [[0, 1], [0, 1]])
    np.testing.assert_array_equal(shots.modality_gap, [-0.5, 0.5])
    # No class has both.
    shots = shots_of([[1, 0]], [0], [NO_TEXT, [0, 1]])
    np.testing.assert_array_equal(shots.modality_gap, [0, 0])
    np.testing.assert_array_equal(shots.full_texts, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(shots.full_means, [[1, 0], [0, 1]])
    # Images that cancel out.
    shots = shots_of([[1, 0], [-1, 0]], [0, 0], [NO_TEXT])
    np.testing.assert_array_equal(shots.full_texts, [[0, 0]])
    np.testing.assert_array_equal(unit(np.array([[3.0, 4], [0, 0]])), [[0.6, 0.8], [0, 0]])
    # No image at all.
    shots = shots_of([], [], [[0, 1]])
    assert shots.counts.tolist() == [0]
    np.testing.assert_array_equal(shots.full_means, [[0, 1]])


EYE = np.eye(2, dtype=np.float32)
NANS = np.full((2, 2), np.nan, np.float32)
WRONG = {
    "embeddings have a wrong shape": ({"embeddings": EYE[0]}, "(n, d) floats"),
    "embeddings have a wrong shape or kind": ({"embeddings": np.eye(2, dtype=int)}, "int64 (2, 2)"),
    "embeddings have a wrong": ({"embeddings": EYE[:, :0]}, "float32 (2, 0)"),
    "text_embeddings have a wrong shape": ({"text_embeddings": np.eye(3, dtype=np.float32)}, "(n, 2) floats"),
    "embeddings hold rows that are not unit vectors": ({"embeddings": 2 * EYE}, "rows 0, 1, the first of length 2"),
    "embeddings hold": ({"embeddings": np.float32([[1, 0], [np.inf, 0]])}, "rows 1, the first of length inf"),
    "embeddings hold rows": ({"embeddings": np.float32([[1, 0], [np.nan, np.nan]])}, "rows 1, the first of length nan"),
    "text_embeddings hold rows": ({"text_embeddings": np.float32([[1, np.nan], [0, 1]])}, "or all NaN"),
    "text_embeddings hold": ({"text_embeddings": 0 * EYE}, "rows 0, 1, the first of length 0"),
    "labels do not fit": ({"labels": np.array([0])}, "one integer for each of the 2 photos"),
    "labels do not fit the embeddings": ({"labels": np.array([0.0, 1.0])}, "float64 (2,)"),
    "a label is not a class": ({"labels": np.array([0, 2])}, "0 to 2"),
    "a label is not": ({"labels": np.array([-1, 1])}, "-1 to 1"),
    "there is no class": ({"labels": np.zeros(2, int), "text_embeddings": EYE[:0]}, "NaN without a text"),
    "classes with neither photo nor text": ({"labels": np.ones(2, int), "text_embeddings": NANS}, "class index 0"),
}


def test_every_wrong_array_is_named():
    good = {"embeddings": EYE, "labels": np.array([0, 1]), "text_embeddings": EYE}
    for kind in (np.int8, np.uint16, np.int64):
        assert check_shots(**{**good, "labels": np.array([1, 0], kind)}).labels.tolist() == [1, 0]
    for message, (change, detail) in WRONG.items():
        with pytest.raises(FewShotError) as caught:
            check_shots(**{**good, **change})
        assert str(caught.value).startswith(message)
        assert detail in str(caught.value)


def test_fit_and_logits():
    for scale in (0, -1, np.nan, np.inf):
        with pytest.raises(FewShotError, match="wrong logit_scale"):
            Nearest(scale).fit(EYE, np.array([0, 1]), EYE)
    expert = Nearest(3.0)
    with pytest.raises(FewShotError, match="this Nearest is not fitted"):
        expert.logits(EYE)
    assert expert.fit(EYE, np.array([0, 1]), np.float32([[1, 0], [0, 1], [0, -1]])) is expert
    assert (expert.n_classes_, expert.n_features_in_) == (3, 2)
    np.testing.assert_array_equal(expert.logits(EYE), [[3, 0, 0], [0, 3, -3]])
    assert expert.logits(EYE[:0]).shape == (0, 3)
    with pytest.raises(FewShotError, match="not unit vectors"):
        expert.logits(2 * EYE)
    with pytest.raises(FewShotError, match="wrong shape"):
        expert.logits(np.eye(3, dtype=np.float32))
