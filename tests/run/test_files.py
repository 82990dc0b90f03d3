from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.device import Compute
from hybrid.errors import ArtifactError, HeadError
from hybrid.gate.decide import FittedGate
from hybrid.gate.gate import Gate, GateFit
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet
from hybrid.gate.rejection import Rejector
from hybrid.heads.linear import LinearHead
from hybrid.labels.prompts import PromptClass, Templates
from hybrid.run.files import (
    FORMAT,
    GateInfo,
    HeadDraft,
    HeadFiles,
    HeadInfo,
    Layout,
    RunInfo,
    SavedPrompts,
    file_sha256,
    load_gate,
    load_head,
    read_gate,
    read_json,
    read_prompts,
    read_run,
    write_json,
    write_run,
)

CPU = Compute("cpu", "fp32", "test")
CLASSES = ("cat", "dog", "emu")
ENCODER = SimpleNamespace(name="an encoder", identity="0123abcd", fingerprint="4567cdef")
SIMPLE = Templates("simple", ("a photo of a {}.",))
GATE = Gate(head_temperature=0.7, fit=GateFit(images=9, classes=3, episodes=2))
REJECTOR = Rejector(bias=-1 / 3, text=0.25, entropy=-1.5, unknown=tuple(np.linspace(0, 1, 101).tolist()))
BARE_FILES = {HeadFiles.SETTINGS, HeadFiles.WEIGHTS, HeadFiles.GATE}
FILES = BARE_FILES | {HeadFiles.MEMORY, HeadFiles.HELD_OUT}
INFO = HeadInfo(
    settings=HeadSettings(kind="linear", l2_c=3.5, dropout=(0.1, 0.2), backbone_args={"pad_type": "same", "n": [1, 2]}),
    classes=CLASSES,
    encoder_identity="0123abcd",
    train_photos=2,
    val_photos=1,
    trained_on=("aa", "bb"),
    notes=("a note: ü",),
)


def linear_head(seed: int) -> LinearHead:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    return LinearHead(weight, bias, CLASSES, "0123abcd")


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
    return FittedGate(GATE, ClassGaussians.fit(rng.normal(size=(9, 5)), np.arange(9) % 3, 3), REJECTOR, calibration_set)


FITTED = fitted()


def fill(draft: HeadDraft, seed: int, gate: FittedGate = FITTED) -> None:
    draft.save(linear_head(seed), INFO)
    draft.save_gate(gate, ENCODER, SIMPLE)


def publish(layout: Layout, seed: int, gate: FittedGate = FITTED) -> None:
    with HeadDraft(layout) as draft:
        fill(draft, seed, gate)
        draft.publish()


def publish_gate(layout: Layout, gate: FittedGate) -> None:
    with HeadDraft(layout, copy=True) as draft:
        draft.save_gate(gate, ENCODER, SIMPLE)
        draft.publish()


def contents(layout: Layout) -> dict[str, bytes]:
    assert [path.name for path in layout.root.iterdir()] == ["head"]
    return {path.name: path.read_bytes() for path in layout.head.iterdir()}


def seed_of(layout: Layout) -> int:
    """Which of the heads of this file the run holds, its gate included."""
    head, info = load_head(layout, CPU)
    assert info == INFO
    assert load_gate(layout)[0].gate == GATE
    return next(seed for seed in range(5) if np.array_equal(linear_head(seed).weight, head.weight))


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "run")


class Killed(BaseException):
    """Stands for the end of the process: nothing of the library runs after it."""


