from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from torch import nn

from hybrid.errors import HeadError
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.nets.ensemble import Ensemble, cross_validation


class Fixed(nn.Module):
    """Logits of its own, whatever the images."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.from_numpy(logits))

    def forward(self, images):
        return self.logits[: len(images)]


def test_log_of_the_mean_probabilities():
    for members in (1, 2, 5):
        logits = np.random.default_rng(0).normal(scale=3, size=(members, 4, 6))
        ensemble = Ensemble([Fixed(part.astype(np.float32)) for part in logits])
        log_p = ensemble(torch.zeros(4, 3, 8, 8)).detach().numpy()
        expected = logsumexp(log_softmax(logits, axis=2), axis=0) - np.log(members)
        np.testing.assert_allclose(log_p, expected, atol=1e-5)
        np.testing.assert_allclose(np.exp(log_p).sum(1), 1, atol=1e-5)
    # In half precision too the mean is taken in fp32, and probabilities of 0 are not NaN.
    far = np.array([[[200.0, 0.0]], [[0.0, 200.0]]], np.float32)
    log_p = Ensemble([Fixed(part) for part in far]).bfloat16()(torch.zeros(1, 3, 8, 8))
    assert log_p.dtype == torch.float32
    np.testing.assert_allclose(log_p.detach().numpy(), np.log([[0.5, 0.5]]), atol=1e-6)


# Cutting into folds


def images(counts: tuple[int, ...]) -> LabeledImages:
    """Images as letters: their hashes tell them apart, their embeddings are their places."""
    target = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(1)
    rng.shuffle(target)
    names = tuple(f"photo {number}" for number in range(len(target)))
    return LabeledImages(names, names, target, np.arange(len(target), dtype=np.float32)[:, None])


def data_of(*counts: int) -> TrainingSet:
    classes = tuple(f"class {number}" for number in range(len(counts)))
    return TrainingSet(classes, images(counts), replace(images((3,) * len(counts)), hashes=("held",) * 9), ("a note",))


def check_consistent(part: LabeledImages, whole: LabeledImages) -> None:
    rows = [whole.hashes.index(name) for name in part.hashes]
    assert part.records == tuple(whole.records[row] for row in rows)
    assert part.target.tolist() == whole.target[rows].tolist()
    assert part.embeddings[:, 0].tolist() == rows


@pytest.mark.parametrize(("counts", "folds"), [((10, 10, 10), 5), ((9, 4, 1), 3), ((6, 1, 1), 2), ((30, 2, 7), 4)])
def test_each_image_is_validated_once(counts, folds):
    data = data_of(*counts)
    alone = {
        name for name, c in zip(data.train.hashes, data.train.target, strict=True) if counts[c] == 1
    }  # the one image of a class
    parts = cross_validation(data, folds, seed=0)
    assert len(parts) == folds
    validated = Counter(name for part in parts for name in part.val.hashes)
    assert validated == {name: 1 for name in data.train.hashes if name not in alone}
    for part in parts:
        assert set(part.train.hashes) | set(part.val.hashes) == set(data.train.hashes)
        assert not set(part.train.hashes) & set(part.val.hashes)
        assert alone <= set(part.train.hashes)
        assert len(part.train.hashes) == len(set(part.train.hashes))
        assert set(part.train.target.tolist()) == set(range(len(counts))), "every class is trained"
        assert (part.classes, part.notes) == (data.classes, data.notes)
        for half in (part.train, part.val):
            check_consistent(half, data.train)
        # Stratified: each class is cut into equal parts, but for one image.
        for number, count in enumerate(counts):
            if count > 1:
                assert int((part.val.target == number).sum()) in (count // folds, -(-count // folds))


def test_the_seed_deals_the_images():
    first, again, other = (cross_validation(data_of(10, 10, 10), 3, seed) for seed in (0, 0, 1))
    assert [part.val.hashes for part in first] == [part.val.hashes for part in again]
    assert [part.val.hashes for part in first] != [part.val.hashes for part in other]


def test_too_few_images():
    for counts, folds in (((2, 2, 2), 3), ((1, 1, 1), 2), ((4, 1, 3), 5)):
        with pytest.raises(HeadError, match=f"too few photos for {folds} folds") as caught:
            cross_validation(data_of(*counts), folds, seed=0)
        assert caught.value.got == f"{max(counts)} in the largest"
        assert "folds" in caught.value.fix
