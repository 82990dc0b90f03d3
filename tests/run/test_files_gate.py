"""The gate's part of a run: what it needs lies beside it, and a foreign part is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid.config import HeadSettings
from hybrid.errors import ArtifactError
from hybrid.files import file_sha256
from hybrid.gate.decide import FittedGate
from hybrid.gate.gate import Gate, GateFit
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet
from hybrid.gate.rejection import Rejector
from hybrid.heads.linear import LinearHead
from hybrid.labels.prompts import Templates
from hybrid.run.files import GateInfo, HeadDraft, HeadFiles, HeadInfo, Layout, load_gate, read_gate

ENCODER = SimpleNamespace(name="an encoder", identity="0123abcd", fingerprint="4567cdef")
SIMPLE = Templates("simple", ("a photo of a {}.",))
GATE = Gate(fit=GateFit(images=9, classes=3, episodes=2))
REJECTOR = Rejector(bias=-1 / 3, text=0.25, entropy=-1.5, unknown=tuple(np.linspace(0, 1, 101).tolist()))


def fitted(seed: int = 0) -> FittedGate:
    rng = np.random.default_rng(seed)
    calibration_set = CalibrationSet(
        embeddings=rng.normal(size=(4, 5)),
        head_logits=rng.normal(size=(4, 3)),
        gda=rng.normal(size=(4, 3)),
        ood_score=rng.normal(size=4),
        baseline=rng.normal(size=4),
        target=np.array([0, 1, 2, 0]),
        uniform=rng.random(4),
    )
    memory = ClassGaussians.fit(rng.normal(size=(9, 5)), np.arange(9) % 3, 3)
    return FittedGate(GATE, memory, REJECTOR, calibration_set)


def publish(layout: Layout, gate: FittedGate, copy: bool = False) -> None:
    info = HeadInfo(
        settings=HeadSettings(kind="linear"),
        classes=("a", "b", "c"),
        encoder_identity="0123abcd",
        train_photos=2,
        val_photos=1,
        trained_on=("aa", "bb"),
    )
    with HeadDraft(layout, copy=copy) as draft:
        if not copy:
            draft.save(LinearHead(np.eye(3, 5, dtype=np.float32), np.zeros(3, np.float32), info.classes, "e"), info)
        draft.save_gate(gate, ENCODER, SIMPLE)
        draft.publish()


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "run")


def names(layout: Layout) -> set[str]:
    return {path.name for path in layout.head.iterdir()}


def test_all_of_a_fitted_gate_comes_back(layout):
    made = fitted()
    publish(layout, made)
    found, info = load_gate(layout)
    assert (found.gate, found.rejector, found.reason) == (GATE, REJECTOR, "")
    assert found.warning is None
    images = np.random.default_rng(1).normal(size=(6, 5))
    np.testing.assert_allclose(found.gaussians.logits(images), made.gaussians.logits(images), rtol=1e-3, atol=1e-3)
    for item in fields(CalibrationSet):
        np.testing.assert_allclose(
            getattr(found.calibration_set, item.name), getattr(made.calibration_set, item.name), rtol=1e-6
        )
    assert info.memory_sha256 == file_sha256(layout.head / HeadFiles.MEMORY)
    assert info.head_sha256 == file_sha256(layout.head / HeadFiles.WEIGHTS)
    assert (info.encoder_identity, info.templates) == ("0123abcd", SIMPLE)
    plain = json.loads((layout.head / HeadFiles.GATE).read_text())
    assert plain["rejector"]["bias"] == pytest.approx(-1 / 3, abs=1e-15)
    assert len(plain["rejector"]["unknown"]) == 101


def test_the_prior_keeps_its_memory_and_its_reason(layout):
    publish(layout, FittedGate(Gate(), fitted().gaussians, reason="5 classes; needed: 6"))
    assert names(layout) == {HeadFiles.SETTINGS, HeadFiles.WEIGHTS, HeadFiles.GATE, HeadFiles.MEMORY}
    found, _ = load_gate(layout)
    assert found.gate == Gate()
    assert found.gaussians is not None
    assert found.rejector is found.calibration_set is None
    assert "5 classes; needed: 6" in found.warning


def test_no_gate_says_why(layout):
    publish(layout, FittedGate(reason="no names"))
    assert names(layout) == {HeadFiles.SETTINGS, HeadFiles.WEIGHTS, HeadFiles.GATE}
    found, info = load_gate(layout)
    assert found == FittedGate(reason="no names")
    assert info.reason == "no names"


def test_a_gate_that_is_fitted_anew_leaves_nothing_of_the_old_one(layout):
    publish(layout, fitted(0))
    (layout.head / HeadFiles.LOG).write_text("of the training")
    publish(layout, fitted(1), copy=True)
    np.testing.assert_allclose(
        load_gate(layout)[0].calibration_set.ood_score, fitted(1).calibration_set.ood_score, rtol=1e-6
    )
    assert (layout.head / HeadFiles.LOG).read_text() == "of the training"
    publish(layout, FittedGate(Gate(), fitted().gaussians, reason="too little"), copy=True)
    assert not (layout.head / HeadFiles.HELD_OUT).exists()
    publish(layout, FittedGate(reason="no names"), copy=True)
    assert not (layout.head / HeadFiles.MEMORY).exists()
    assert (layout.head / HeadFiles.WEIGHTS).exists()


def test_a_draft_that_copies_and_is_not_published_changes_nothing(layout):
    publish(layout, fitted(0))
    before = {path.name: path.read_bytes() for path in layout.head.iterdir()}
    with HeadDraft(layout, copy=True) as draft:
        draft.save_gate(FittedGate(reason="no names"), ENCODER, SIMPLE)
    assert {path.name: path.read_bytes() for path in layout.head.iterdir()} == before
    assert [path.name for path in layout.root.iterdir()] == ["head"]


# What does not belong together


def test_another_memory(layout):
    publish(layout, fitted(0))
    fitted(1).gaussians.save(layout.head / HeadFiles.MEMORY)
    with pytest.raises(ArtifactError, match="fitted with other Gaussians") as caught:
        load_gate(layout)
    assert HeadFiles.MEMORY in caught.value.got
    assert caught.value.fix == "hybrid train-head"


@pytest.mark.parametrize("name", [HeadFiles.MEMORY, HeadFiles.HELD_OUT])
@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_files_of_the_gate_that_cannot_be_read(layout, name, damage):
    publish(layout, fitted())
    file = layout.head / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match=f"{name} is missing or damaged") as caught:
        load_gate(layout)
    assert caught.value.fix == ("hybrid train-head" if name == HeadFiles.MEMORY else "hybrid fit-gate")


def test_the_gate_of_an_older_version_names_the_fix(layout):
    """As the first release wrote it: the mass gate, no rejector, no memory."""
    publish(layout, fitted())
    file = layout.head / HeadFiles.GATE
    new = json.loads(file.read_text())
    old = {name: new[name] for name in ("format", "reason", "encoder_identity", "head_sha256", "templates")}
    gate = {"kind": "mass", "head_temperature": 0.7, "zero_shot_temperature": 1.3, "photos": 9, "classes": 3}
    file.write_text(json.dumps(old | {"gate": gate}))
    for read in (load_gate, read_gate):
        with pytest.raises(ArtifactError, match=r"gate\.json is damaged or of another version") as caught:
            read(layout)
        assert "mass" in caught.value.got
        assert "hybrid fit-gate --templates simple" in caught.value.fix
        assert "hybrid train-head" in caught.value.fix


def test_a_head_without_gate_json_names_the_fix(layout):
    publish(layout, fitted())
    (layout.head / HeadFiles.GATE).unlink()
    with pytest.raises(ArtifactError, match=r"lacks gate\.json") as caught:
        load_gate(layout)
    assert "hybrid fit-gate" in caught.value.fix


def test_gate_info_needs_no_more_than_the_gate():
    info = GateInfo(gate=None, encoder_identity="e", head_sha256="h", templates=SIMPLE)
    assert (info.rejector, info.memory_sha256, info.reason) == (None, "", "")