def publish_killed_at_rename(layout: Layout, seed: int, number: int, monkeypatch) -> None:
    """Publish a draft, and let the process end before the rename of this number, counted from 0."""
    draft = HeadDraft(layout).__enter__()
    fill(draft, seed)
    done = []

    def rename(self: Path, target: Path) -> Path:
        if len(done) == number:
            raise Killed
        done.append(target)
        return self.replace(target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            draft.publish()


# JSON


def test_what_is_written_is_read(tmp_path):
    file, gate = tmp_path / "part.json", {"encoder_identity": "e", "head_sha256": "h"}
    templates = Templates("my.txt", ("a {}.", "my {}!"))
    for value in (
        INFO,
        GateInfo(gate=GATE, rejector=REJECTOR, memory_sha256="m", templates=SIMPLE, **gate),
        GateInfo(gate=None, reason="no names", templates=templates, **gate),
        RunInfo(encoder=EncoderSettings(model="tiny"), encoder_name="n", encoder_identity="i", encoder_fingerprint="f"),
        SavedPrompts(classes=(PromptClass("größer", ("a: 'b'", "c")), PromptClass("d")), templates=SIMPLE),
        SavedPrompts(classes=()),
    ):
        write_json(file, value)
        assert read_json(file, type(value)) == value
        assert [path.name for path in tmp_path.iterdir()] == ["part.json"]
        text = file.read_text(encoding="utf-8")
        assert json.loads(text)["format"] == FORMAT
        assert text.count("\n") > 3, "for people to read"


def test_another_format_and_damaged_json(tmp_path):
    file = tmp_path / "head.json"
    for number in (0, FORMAT + 1, "1", None):
        file.write_text(json.dumps({"format": number} if number is not None else {"classes": []}))
        with pytest.raises(ArtifactError, match="another format") as caught:
            read_json(file, HeadInfo)
        assert f"format {FORMAT}" in caught.value.expected
        assert caught.value.got == str(number)
    write_json(file, INFO)
    data = file.read_bytes()
    for damaged in (
        b"",
        data[: len(data) // 2],
        b"[1, 2]",
        b"null",
        data.replace(b'"cat"', b"17"),
        data.replace(b'"train_photos": 2,', b""),
        data.replace(b'"cat"', b'"\xff"'),
        data + b"}",
    ):
        file.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="is damaged"):
            read_json(file, HeadInfo)
    with pytest.raises(ArtifactError, match=r"lacks gate\.json"):
        read_json(tmp_path / "gate.json", GateInfo)


def test_run_json_and_saved_prompts(layout):
    assert read_prompts(layout) is None
    assert not layout.root.exists()
    with pytest.raises(ArtifactError, match="there is no run") as caught:
        read_run(layout)
    assert f"--run {layout.root}" in caught.value.fix
    settings = EncoderSettings(model="precomputed:/a/b.npz", pretrained=None, precision="fp32")
    write_run(layout, settings, ENCODER)
    info = read_run(layout)
    assert (info.encoder, info.encoder_name) == (settings, "an encoder")
    assert (info.encoder_identity, info.encoder_fingerprint) == ("0123abcd", "4567cdef")
    assert list(layout.root.iterdir()) == [layout.run]
    prompts = SavedPrompts(classes=(PromptClass("zebra", ("striped horse",)),), templates=SIMPLE)
    write_json(layout.prompts, prompts)
    assert read_prompts(layout) == prompts
    layout.prompts.write_text(json.dumps({"format": FORMAT, "classes": [{"name": "zebra"}]}))
    assert read_prompts(layout) == SavedPrompts(classes=(PromptClass("zebra"),), templates=None)
    layout.prompts.write_text("{")
    with pytest.raises(ArtifactError, match=r"prompts\.json is damaged") as caught:
        read_prompts(layout)
    assert caught.value.fix == f"remove {layout.prompts}"


# The head's folder


def test_publish_takes_the_old_heads_place_whole(layout):
    assert load_head(layout, CPU) is None
    assert not layout.root.exists()
    publish(layout, 1)
    assert seed_of(layout) == 1
    head, _ = load_head(layout, CPU)
    assert (head.classes, head.encoder_identity) == (CLASSES, "0123abcd")
    assert np.array_equal(head.bias, linear_head(1).bias)
    (layout.head / "log.csv").write_text("of the first head")
    # A draft starts without the rest of a killed one.
    killed = HeadDraft(layout).__enter__()
    (killed.folder / "log.csv").write_text("of a killed training")
    publish(layout, 2)
    assert seed_of(layout) == 2
    assert set(contents(layout)) == FILES


def test_a_training_that_fails_leaves_the_old_head(layout):
    publish(layout, 1)
    before = contents(layout)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), HeadDraft(layout) as draft:  # noqa: PT012
            fill(draft, 2)
            raise error
        assert contents(layout) == before
    with HeadDraft(layout, copy=True) as draft:  # not published
        draft.save_gate(FittedGate(reason="no names"), ENCODER, SIMPLE)
    assert contents(layout) == before


def test_killed_between_the_two_renames_of_publish(layout, monkeypatch):
    for number in (None, 0, 1, 2):
        publish(layout, 1)
        publish_killed_at_rename(layout, 2, 1, monkeypatch)
        assert not layout.head.exists()
        assert (layout.root / "head.old").is_dir()
        if number is not None:
            publish_killed_at_rename(layout, 3, number, monkeypatch)
        assert seed_of(layout) == 1
        publish(layout, 3)
        assert seed_of(layout) == 3
        assert [path.name for path in layout.root.iterdir()] == ["head"]


