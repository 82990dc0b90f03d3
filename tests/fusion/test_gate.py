"""The mass gate against its formula in plain numbers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from hybrid.artifact import GateInfo, read_json, write_json
from hybrid.errors import GateError
from hybrid.fusion.calibration import fit_temperature
from hybrid.fusion.gate import MassGate, fit_mass_gate
from hybrid.prompts import Templates

GATE = MassGate(head_temperature=2.0, zero_shot_temperature=0.5, photos=100, classes=3)
ONES = MassGate(head_temperature=1.0, zero_shot_temperature=1.0, photos=1, classes=3)


def softmax(row: np.ndarray) -> np.ndarray:
    return np.exp(row) / np.exp(row).sum()


def draw(seed: int, photos: int = 40, unseen: int = 4, size: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return size * rng.normal(size=(photos, 3)), size * rng.normal(size=(photos, 3 + unseen))


def test_by_hand():
    """Probabilities that are simple fractions, at temperature 1."""
    head = np.log([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    zero_shot = np.log([[0.1, 0.2, 0.1, 0.4, 0.2], [0.16, 0.04, 0.6, 0.1, 0.1]])
    fused = ONES.fuse(head, zero_shot)
    np.testing.assert_allclose(fused.p_unseen, [0.6, 0.2], rtol=1e-12)
    np.testing.assert_allclose(np.exp(fused.zero_shot), [[0.25, 0.5, 0.25], [0.2, 0.05, 0.75]], rtol=1e-12)
    np.testing.assert_allclose(np.exp(fused.head), np.exp(head), rtol=1e-12)
    # Photo 1: sqrt(1/8), sqrt(1/8), sqrt(1/16): as 2 sqrt 2 : 2 sqrt 2 : 2; photo 2: 0.2, 0.1, sqrt(0.45)
    first = np.array([2**0.5, 2**0.5, 1]) / (2 * 2**0.5 + 1) * 0.4
    second = np.array([0.2, 0.1, 0.45**0.5]) / (0.3 + 0.45**0.5) * 0.8
    expected = [[*first, 0.4, 0.2], [*second, 0.1, 0.1]]
    np.testing.assert_allclose(np.exp(fused.log_probabilities), expected, rtol=1e-12)


def test_temperatures_divide_each_experts_logits():
    head, zero_shot = np.array([[2.0, -4.0, 0.5]]), np.array([[1.0, 0.25, -1.0, 0.5, 2.0]])
    joint = softmax(zero_shot[0] * 2)
    opinion = np.sqrt(softmax(head[0] / 2) * joint[:3] / joint[:3].sum())
    expected = [*(opinion / opinion.sum() * joint[:3].sum()), *joint[3:]]
    fused = GATE.fuse(head, zero_shot)
    np.testing.assert_allclose(np.exp(fused.log_probabilities[0]), expected, rtol=1e-12)
    assert fused.p_unseen[0] == pytest.approx(joint[3:].sum(), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_promises_of_the_answer(seed):
    head, zero_shot = draw(seed)
    fused = GATE.fuse(head, zero_shot)
    answer = np.exp(fused.log_probabilities)
    assert answer.shape == zero_shot.shape
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(answer[:, 3:].sum(axis=1), fused.p_unseen, rtol=1e-12)
    # Among the unseen the zero-shot proportions hold, and so does their whole share.
    joint = np.array([softmax(row / 0.5) for row in zero_shot])
    np.testing.assert_allclose(answer[:, 3:], joint[:, 3:], rtol=1e-10)
    for opinion in (fused.head, fused.zero_shot):
        assert opinion.shape == (40, 3)
        np.testing.assert_allclose(np.exp(opinion).sum(axis=1), 1, rtol=1e-12)


def test_without_unseen_classes_nothing_is_unseen():
    head, zero_shot = draw(0, unseen=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused = GATE.fuse(head, zero_shot)
    assert np.array_equal(fused.p_unseen, np.zeros(40))
    np.testing.assert_allclose(np.exp(fused.log_probabilities).sum(axis=1), 1, rtol=1e-12)


def test_no_photos():
    fused = GATE.fuse(np.empty((0, 3)), np.empty((0, 5)))
    assert fused.log_probabilities.shape == (0, 5)
    assert fused.p_unseen.shape == (0,)


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("unseen", [0, 1, 3])
def test_extreme_logits_give_no_nan(temperature, unseen):
    corners = np.array(np.meshgrid(*[[-1e4, 0.0, 1e4]] * 3)).reshape(3, -1).T
    head = corners.astype(np.float32)
    zero_shot = np.concatenate([corners[::-1], corners[:, :unseen]], axis=1).astype(np.float32)
    gate = MassGate(head_temperature=temperature, zero_shot_temperature=temperature, photos=1, classes=3)
    fused = gate.fuse(head, zero_shot)
    for numbers in (fused.log_probabilities, fused.head, fused.zero_shot):
        assert not np.isnan(numbers).any()
        assert (numbers <= 1e-9).all()
    np.testing.assert_allclose(np.exp(fused.log_probabilities).sum(axis=1), 1, rtol=1e-9)
    assert ((fused.p_unseen >= 0) & (fused.p_unseen <= 1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("head", "zero_shot"),
    [((2, 4), (2, 6)), ((2, 3), (3, 6)), ((2, 3), (2, 2)), ((3,), (2, 5)), ((2, 3), (5,)), ((2, 2), (2, 5))],
)
def test_shapes_that_do_not_fit(head, zero_shot):
    with pytest.raises(GateError, match="do not fit") as caught:
        GATE.fuse(np.zeros(head), np.zeros(zero_shot))
    assert str(head) in caught.value.got
    assert str(zero_shot) in caught.value.got
    assert "(n, 3)" in caught.value.expected


def test_fit_takes_each_experts_temperature():
    head, zero_shot = draw(0, photos=200, unseen=0)
    target = np.random.default_rng(1).integers(3, size=200)
    gate = fit_mass_gate(head, zero_shot, target)
    assert gate.head_temperature == fit_temperature(head, target)
    assert gate.zero_shot_temperature == fit_temperature(zero_shot, target)
    assert gate.head_temperature != gate.zero_shot_temperature
    assert (gate.photos, gate.classes) == (200, 3)
    with pytest.raises(GateError, match="no validation photos"):
        fit_mass_gate(np.empty((0, 3)), np.empty((0, 3)), np.empty(0, dtype=np.intp))


def test_it_is_kept_as_plain_numbers(tmp_path):
    gate = MassGate(head_temperature=1 / 3, zero_shot_temperature=1.7e-3, photos=7, classes=3)
    file = tmp_path / "gate.json"
    write_json(
        file,
        GateInfo(
            gate=gate, encoder_identity="e", head_sha256="h", templates=Templates("simple", ("a photo of a {}.",))
        ),
    )
    text = file.read_text()
    assert '"kind": "mass"' in text
    assert '"head_temperature": 0.3333333333333333' in text
    assert '"classes": 3' in text
    found = read_json(file, GateInfo).gate
    assert found == gate
    head, zero_shot = draw(0)
    assert np.array_equal(found.fuse(head, zero_shot).log_probabilities, gate.fuse(head, zero_shot).log_probabilities)


def test_describe_says_what_was_fitted_on_what():
    text = " ".join(GATE.describe())
    assert "head 2," in text
    assert "zero-shot 0.5," in text
    assert "100 validation photos of 3 seen classes" in text
