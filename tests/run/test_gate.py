"""`fit_run_gate` on made-up images: what it hands on, what it refuses, what it does without."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from unittest.mock import Mock

import msgspec
import numpy as np
import pytest

from hybrid.errors import GateError
from hybrid.gate import fit as gate_fit
from hybrid.gate.calibration import fit_temperature
from hybrid.gate.episodes import class_folds
from hybrid.gate.gate import Gate
from hybrid.gate.support import SupportGate
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.images.records import ImageRecord
from hybrid.run import gate as gating
from hybrid.run.gate import fit_run_gate

SCALE = 20.0


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def images(rng: np.random.Generator, centers: np.ndarray, count: int, split: str) -> LabeledImages:
    target = np.repeat(np.arange(len(centers)), count)
    embeddings = unit(centers[target] + 0.25 * rng.normal(size=(len(target), centers.shape[1])))
    paths = [f"/{split}/{c}/{i}.jpg" for i, c in enumerate(target)]
    hashes = tuple(hashlib.sha256(path.encode()).hexdigest() for path in paths)
    records = tuple(ImageRecord(path, "/", str(c), split, 1, 1) for path, c in zip(paths, target, strict=True))
    return LabeledImages(records, hashes, target, embeddings)


def make(classes: int = 7, val: int = 6) -> tuple[TrainingSet, np.ndarray, np.ndarray]:
    """A training set, the head's logits of its validation images, and the texts."""
    rng = np.random.default_rng(0)
    centers = unit(rng.normal(size=(classes, 9)))
    data = TrainingSet(
        tuple(f"class {c}" for c in range(classes)),
        images(rng, centers, 5, "train"),
        images(rng, centers, val, "val"),
        (),
    )
    logits = (10 * data.val.embeddings @ centers.T).astype(np.float32)
    return data, logits, unit(centers + 0.15 * rng.normal(size=centers.shape))


def test_what_a_fit_gives():
    data, logits, texts = make()
    fitted = fit_run_gate(data, logits, texts, SCALE)
    assert (fitted.warning, fitted.reason) == (None, "")
    fit = fitted.gate.fit
    assert (fit.images, fit.classes, fit.episodes, fit.folds) == (42, 7, 3, "memory")
    assert fitted.gate.gate.head_uncertainty == 0
    assert fitted.gaussians.counts.tolist() == [11] * 7
    held = fitted.calibration_set
    assert np.array_equal(held.embeddings, data.val.embeddings)
    assert np.array_equal(held.head_logits, logits)
    assert np.array_equal(held.target, data.val.target)
    assert held.gda.shape == (42, 7)
    assert held.ood_score.shape == held.baseline.shape == (42,)
    assert np.isfinite(held.baseline).all()
    first = int(data.val.hashes[0][:4], 16) / 0x10000
    assert held.uniform[0] == pytest.approx(first, abs=2e-5)
    assert len(fitted.rejector.unknown) == 101
    # Held-out scores leave the image out: a memory that holds it flatters its own class.
    own = np.arange(7) == data.val.target[:, None]

    def surplus(scores: np.ndarray) -> np.ndarray:
        return scores[own] - np.where(own, -np.inf, scores).max(axis=1)

    flattered = surplus(fitted.gaussians.logits(data.val.embeddings) / 10)
    assert np.mean(surplus(held.gda) < flattered) > 0.8


def test_what_is_refused():
    data, logits, texts = make()
    copies = list(data.val.hashes)
    copies[3], copies[5] = data.train.hashes[0], data.train.hashes[7]
    leaky = replace(data, val=replace(data.val, hashes=tuple(copies)))
    with pytest.raises(GateError, match="2 validation photos trained the head") as caught:
        fit_run_gate(leaky, logits, texts, SCALE)
    assert caught.value.got == f"{data.val.records[3].path}, {data.val.records[5].path}"
    assert caught.value.fix
    with pytest.raises(GateError, match="cannot fit") as caught, np.errstate(invalid="ignore"):
        fit_run_gate(data, np.full_like(logits, np.nan), texts, SCALE)
    assert caught.value.expected == "finite scores"
    # Where there is too little to fit, too.
    data, logits, texts = make(classes=3)
    leaky = replace(data, val=replace(data.val, hashes=(data.train.hashes[0], *data.val.hashes[1:])))
    with pytest.raises(GateError, match="1 validation photos trained the head"):
        fit_run_gate(leaky, logits, texts, SCALE)