def test_a_gate_serves_no_other_head(layout):
    publish(layout, 1)
    gate = layout.head / HeadFiles.GATE
    kept = gate.read_bytes()
    publish(layout, 2)
    assert load_gate(layout)[1].head_sha256 == file_sha256(layout.head / HeadFiles.WEIGHTS)
    gate.write_bytes(kept)
    with pytest.raises(ArtifactError, match="another head") as caught:
        load_gate(layout)
    assert "train-head" in caught.value.fix


def test_a_head_that_lacks_a_file_or_is_damaged(layout):
    for name, message in ((HeadFiles.SETTINGS, r"lacks head\.json"), (HeadFiles.WEIGHTS, "has no weights")):
        publish(layout, 1)
        (layout.head / name).unlink()
        with pytest.raises(ArtifactError, match=message):
            load_head(layout, CPU)
    publish(layout, 1)
    weights = layout.head / HeadFiles.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(HeadError, match="damaged") as caught:
        load_head(layout, CPU)
    assert "train-head" in caught.value.fix


# What a gate needs lies beside it, and a foreign part is refused


def test_all_of_a_fitted_gate_comes_back(layout):
    publish(layout, 1)
    loaded, info = load_gate(layout)
    assert (loaded.gate, loaded.rejector, loaded.reason, loaded.warning) == (GATE, REJECTOR, "", None)
    images = np.random.default_rng(1).normal(size=(6, 5))
    np.testing.assert_allclose(loaded.gaussians.logits(images), FITTED.gaussians.logits(images), rtol=1e-3, atol=1e-3)
    for item in fields(CalibrationSet):
        values, expected = (getattr(gate.calibration_set, item.name) for gate in (loaded, FITTED))
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert info.memory_sha256 == file_sha256(layout.head / HeadFiles.MEMORY)
    assert info.head_sha256 == file_sha256(layout.head / HeadFiles.WEIGHTS)
    assert (info.encoder_identity, info.templates) == ("0123abcd", SIMPLE)
    plain = json.loads((layout.head / HeadFiles.GATE).read_text())
    assert plain["rejector"]["bias"] == pytest.approx(-1 / 3, abs=1e-15)
    assert len(plain["rejector"]["unknown"]) == 101


def test_a_gate_that_is_fitted_anew_leaves_nothing_of_the_old_one(layout):
    publish(layout, 1)
    (layout.head / HeadFiles.LOG).write_text("of the training")
    publish_gate(layout, fitted(1))
    ood_score = load_gate(layout)[0].calibration_set.ood_score
    np.testing.assert_allclose(ood_score, fitted(1).calibration_set.ood_score, rtol=1e-6)
    assert (layout.head / HeadFiles.LOG).read_text() == "of the training"
    # The prior keeps its memory and its reason.
    publish_gate(layout, FittedGate(Gate(), FITTED.gaussians, reason="5 classes; needed: 6"))
    assert set(contents(layout)) == {*BARE_FILES, HeadFiles.MEMORY, HeadFiles.LOG}
    loaded, _ = load_gate(layout)
    assert loaded.gate == Gate()
    assert loaded.gaussians is not None
    assert loaded.rejector is loaded.calibration_set is None
    assert "5 classes; needed: 6" in loaded.warning
    publish_gate(layout, FittedGate(reason="no names"))
    assert set(contents(layout)) == {*BARE_FILES, HeadFiles.LOG}
    loaded, info = load_gate(layout)
    assert loaded == FittedGate(reason="no names")
    assert (info.reason, info.rejector, info.memory_sha256) == ("no names", None, "")


def test_files_of_the_gate_that_do_not_belong_to_it_or_cannot_be_read(layout):
    publish(layout, 1)
    fitted(1).gaussians.save(layout.head / HeadFiles.MEMORY)
    with pytest.raises(ArtifactError, match="fitted with other Gaussians") as caught:
        load_gate(layout)
    assert HeadFiles.MEMORY in caught.value.got
    assert caught.value.fix == "hybrid train-head"
    for name, fix in ((HeadFiles.MEMORY, "hybrid train-head"), (HeadFiles.HELD_OUT, "hybrid fit-gate")):
        for damage in (Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-7])):
            publish(layout, 1)
            damage(layout.head / name)
            with pytest.raises(ArtifactError, match=f"{name} is missing or damaged") as caught:
                load_gate(layout)
            assert caught.value.fix == fix


def test_the_gate_of_an_older_version_names_the_fix(layout):
    """As the first release wrote it: the mass gate, no rejector, no memory."""
    publish(layout, 1)
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
    file.unlink()
    with pytest.raises(ArtifactError, match=r"lacks gate\.json") as caught:
        load_gate(layout)
    assert "hybrid fit-gate" in caught.value.fix