def test_too_little_falls_to_the_documented_prior():
    for classes, val, got in ((5, 20, "5 classes and 100 photos"), (7, 4, "7 classes and 28 photos")):
        data, logits, texts = make(classes, val)
        fitted = fit_run_gate(data, logits, texts, SCALE, fold_logits=lambda held: pytest.fail("a head was trained"))
        assert fitted.gate == Gate()
        assert fitted.rejector is None
        assert fitted.calibration_set is None
        assert fitted.gaussians.counts.tolist() == [5 + val] * classes
        for text in (fitted.reason, fitted.warning):
            assert got in text
            assert "at least 6 seen classes and 30 validation photos" in text
        assert "documented prior" in fitted.warning
    assert fit_run_gate(*make(classes=6, val=5), SCALE).gate.fit is not None, "just enough"


# Heads of the episodes


@pytest.fixture
def handed_on(monkeypatch):
    """The arguments of `calibrate`."""
    calls = []
    original = gating.calibrate
    monkeypatch.setattr(gating, "calibrate", lambda *arguments: calls.append(arguments) or original(*arguments))
    return calls


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_episodes_heads_are_brought_to_the_heads_calibration(handed_on, factor):
    data, logits, texts = make(val=30)
    prompted = []

    def fold_logits(held: tuple[int, ...]) -> np.ndarray:
        prompted.append(held)
        return factor * np.delete(logits, held, axis=1)

    fitted = fit_run_gate(data, logits, texts, SCALE, folds="frozen", fold_logits=fold_logits)
    assert tuple(prompted) == class_folds(7)
    assert fitted.gate.fit.folds == "frozen"
    own = fit_temperature(logits, data.val.target)
    ((*_, held_out, given, _, _),) = handed_on
    assert tuple(held_out) == class_folds(7)
    for held, found in zip(held_out, given, strict=True):
        rows = ~np.isin(data.val.target, held)
        plain = np.delete(logits, held, axis=1)
        # All of it, the held-out classes' images too, times one number.
        assert found.shape == (210, 7 - len(held))
        np.testing.assert_allclose(found, plain * np.median(found / plain), rtol=1e-4, atol=1e-5)
        kept = np.setdiff1d(np.arange(7), held)
        target = np.array([kept.tolist().index(t) for t in data.val.target[rows]])
        assert fit_temperature(found[rows], target) == pytest.approx(own, rel=0.15)


def test_the_seed_deals_classes_and_images(handed_on):
    """Without heads for them, the episodes ask none; the same seed gives the same gate."""
    fits = [fit_run_gate(*make(), SCALE, seed=seed).gate for seed in (4, 4, 0)]
    assert fits[0] == fits[1] != fits[2]
    assert tuple(handed_on[0][5]) == class_folds(7, 4) != tuple(handed_on[2][5]) == class_folds(7)
    assert [call[6:8] for call in handed_on] == [(None, 4), (None, 4), (None, 0)]


# Support images


def test_what_support_images_add_is_fitted_on_every_variant(monkeypatch):
    data, logits, texts = make()
    calls = []
    original = gate_fit.fit_support
    monkeypatch.setattr(gate_fit, "fit_support", lambda *arguments: calls.append(arguments) or original(*arguments))
    fitted = fit_run_gate(data, logits, texts, SCALE)
    ((gate, named, image_only),) = calls
    assert gate.fit is not None
    assert not gate.support.fitted
    assert fitted.gate == original(gate, named, image_only)
    assert fitted.gate.support.fitted
    # Three episodes, five numbers of images; support for all classes, or for every other one.
    assert len(list(named)) == len(list(image_only)) == 3 * 5 * 3
    assert {count for part in named for count in part.evidence.support.counts.tolist()} == {1, 2, 4, 5}
    sizes = [7 / len(held) - 1 for held in class_folds(7)]
    assert fitted.gate.support.boost == pytest.approx(np.mean(sizes))
    # Where it cannot be fitted the gate stays.
    monkeypatch.setattr(gate_fit, "fit_support", Mock(side_effect=GateError("the fit did not converge")))
    without = fit_run_gate(data, logits, texts, SCALE)
    assert without.gate == msgspec.structs.replace(fitted.gate, support=SupportGate())
    assert without.rejector == fitted.rejector
    assert without.reason == "for support photos the documented prior serves: the fit did not converge"
